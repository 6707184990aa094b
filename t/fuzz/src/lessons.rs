//! What is learned of servers: any sightings, by several workers, at any time. What is published follows from what was seen.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use keepalive::http1::keep_alive::Margin;
use keepalive::lessons::{Bound, Expired, Lesson, Lessons, Verdict, Witness, BLOCK_WORDS};

use crate::input::Input;

/// The memory of two configurations.
static WORDS: [[AtomicU64; BLOCK_WORDS]; 2] = [const { [const { AtomicU64::new(0) }; BLOCK_WORDS] }; 2];

const ADDRESSES: [&[u8]; 3] = [b"server a, 16 b..", b"b", b"server c, 16 b.."];

/// The lowest and the highest value at which a server has closed a connection, and those of numbers of requests.
#[derive(Clone, Copy)]
struct Seen {
    ages: (u32, u32),
    numbers: (u32, u32),
}

const NOTHING: Seen = Seen { ages: (u32::MAX, 0), numbers: (u32::MAX, 0) };

/// The time, then operations: which one, of which server and worker, and its numbers.
pub fn target(data: &[u8]) {
    assert!(Lessons::size(1) <= WORDS[0].len());
    WORDS.iter().flatten().for_each(|word| word.store(0, Relaxed));
    let mut input = Input(data);
    let mut now = input.number();
    let mut lessons = Lessons::new(&WORDS[0], Box::new(()));
    let mut seen = [NOTHING; ADDRESSES.len()];
    let mut is_next = false;
    for _ in 0..500 {
        if input.is_empty() {
            break;
        }
        let operation = input.below(9);
        let server = input.below(ADDRESSES.len());
        let lesson = lessons.of(ADDRESSES[server], now);
        match operation {
            // Time does not go back, not even around.
            0 => now = now.wrapping_add(input.number() % (1 << 40)),
            1 if !is_next => {
                is_next = true;
                let last = std::mem::replace(&mut lessons, Lessons::new(&WORDS[1], Box::new(())));
                lessons.inherit_others(&last, now);
            }
            _ => act(&mut input, operation, lesson, now, &mut seen[server]),
        }
        for (address, seen) in ADDRESSES.iter().zip(&seen) {
            check(&lessons, address, now, seen);
        }
    }
}

fn act(input: &mut Input, operation: usize, lesson: Lesson, now: usize, seen: &mut Seen) {
    let who = Witness { process: 1 + input.below(3) as u64, is_alive: |_| true };
    match operation {
        2..=4 => {
            let (age, requests) = (input.number(), input.number());
            let round_trip = input.number();
            match age {
                100.. => note(&mut seen.ages, age),
                0..=20 if requests >= 5 => note(&mut seen.numbers, requests),
                _ => {}
            }
            lesson.closed(&who, now, age, requests, round_trip);
        }
        5 | 6 => {
            let conn = Expired {
                age: input.number(),
                is_announced: input.flag(),
                is_watching: input.flag(),
                margin: if input.flag() { Margin::Share } else { Margin::Fixed(input.number()) },
                longest: input.number(),
            };
            match lesson.expire(&who, now, &conn).0 {
                // A timer that is set again expires later.
                Verdict::Keep(Some(next)) | Verdict::Watch(next) if conn.age < 1 << 30 => {
                    assert!(next > conn.age, "{next} after {conn:?}");
                }
                _ => {}
            }
        }
        7 => {
            let requests = input.number();
            let (verdict, _) = lesson.reach(&who, now, requests, true);
            if verdict != Verdict::Keep(None) {
                // Only if the server has closed connections behind so many answers, or hardly more.
                assert!(requests >= seen.numbers.0 as usize / 2, "{requests}, {:?}", seen.numbers);
            }
        }
        _ => {
            lesson.serves_more(&who, now, input.number());
        }
    }
}

fn note(range: &mut (u32, u32), value: usize) {
    let value = u32::try_from(value).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 1);
    *range = (range.0.min(value), range.1.max(value));
}

fn check(lessons: &Lessons, address: &[u8], now: usize, seen: &Seen) {
    let view = lessons.view(address, now);
    for (believed, seen) in [(view.age, seen.ages), (view.requests, seen.numbers)] {
        if let Some((lowest, closes)) = believed {
            assert!((seen.0..=seen.1).contains(&lowest), "{lowest} of {seen:?}");
            assert!((4..=8).contains(&closes));
        }
    }
    let lesson = lessons.of(address, now);
    assert_eq!(
        lesson.known().is_nothing(),
        lesson.age(Margin::Share).is_none() && lesson.requests().is_none()
    );
    let bounds = [(lesson.age(Margin::Share), view.age), (lesson.requests(), view.requests)];
    for (bound, believed) in bounds {
        match (bound, believed) {
            (Some(Bound::Limit(limit)), Some((lowest, _))) => assert!(limit <= lowest),
            // It has faded since it was published.
            (Some(Bound::Limit(_)), None) => {}
            (_, believed) => assert_eq!(believed, None),
        }
    }
    if let Some(age) = lesson.cautious_age(now) {
        assert!(age as u64 <= u64::from(seen.ages.1));
    }
    if let Some(Bound::Limit(limit)) = lesson.age(Margin::Share) {
        assert!(!lesson.known().is_too_old(limit as usize));
        assert!(lesson.known().is_too_old(limit as usize + 1));
        assert_eq!(lesson.known().next_look(), limit as usize);
    }
}
