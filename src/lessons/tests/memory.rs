//! The memory of the records: the lock, the table, the next configuration.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::super::words::{since, KNOWN, LOCK, USED};
use super::*;

const DEAD: u64 = 8;
const SEES_DEAD: Witness = Witness { process: 7, is_alive: |process| process != DEAD };

fn all(words: &'static [AtomicU64], last: Option<&Lessons>) -> Lessons {
    let own = Lessons::new(words, Box::new(()));
    last.into_iter().for_each(|last| own.inherit_others(last));
    own
}

fn address(number: usize) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

/// The words of the record that is in use.
fn record(words: &'static [AtomicU64]) -> &'static [AtomicU64] {
    words.chunks(WORDS).find(|record| record[KEY].load(Relaxed) != 0).unwrap_or(words)
}

#[test]
fn what_is_seen_while_another_process_has_the_lock_is_not_noted() {
    let words = words(1);
    let lesson = all(words, None).of(b"server", NOW);
    record(words)[LOCK].store(9, Relaxed);
    assert_eq!(lesson.closed(&ALIVE, NOW, 1000, 1, 0), None);
    assert_eq!(lesson.expires(NOW, 1000), Verdict::Keep(None));
    assert_eq!(lesson.reach(&ALIVE, NOW, 100, true), (Verdict::Keep(None), None));
    assert!(lesson.known().is_nothing());
    assert_eq!(record(words)[LOCK].load(Relaxed), 9);
}

#[test]
fn a_process_that_was_killed_loses_the_lock() {
    let words = words(1);
    let lesson = all(words, None).of(b"server", NOW);
    record(words)[LOCK].store(DEAD, Relaxed);
    lesson.closed(&SEES_DEAD, NOW, 1000, 1, 0);
    assert!(!lesson.known().is_nothing());
    assert_eq!(record(words)[LOCK].load(Relaxed), 0);
}

#[test]
fn processes_change_a_record_one_after_the_other() {
    let words = words(1);
    let lesson = all(words, None).of(b"server", NOW);
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
    assert_eq!(record(words)[LOCK].load(Relaxed), 0);
}

#[test]
fn nothing_is_learned_without_a_record() {
    for _ in 0..10 {
        assert_eq!(Lesson::NONE.closed(&ALIVE, NOW, 1000, 1, 0), None);
        assert_eq!(Lesson::default().serves_more(&ALIVE, NOW, 1), None);
    }
    assert!(Lesson::NONE.known().is_nothing());
    assert_eq!(Lesson::NONE.expires(NOW, 1000), Verdict::Keep(None));
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
    let words = words(1);
    let lessons = all(words, None);
    let places = words.len() / WORDS;
    for number in 0..100 {
        lessons.of(&address(number), NOW).closed(&ALIVE, NOW, 1000, 1, 0);
    }
    let taken = words.chunks(WORDS).filter(|record| record[KEY].load(Relaxed) != 0).count();
    assert_eq!(taken, places);
    let known = (0..100).filter(|number| !lessons.of(&address(*number), NOW).known().is_nothing()).count();
    assert_eq!(known, places);
}

#[test]
fn the_record_of_a_server_that_is_not_used_goes_to_another_one() {
    let words = words(1);
    let lessons = all(words, None);
    for number in 0..100 {
        lessons.of(&address(number), NOW).closes(NOW, &[1000; 4]);
    }
    let later = NOW + UNUSED as Msec;
    assert!(lessons.of(b"new", later).known().is_nothing());
    lessons.of(b"new", later).closes(later, &[1000; 4]);
    assert_eq!(lessons.view(b"new", later).age, None);
    lessons.of(b"new", later + 1).closes(later, &[2000; 4]);
    assert_eq!(lessons.view(b"new", later + 1).age, Some((2000, 4)));
    // One whose lock another process has stays where it is.
    words.chunks(WORDS).for_each(|record| record[LOCK].store(9, Relaxed));
    assert!(lessons.of(b"another", later + 1).known().is_nothing());
    assert_eq!(lessons.view(b"new", later + 1).age, Some((2000, 4)));
}

#[test]
fn the_next_configuration_begins_with_what_is_known() {
    let before = all(words(4), None);
    for number in 0..4 {
        let lesson = before.of(&address(number), NOW);
        let now = lesson.closes(NOW, &[1000 + number; 4]);
        assert!(matches!(lesson.expires(now, 1000 + number), Verdict::Watch(_)));
    }
    let words = words(40);
    let next = all(words, Some(&before));
    for number in 0..4 {
        let lesson = next.of(&address(number), NOW);
        assert_eq!(lesson.limit(), before.of(&address(number), NOW).limit());
        assert_eq!(lesson.believes(NOW), Some(1000 + number as u32));
        // A watcher of the old workers does not keep the new ones from watching.
        assert!(matches!(lesson.expires(NOW, 1000 + number), Verdict::Watch(_)));
    }
    let used = words.chunks(WORDS).filter(|record| record[USED].load(Relaxed) == NOW as u64).count();
    assert_eq!(used, 4);
    assert!(words.chunks(WORDS).all(|record| record[LOCK].load(Relaxed) == 0));
}

#[test]
fn a_smaller_configuration_takes_what_it_has_room_for() {
    let before = all(words(100), None);
    for number in 0..100 {
        before.of(&address(number), NOW).closes(NOW, &[1000; 4]);
    }
    let words = words(1);
    all(words, Some(&before));
    let known = words.chunks(WORDS).filter(|record| record[KNOWN].load(Relaxed) != 0).count();
    assert_eq!(known, words.len() / WORDS);
}

#[test]
fn memory_without_a_record_is_of_no_use_and_no_harm() {
    let lessons = all(&[], None);
    assert!(lessons.of(b"server", NOW).known().is_nothing());
    assert_eq!(lessons.view(b"server", NOW), View::default());
    assert!(Lessons::size(0) >= PROBES * WORDS);
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
    assert_eq!(Lesson::NONE.expire(&ALIVE, NOW, &conn(false, false)), (Verdict::Keep(None), None));
    assert_eq!(Lesson::NONE.expire(&ALIVE, NOW, &conn(true, false)), (Verdict::Close, None));
    assert_eq!(Lesson::NONE.expire(&ALIVE, NOW, &conn(false, true)), (Verdict::Close, None));
}

#[test]
fn a_limit_is_obeyed_while_another_process_has_the_record() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    lesson.words()[LOCK].store(ALIVE.process + 1, Relaxed);
    assert_eq!(lesson.expires(now, 900), Verdict::Keep(Some(997)));
    assert_eq!(lesson.expires(now, 997), Verdict::Close);
}

#[test]
fn servers_that_are_gone_take_no_records_from_those_that_are_there() {
    let before = all(words(200), None);
    let teach = |number: usize| before.of(&address(number), NOW).closes(NOW, &[1000 + number; 4]);
    let now = (0..200).map(teach).max().unwrap_or(NOW);
    // Two are still there, and ten are new.
    let after = all(words(12), None);
    for number in [7, 190] {
        after.inherit(&before, &address(number));
    }
    after.inherit_others(&before);
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
