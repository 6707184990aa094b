//! Ages: what a record makes of closes and of connections that live.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn nothing_is_known_at_first() {
    let lesson = lesson();
    assert!(lesson.known().is_nothing());
    assert_eq!((lesson.age(Margin::Share), lesson.requests()), (None, None));
    assert_eq!(lesson.known().next_look(), u32::MAX as Msec);
    assert!(!lesson.known().is_too_old(1 << 31));
    assert_eq!(lesson.cautious_age(NOW), None);
    assert_eq!(lesson.announced(5000, Margin::Share), None);
    assert_eq!(lesson.view(NOW), View::default());
    assert_eq!(lesson.expires(NOW, 5000), Verdict::Keep(None));
}

#[test]
fn a_limit_is_observed_from_the_fourth_close_on() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000, 1000, 1000]);
    assert_eq!(lesson.watched(), Some(1500));
    assert!(!lesson.known().is_too_old(1400));
    let change = lesson.closed(&ALIVE, now + 1000, 1000, 3, 0);
    assert_eq!(change, Some(Change { what: Limited::Age, limit: Some(1000) }));
    // Two milliseconds and the 512th part earlier.
    assert_eq!(lesson.limit(), Some(997));
    assert_eq!(lesson.known().next_look(), 997);
    assert!(!lesson.known().is_too_old(997));
    assert!(lesson.known().is_too_old(998));
    assert_eq!(lesson.believes(now + 1000), Some(1000));
}

#[test]
fn the_margin_holds_a_round_trip_and_the_spread() {
    let lesson = lesson();
    for (second, age) in [1000, 1010, 1000, 1004].into_iter().enumerate() {
        lesson.closed(&ALIVE, NOW + 1000 * second, age, 3, 40);
    }
    // Twice ten by four, and a round trip.
    assert_eq!(lesson.limit(), Some(1000 - 5 - 40 - 3));
    assert_eq!(lesson.age(Margin::Fixed(100)), Some(Bound::Limit(900)));
    assert_eq!(lesson.age(Margin::Fixed(2000)), Some(Bound::Limit(1)));
    // A round trip that is shorter now counts by and by.
    lesson.closed(&ALIVE, NOW + 9000, 1000, 3, 1);
    assert_eq!(lesson.limit(), Some(1000 - 4 - 35 - 3));
}

#[test]
fn of_an_announced_limit_and_a_learned_one_the_earlier_one_holds() {
    let lesson = lesson();
    lesson.closes(NOW, &[1000; 4]);
    assert_eq!(lesson.announced(5000, Margin::Share), Some(997));
    assert_eq!(lesson.announced(500, Margin::Share), Some(497));
    assert_eq!(lesson.announced(500, Margin::Fixed(100)), Some(400));
    assert_eq!(lesson.announced(1, Margin::Share), Some(0));
}

#[test]
fn the_log_tells_a_limit_that_differs_by_more_than_an_eighth() {
    let change = |ages: &[Msec], age| {
        let lesson = lesson();
        let now = lesson.closes(NOW, ages);
        lesson.closed(&ALIVE, now + 1000, age, 3, 0).map(|change| change.limit)
    };
    assert_eq!(change(&[1000; 7], 990), None);
    assert_eq!(change(&[1000, 1000, 1000, 1000, 1126, 1126, 1126], 1126), None);
    assert_eq!(change(&[1000, 1000, 1000, 1000, 2000, 2000, 2000], 2000), Some(Some(2000)));
    assert_eq!(change(&[1000; 4], 5000), Some(None));
}

#[test]
fn a_burst_of_mixed_ages_teaches_nothing() {
    let burst = |ages: &[Msec]| {
        let lesson = lesson();
        for age in ages {
            lesson.closed(&ALIVE, NOW, *age, 3, 0);
        }
        (lesson.believes(NOW), lesson.watched())
    };
    assert_eq!(burst(&[400, 3000, 700, 1200, 50]), (None, None));
    assert_eq!(burst(&[1000, 1000, 1000, 1000, 1000, 300]), (None, None));
    // Ages near each other are one sighting, of the lowest.
    assert_eq!(burst(&[1200, 1000, 1500, 1300]), (None, Some(1500)));
    assert_eq!(burst(&[1200, 1000, 1501]), (None, None));
}

#[test]
fn connections_that_became_idle_together_teach_at_once() {
    let burst = |ages: &[Msec]| {
        let lesson = lesson();
        for age in ages {
            lesson.closed(&ALIVE, NOW, *age, 3, 0);
        }
        lesson.view(NOW).age
    };
    assert_eq!(burst(&[1000; 3]), None);
    assert_eq!(burst(&[1000; 50]), Some((1000, 4)));
    assert_eq!(burst(&[1010, 1003, 1000, 1005]), Some((1000, 4)));
    assert_eq!(burst(&[1011, 1000, 1000, 1000, 1000]), None);
    // A sixteenth is less.
    assert_eq!(burst(&[106, 100, 100, 100]), Some((100, 4)));
    assert_eq!(burst(&[107, 100, 100, 100]), None);
}

#[test]
fn connections_used_in_turn_teach_no_number_when_a_server_stops() {
    let stops = |times: usize, served: &[usize]| {
        let lesson = lesson();
        for nth in 0..times {
            for requests in served {
                lesson.closed(&ALIVE, NOW + nth * 1000, 1, *requests, 0);
            }
        }
        lesson.view(NOW + times * 1000).requests
    };
    assert_eq!(stops(3, &[125; 8]), None);
    assert_eq!(stops(4, &[125; 8]), Some((125, 4)));
    assert_eq!(stops(20, &[17, 20, 18, 23, 19]), None);
}

#[test]
fn they_do_not_if_another_one_has_lived_longer() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000]);
    lesson.expires(now, 1500);
    for _ in 0..50 {
        lesson.closed(&ALIVE, now + 1000, 1400, 3, 0);
    }
    assert_eq!(lesson.believes(now + 1000), None);
    for _ in 0..50 {
        lesson.closed(&ALIVE, now + 2000, 1600, 3, 0);
    }
    assert_eq!(lesson.believes(now + 2000), Some(1600));
}

#[test]
fn a_burst_takes_fifty_milliseconds() {
    for (time, is_mixed) in [(50, true), (51, false)] {
        let lesson = lesson();
        lesson.closed(&ALIVE, NOW, 1000, 3, 0);
        lesson.closed(&ALIVE, NOW + time, 300, 3, 0);
        assert_eq!(lesson.watched().is_none(), is_mixed, "{time}");
    }
}

#[test]
fn one_accident_changes_nothing() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[5000; 5]);
    assert_eq!(lesson.closed(&ALIVE, now + 1000, 300, 3, 0), None);
    assert_eq!(lesson.believes(now + 1000), Some(5000));
}

#[test]
fn accidents_are_forgotten_when_a_connection_outlives_them() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[5000, 5000, 5000, 5000, 300, 400]);
    assert_eq!(lesson.believes(now), None);
    assert_eq!(lesson.watched(), Some(450));
    assert_eq!(lesson.expires(now, 300), Verdict::Keep(Some(450)));
    // It has outlived the one, then the other; the limit is believed again when one of five is left.
    let Verdict::Keep(Some(next)) = lesson.expires(now, 450) else { panic!() };
    assert_eq!(lesson.believes(now), None);
    assert_eq!(lesson.expires(now, next), Verdict::Keep(Some(lesson.limit().unwrap_or(0) as Msec)));
    assert_eq!(lesson.believes(now), Some(5000));
}

#[test]
fn few_connections_watch() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    // It is not at the limit yet.
    assert_eq!(lesson.expires(now, 500), Verdict::Keep(Some(997)));
    assert_eq!(lesson.expires(now, 997), Verdict::Watch(1062));
    assert_eq!(lesson.expires(now, 997), Verdict::Close);
    // The next one when this one has shown what it can.
    assert_eq!(lesson.expires(now + 64, 997), Verdict::Close);
    assert_eq!(lesson.expires(now + 65, 997), Verdict::Watch(1062));
}

#[test]
fn a_limit_that_a_watcher_outlives_is_forgotten() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    assert_eq!(lesson.outlives(now, 1061), None);
    assert_eq!(lesson.outlives(now, 1062), Some(Change { what: Limited::Age, limit: None }));
    assert_eq!(lesson.watched(), Some(1500));
    assert_eq!(lesson.expires(now, 1500), Verdict::Keep(None));
    assert!(lesson.known().is_nothing());
    // The limit was not wrong after all: one close is enough.
    lesson.closed(&ALIVE, now + 1000, 1000, 3, 0);
    assert_eq!(lesson.believes(now + 1000), Some(1000));
}

#[test]
fn what_lives_says_nothing_before_the_first_close() {
    let lesson = lesson();
    assert_eq!(lesson.outlives(NOW, 5000), None);
    assert!(lesson.known().is_nothing());
}

#[test]
fn a_connection_of_an_announced_limit_watches_too() {
    let lesson = lesson();
    let conn =
        Expired { age: 1000, is_announced: true, is_watching: false, margin: Margin::Share, longest: 60_000 };
    let of = |number: usize, now: Msec| {
        let verdicts = (0..number).map(|_| lesson.expire(&ALIVE, now, &conn).0);
        verdicts.map(|verdict| verdict != Verdict::Close).collect::<Vec<_>>()
    };
    // One of sixteen of the same age.
    assert_eq!(of(15, NOW), [false; 15]);
    assert_eq!(lesson.expire(&ALIVE, NOW, &conn), (Verdict::Watch(3250), None));
    // Another one not before it has an answer.
    assert_eq!(of(16, NOW + 2249), [false; 16]);
    assert_eq!(of(15, NOW + 2250), [false; 15]);
    lesson.expire(&ALIVE, NOW + 2250, &Expired { age: 2000, ..conn });
    assert_eq!(of(15, NOW + 2250), [false; 15]);
    assert_eq!(of(1, NOW + 2250), [true]);
    // A limit that is higher than the announced one.
    let now = lesson.closes(NOW + 5000, &[5000; 4]);
    assert_eq!(lesson.expire(&ALIVE, now, &conn), (Verdict::Watch(5312), None));
}

#[test]
fn a_lesson_fades_when_nothing_confirms_it() {
    const FADES: Msec = 3_600_000;
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    assert_eq!(lesson.believes(now + FADES), Some(1000));
    assert_eq!(lesson.believes(now + FADES + 1), None);
    let change = lesson.outlives(now + FADES + 1, 100);
    assert_eq!(change, Some(Change { what: Limited::Age, limit: None }));
    assert!(lesson.known().is_nothing());
    // What has faded does not come back with the next close.
    lesson.closed(&ALIVE, now + FADES + 2, 1000, 3, 0);
    assert_eq!(lesson.believes(now + FADES + 2), None);
}

#[test]
fn a_close_that_confirms_it_keeps_it() {
    const FADES: Msec = 3_600_000;
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    lesson.closed(&ALIVE, now + FADES, 1000, 3, 0);
    assert_eq!(lesson.believes(now + 2 * FADES), Some(1000));
}

#[test]
fn a_close_that_is_earlier_than_the_limit_makes_requests_cautious_at_once() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[6000; 4]);
    assert_eq!(lesson.cautious_age(now), Some(5987));
    lesson.closed(&ALIVE, now + 1000, 1000, 3, 0);
    assert_eq!(lesson.believes(now + 1000), Some(6000));
    assert_eq!(lesson.cautious_age(now + 1000), Some(997));
    // Twice as long as the longest.
    assert_eq!(lesson.cautious_age(now + 12_999), Some(997));
    assert_eq!(lesson.cautious_age(now + 13_000), None);
}

#[test]
fn caution_lasts_ten_seconds_at_least() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000; 4]);
    assert_eq!(lesson.cautious_age(now + 9_999), Some(997));
    assert_eq!(lesson.cautious_age(now + 10_000), None);
}

#[test]
fn caution_lasts_until_a_connection_outlives_the_closes() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[6000, 6000, 6000, 6000, 400, 1000]);
    assert_eq!((lesson.believes(now), lesson.cautious_age(now)), (None, Some(398)));
    // It has outlived the one, then both.
    lesson.expires(now, 1499);
    assert_eq!(lesson.cautious_age(now), Some(997));
    lesson.expires(now, 1500);
    assert_eq!((lesson.believes(now), lesson.cautious_age(now)), (Some(6000), Some(5987)));
}

#[test]
fn without_a_limit_no_request_is_cautious() {
    let lesson = lesson();
    let now = lesson.closes(NOW, &[1000, 3000, 500]);
    assert_eq!(lesson.cautious_age(now), None);
}

#[test]
fn ages_below_a_hundred_milliseconds_are_accidents() {
    for (age, is_known) in [(99, false), (100, true)] {
        let lesson = lesson();
        let now = lesson.closes(NOW, &[age; 5]);
        assert_eq!(lesson.believes(now).is_some(), is_known, "{age}");
    }
    // So are the others that are closed together with one.
    let lesson = lesson();
    let now = lesson.closes(NOW, &[5000; 8]);
    for (age, after) in [(300, 1000), (50, 1000), (300, 1050), (50, 2000), (300, 2000)] {
        lesson.closed(&ALIVE, now + after, age, 3, 0);
    }
    assert_eq!(lesson.view(now).age, Some((5000, 7)));
    assert!(lesson.cautious_age(now + 2000) > Some(4000));
}

#[test]
fn another_limit_is_learned_with_four_closes() {
    let lesson = lesson();
    let mut now = lesson.closes(NOW, &[1000; 8]);
    for limit in [5000, 500, 3000, 1000] {
        now = lesson.closes(now, &[limit; 3]);
        assert_ne!(lesson.believes(now), Some(limit as u32));
        now = lesson.closes(now, &[limit]);
        assert_eq!(lesson.believes(now), Some(limit as u32));
    }
}

#[test]
fn the_clock_wraps_around() {
    for before in [0, 500, 1500, 2500, 3500] {
        let lesson = lesson();
        let now = lesson.closes(Msec::MAX - before, &[1000; 4]);
        assert_eq!(lesson.believes(now), Some(1000));
        assert!(lesson.cautious_age(now).is_some());
        assert_eq!(lesson.expires(now, 997), Verdict::Watch(1062));
        assert_eq!(lesson.expires(now, 997), Verdict::Close);
        assert_eq!(lesson.expires(now.wrapping_add(500), 997), Verdict::Watch(1062));
        assert_eq!(lesson.believes(now.wrapping_add(3_600_001)), None);
    }
}
