//! Models of what workers write and read at the same time, for loom (`t/loom`).
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use loom::thread;

use super::record::Witness;
use super::words::{give, Lock, Record};
use super::*;
use crate::base::checked::{zeros, Model, Strength};
use crate::http1::keep_alive::Margin;

/// The models of the records.
pub const MODELS: &[Model] = &[
    Model {
        name: "whoever sees that a limit is known sees the limit",
        run: limits_are_whole,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "a server that gets the record of another one gets nothing that was known of that",
        run: given_records_are_empty,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "one process at a time changes a record",
        run: one_at_a_time,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
];

const NOW: Msec = 5_000_000;
const AGE: Msec = 1000;

fn witness(process: u64) -> Witness {
    Witness { process, is_alive: |_| true }
}

fn head() -> &'static Head {
    zeros(HEAD_WORDS).first_chunk().unwrap()
}

fn body() -> &'static Body {
    zeros(BODY_WORDS).first_chunk().unwrap()
}

/// The server closes a connection after `AGE`, for the `nth` time. The fourth time makes a limit.
fn close(lesson: Lesson, nth: Msec) {
    lesson.closed(&witness(7), NOW + 1000 * nth, AGE, 3, 0);
}

fn limits_are_whole() {
    let head = head();
    let lesson = Lesson::new(head, body());
    Owner::new(1, NOW).replace(head);
    (1..4).for_each(|nth| close(lesson, nth));
    assert_eq!(limit_of(lesson), None);
    let other = thread::spawn(move || close(lesson, 4));
    let limit = limit_of(lesson);
    assert!(limit.is_none_or(|it| it == AGE as u32 - 10), "{limit:?}");
    other.join().unwrap();
    assert!(limit_of(lesson).is_some());
}

fn limit_of(lesson: Lesson) -> Option<u32> {
    match lesson.age(Margin::Fixed(10)) {
        Some(Bound::Limit(limit)) => Some(limit),
        _ => None,
    }
}

fn given_records_are_empty() {
    let (head, body) = (head(), body());
    let record = || Record(head, body);
    Owner::new(1, NOW).replace(head);
    Owner::note_body(head);
    record().set_known(7);
    let other = thread::spawn(move || assert!(give(&record(), Owner::new(2, NOW))));
    if Owner::new(2, NOW).renew(head) {
        assert!(Lesson::new(head, body).known().is_nothing());
    }
    other.join().unwrap();
}

fn one_at_a_time() {
    let (lock, word) = (&body()[0], &body()[1]);
    let count = move |process| {
        let lock = Lock::take(lock, &witness(process));
        lock.as_ref().inspect(|_| word.store(word.load(Relaxed) + 1, Relaxed)).is_some()
    };
    let other = thread::spawn(move || count(8));
    let taken = [count(7), other.join().unwrap()];
    assert_eq!(word.load(Relaxed), taken.iter().filter(|it| **it).count() as u64);
}
