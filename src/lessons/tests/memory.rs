//! The memory of the records: the lock, the table, the next configuration.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::super::words::{since, CAUTIOUS, CAUTIOUS_UNTIL, LOCK};
use super::*;

const DEAD: u64 = 8;
const SEES_DEAD: Witness = Witness { process: 7, is_alive: |process| process != DEAD };

fn all(words: &'static [AtomicU64], last: Option<&Lessons>) -> Lessons {
    let own = Lessons::new(words, Box::new(()));
    last.into_iter().for_each(|last| own.inherit_others(last, NOW));
    own
}

fn address(number: usize) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

/// More servers than a block has room for.
const MANY: usize = 5000;

/// The body of the record of a lesson.
fn body(lesson: Lesson) -> &'static Body {
    lesson.parts().unwrap().1
}

/// The records that belong to a server.
fn taken(lessons: &Lessons) -> impl Iterator<Item = Record> + '_ {
    lessons.records().filter(|record| Owner::of(record.0).key() != 0)
}

#[test]
fn what_is_seen_while_another_process_has_the_lock_is_not_noted() {
    let lesson = lesson();
    body(lesson)[LOCK].store(9, Relaxed);
    assert_eq!(lesson.closed(&ALIVE, NOW, 1000, 1, 0), None);
    assert_eq!(lesson.expires(NOW, 1000), Verdict::Keep(None));
    assert_eq!(lesson.reach(&ALIVE, NOW, 100, true), (Verdict::Keep(None), None));
    assert!(lesson.known().is_nothing());
    assert_eq!(body(lesson)[LOCK].load(Relaxed), 9);
}

#[test]
fn a_process_that_was_killed_loses_the_lock() {
    let lesson = lesson();
    body(lesson)[LOCK].store(DEAD, Relaxed);
    lesson.closed(&SEES_DEAD, NOW, 1000, 1, 0);
    assert!(!lesson.known().is_nothing());
    assert_eq!(body(lesson)[LOCK].load(Relaxed), 0);
}

#[test]
fn processes_change_a_record_one_after_the_other() {
    let lesson = lesson();
    std::thread::scope(|scope| {
        for process in 1..=4 {
            scope.spawn(move || {
                for turn in 0..2000 {
                    let who = Witness { process, is_alive: |_| true };
                    lesson.closed(&who, NOW + turn, 1000, 1, 0);
                    assert!(lesson.age(Margin::Share).is_none_or(|bound| match bound {
                        Bound::Limit(limit) => limit == 997,
                        Bound::Watch(watch) => watch == 1500,
                    }));
                }
            });
        }
    });
    assert_eq!(lesson.believes(NOW), Some(1000));
    assert_eq!(body(lesson)[LOCK].load(Relaxed), 0);
}

#[test]
fn nothing_is_learned_without_a_record() {
    for _ in 0..10 {
        assert_eq!(Lesson::none().closed(&ALIVE, NOW, 1000, 1, 0), None);
        assert_eq!(Lesson::default().serves_more(&ALIVE, NOW, 1), None);
    }
    assert!(Lesson::none().known().is_nothing());
    assert_eq!(Lesson::none().expires(NOW, 1000), Verdict::Keep(None));
}

#[test]
fn addresses_have_records_of_their_own() {
    let lessons = all(words(2), None);
    lessons.of(b"10.0.0.1", NOW).closes(NOW, &[1000; 4]);
    lessons.of(b"10.0.0.2", NOW).closes(NOW, &[2000; 4]);
    assert_eq!(lessons.of(b"10.0.0.1", NOW).believes(NOW), Some(1000));
    assert_eq!(lessons.of(b"10.0.0.2", NOW).believes(NOW), Some(2000));
    assert_eq!(lessons.view(b"10.0.0.1", NOW).age, Some((1000, 4)));
    assert_eq!(lessons.view(b"10.0.0.3", NOW), View::default());
    assert!(format!("{lessons:?}").starts_with("Lessons { records: "));
    assert_ne!(fingerprint(b""), 0);
    assert_ne!(fingerprint(b"\0"), fingerprint(b"\0\0"));
}

#[test]
fn a_full_table_gives_no_record() {
    let lessons = lessons();
    for number in 0..MANY {
        lessons.of(&address(number), NOW).closed(&ALIVE, NOW, 1000, 1, 0);
    }
    assert_eq!(taken(&lessons).count(), IN_BLOCK);
    let known = (0..MANY).filter(|number| !lessons.of(&address(*number), NOW).known().is_nothing()).count();
    assert_eq!(known, IN_BLOCK);
}

#[test]
fn the_record_of_a_server_that_is_not_used_goes_to_another_one() {
    let lessons = lessons();
    for number in 0..MANY {
        let lesson = lessons.of(&address(number), NOW);
        // Of some nothing is known.
        if number % 2 == 0 {
            lesson.closes(NOW, &[1000; 4]);
        }
    }
    let later = NOW + UNUSED as Msec * Owner::UNIT;
    assert!(lessons.of(b"new", later).known().is_nothing());
    lessons.of(b"new", later).closes(later, &[1000; 4]);
    assert_eq!(lessons.view(b"new", later).age, None);
    let later = later + Owner::UNIT;
    assert!(lessons.of(b"new", later).known().is_nothing());
    lessons.of(b"new", later).closes(later, &[2000; 4]);
    assert_eq!(lessons.view(b"new", later).age, Some((2000, 4)));
    // One whose lock another process has stays where it is.
    taken(&lessons).for_each(|record| record.1[LOCK].store(9, Relaxed));
    (0..MANY).for_each(|number| assert!(lessons.of(&address(MANY + number), later).known().is_nothing()));
    let kept = taken(&lessons).filter(|record| record.known() != 0);
    assert!(kept.count() > IN_BLOCK / 4);
    assert_eq!(lessons.view(b"new", later).age, Some((2000, 4)));
}

#[test]
fn the_next_configuration_begins_with_what_is_known() {
    let before = all(words(4), None);
    for number in 0..4 {
        let lesson = before.of(&address(number), NOW);
        let now = lesson.closes(NOW, &[1000 + number; 4]);
        assert!(matches!(lesson.expires(now, 1000 + number), Verdict::Watch(_)));
    }
    let next = all(words(400), Some(&before));
    assert!(taken(&next).all(|record| Owner::of(record.0).unused(NOW) > UNUSED));
    for number in 0..4 {
        let lesson = next.of(&address(number), NOW);
        assert_eq!(lesson.limit(), before.of(&address(number), NOW).limit());
        assert_eq!(lesson.believes(NOW), Some(1000 + number as u32));
        // A watcher of the old workers does not keep the new ones from watching.
        assert!(matches!(lesson.expires(NOW, 1000 + number), Verdict::Watch(_)));
    }
    let used = taken(&next).filter(|record| Owner::of(record.0).unused(NOW) == 0).count();
    assert_eq!((used, taken(&next).count()), (4, 4));
    assert!(next.records().all(|record| record.1[LOCK].load(Relaxed) == 0));
}

#[test]
fn a_smaller_configuration_takes_what_it_has_room_for() {
    let before = all(words(MANY), None);
    for number in 0..MANY {
        before.of(&address(number), NOW).closes(NOW, &[1000; 4]);
    }
    let after = all(words(1), Some(&before));
    let known = after.records().filter(|record| record.known() != 0).count();
    assert_eq!(known, IN_BLOCK);
}

/// To touch memory costs memory.
#[test]
fn a_body_is_touched_only_when_something_was_seen() {
    let lessons = lessons();
    let lesson = lessons.of(b"server", NOW);
    let has_body = || Owner::of(lesson.parts().unwrap().0).has_body();
    // What is there is not read before: this would be shown.
    body(lesson)[CAUTIOUS].store(1, Relaxed);
    body(lesson)[CAUTIOUS_UNTIL].store(NOW as u64 + 1000, Relaxed);
    assert_eq!(lesson.cautious_age(NOW), None);
    assert_eq!(lessons.view(b"server", NOW), View::default());
    assert!(!has_body());
    lesson.closed(&ALIVE, NOW, 1000, 1, 0);
    assert!(has_body());
    // It stays so when a connection is opened, and when another server gets the record.
    lessons.of(b"server", NOW + Owner::UNIT);
    assert!(has_body());
    let next = all(words(1), None);
    lessons.of(b"another", NOW);
    next.inherit(&lessons, b"server");
    next.inherit(&lessons, b"another");
    assert_eq!(taken(&next).count(), 1);
}

#[test]
fn hardly_any_server_finds_no_record() {
    let lessons = all(words(10_000), None);
    let without = (0..10_000).filter(|number| lessons.of(&address(*number), NOW).parts().is_none()).count();
    assert!(without <= 5, "{without}");
    assert_eq!(taken(&lessons).count() + without, 10_000);
    // A second worker finds the same ones.
    assert!(
        (0..10_000).filter(|number| lessons.of(&address(*number), NOW).parts().is_none()).count() == without
    );
    assert_eq!(taken(&lessons).count() + without, 10_000);
}

#[test]
fn records_are_where_the_layout_says() {
    let lessons = all(words(400), None);
    let record = lessons.record(IN_BLOCK + 3).unwrap();
    let at = |word: *const AtomicU64| (word.addr() - lessons.words.as_ptr().addr()) / 8;
    assert_eq!(at(record.0.as_ptr()), BLOCK_WORDS + 3 * HEAD_WORDS);
    assert_eq!(at(record.1.as_ptr()), BLOCK_WORDS + IN_BLOCK * HEAD_WORDS + 3 * BODY_WORDS);
    assert_eq!(lessons.number(), 3 * IN_BLOCK);
    assert!(lessons.record(3 * IN_BLOCK).is_none());
}

#[test]
fn memory_without_a_record_is_of_no_use_and_no_harm() {
    let lessons = all(&[], None);
    assert!(lessons.of(b"server", NOW).known().is_nothing());
    assert_eq!(lessons.view(b"server", NOW), View::default());
    assert_eq!((Lessons::size(0), Lessons::size(100)), (BLOCK_WORDS, BLOCK_WORDS));
    assert_eq!(Lessons::size(usize::MAX), usize::MAX);
}

#[test]
fn times_are_compared_across_the_wrap_of_the_clock() {
    assert_eq!(since(5, 3), 2);
    assert_eq!(since(3, 5), -2);
    assert_eq!(since(1, Msec::MAX as u64), 2);
    assert_eq!(since(Msec::MAX as u64, 1), -2);
}

#[test]
fn without_a_record_an_announced_end_is_obeyed() {
    let conn = |is_announced, is_watching| Expired {
        age: 1000,
        is_announced,
        is_watching,
        margin: Margin::Share,
        longest: 60_000,
    };
    assert_eq!(Lesson::none().expire(&ALIVE, NOW, &conn(false, false)), (Verdict::Keep(None), None));
    assert_eq!(Lesson::none().expire(&ALIVE, NOW, &conn(true, false)), (Verdict::Close, None));
    assert_eq!(Lesson::none().expire(&ALIVE, NOW, &conn(false, true)), (Verdict::Close, None));
}

#[test]
fn a_limit_is_obeyed_while_another_process_has_the_record() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    body(lesson)[LOCK].store(ALIVE.process + 1, Relaxed);
    assert_eq!(lesson.expires(now, 900), Verdict::Keep(Some(997)));
    assert_eq!(lesson.expires(now, 997), Verdict::Close);
}

#[test]
fn servers_that_are_gone_take_no_records_from_those_that_are_there() {
    let before = all(words(2000), None);
    let teach = |number: usize| before.of(&address(number), NOW).closes(NOW, &[1000 + number; 4]);
    let now = (0..2000).map(teach).max().unwrap_or(NOW);
    // Two are still there, and ten are new.
    let after = all(words(12), None);
    for number in [7, 190] {
        after.inherit(&before, &address(number));
    }
    after.inherit_others(&before, now);
    for number in [7, 190] {
        let known = after.of(&address(number), now).believes(now);
        assert_eq!(known, Some(1000 + number as u32));
    }
    for number in 1000..1010 {
        let lesson = after.of(&address(number), now);
        lesson.closes(now, &[500; 4]);
        assert!(!lesson.known().is_nothing(), "{number}");
    }
}
