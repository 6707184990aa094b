//! Numbers of requests: what a record makes of closes right behind an answer.
#![forbid(unsafe_code)]

use super::*;

impl Lesson {
    /// The server closes connections behind these answers, one per second.
    fn closes_behind(self, from: Msec, numbers: &[usize]) -> Msec {
        let mut now = from;
        for number in numbers {
            now += 1000;
            self.closed(&ALIVE, now, 0, *number, 0);
        }
        now
    }

    fn believes_number(self, now: Msec) -> Option<u32> {
        self.view(now).requests.map(|(number, _)| number)
    }

    fn reaches(self, now: Msec, requests: usize) -> Verdict {
        self.reach(&ALIVE, now, requests, true).0
    }
}

#[test]
fn a_close_within_twenty_milliseconds_is_one_behind_an_answer() {
    for (age, is_behind) in [(0, true), (20, true), (21, false), (100, false)] {
        let lesson = lesson();
        for second in 0..4 {
            lesson.closed(&ALIVE, NOW + 1000 * second, age, 100, 0);
        }
        assert_eq!(lesson.believes_number(NOW).is_some(), is_behind, "{age}");
    }
}

#[test]
fn a_number_is_learned_with_four_closes() {
    let lesson = lesson();
    let now = lesson.closes_behind(NOW, &[100; 3]);
    assert_eq!(lesson.requests(), Some(Bound::Watch(150)));
    let change = lesson.closed(&ALIVE, now + 1000, 0, 100, 0);
    assert_eq!(change, Some(Change { what: Limited::Requests, limit: Some(100) }));
    assert_eq!(lesson.requests(), Some(Bound::Limit(100)));
    assert_eq!(lesson.age(Margin::Share), None);
}

#[test]
fn fewer_requests_than_five_are_no_limit() {
    for (number, is_known) in [(0, false), (4, false), (5, true)] {
        let lesson = lesson();
        let now = lesson.closes_behind(NOW, &[number; 4]);
        assert_eq!(lesson.believes_number(now).is_some(), is_known, "{number}");
    }
}

#[test]
fn one_connection_stays_to_watch() {
    let lesson = lesson();
    let now = lesson.closes_behind(NOW, &[100; 4]);
    assert_eq!(lesson.reaches(now, 99), Verdict::Keep(None));
    assert_eq!(lesson.reaches(now, 100), Verdict::Watch(BEHIND_WATCH));
    assert_eq!(lesson.reaches(now, 100), Verdict::Close);
    assert_eq!(lesson.reaches(now + BEHIND_WATCH - 1, 100), Verdict::Close);
    assert_eq!(lesson.reaches(now + BEHIND_WATCH, 100), Verdict::Watch(BEHIND_WATCH));
}

#[test]
fn those_that_watch_ages_do_not_keep_it_from_watching() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    let now = lesson.closes_behind(now, &[100; 4]);
    assert_eq!(lesson.expires(now, 999), Verdict::Watch(1062));
    assert_eq!(lesson.reaches(now, 100), Verdict::Watch(BEHIND_WATCH));
}

#[test]
fn a_number_that_the_server_exceeds_is_forgotten() {
    for number in [5, 10, 100, 1000] {
        let lesson = lesson();
        let now = lesson.closes_behind(NOW, &[number; 4]);
        let change = lesson.serves_more(&ALIVE, now, number);
        assert_eq!(change, Some(Change { what: Limited::Requests, limit: None }), "{number}");
        assert_eq!(lesson.believes_number(now), None);
    }
}

#[test]
fn of_a_blurred_number_the_watcher_is_used_further() {
    let lesson = lesson();
    let now = lesson.closes_behind(NOW, &[100, 110, 104, 106, 100, 110, 104, 106]);
    // The lowest, less the spread of three.
    assert_eq!(lesson.requests(), Some(Bound::Limit(97)));
    for requests in 97..119 {
        assert_eq!(lesson.reaches(now, requests), Verdict::Keep(None), "{requests}");
        assert_eq!(lesson.reaches(now, 97), Verdict::Close);
    }
    assert_eq!(lesson.reaches(now, 119), Verdict::Watch(BEHIND_WATCH));
    lesson.serves_more(&ALIVE, now, 119);
    assert_eq!(lesson.believes_number(now), None);
}

#[test]
fn a_connection_that_serves_more_contradicts_what_is_no_limit_yet() {
    let lesson = lesson();
    let now = lesson.closes_behind(NOW, &[100; 3]);
    assert_eq!(lesson.reaches(now, 149), Verdict::Keep(None));
    assert_eq!(lesson.requests(), Some(Bound::Watch(150)));
    assert_eq!(lesson.reaches(now, 150), Verdict::Keep(None));
    assert_eq!(lesson.requests(), None);
}

#[test]
fn a_restart_under_load_teaches_no_number() {
    let lesson = lesson();
    for (number, age) in [(30, 0), (31, 3), (90, 12), (80, 5), (85, 1), (88, 0)] {
        lesson.closed(&ALIVE, NOW, age, number, 0);
    }
    assert!(lesson.known().is_nothing());
    for number in [30, 31, 32, 33, 34] {
        lesson.closed(&ALIVE, NOW + 1000, 0, number, 0);
    }
    assert!(lesson.known().is_nothing());
    // Numbers near each other are one.
    for number in [30, 31, 31, 30] {
        lesson.closed(&ALIVE, NOW + 2000, 0, number, 0);
    }
    assert_eq!(lesson.requests(), Some(Bound::Watch(45)));
}
