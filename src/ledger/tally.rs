//! A number that all workers count together. Each worker has its part of it. The number is exact however many workers count
//! at the same time, and wherever one of them is killed.
//!
//! ```text
//!   total   how often it was repaired (32 bits) | number (32 bits)
//!   part    how often it was changed (32 bits) | number (30 bits) | adding (1 bit) | under way (1 bit)
//! ```
//!
//! Only the worker itself writes its part: it sets a mark in the part, changes the total, and writes the new part without
//! the mark. A worker that is killed in between leaves the mark. The worker that recovers its part cannot know whether the
//! total was changed, and need not know: it *repairs* the total, which becomes the sum of the parts.
//!
//! What is in transit between two parts counts too (see `transit.rs`). A worker changes that as it changes the total: while
//! its part has the mark. In the following, "the total" stands for both.
//!
//! To repair a total, the parts are read twice, and the total in between. If the parts are the same both times and have no
//! mark, then the total and the parts were read as of the same moment:
//!
//! - If a change was read in the total: its mark was set before the change of the total, which is a release, and the total
//!   was read by an acquire. So the second reading finds the mark, or what was written after it. If the first reading found
//!   the same, the change is in the parts too.
//! - If a change was read in the parts: the part is written after the total, by a release, and read by an acquire. So the
//!   total that is read afterwards has the change too.
//!
//! (It is only changed by read-modify-write. So a reader of a later value acquires what came before all earlier
//! changes.) The difference is what killed workers have left. It stays the same while others count, until it is repaired. So
//! it is subtracted from the total's current value, unless another worker has repaired the total. What a process wrote before
//! it was killed is visible to a process that finds it gone: the kernel's own locks are in between.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use crate::base::atomic::AtomicU64;

use super::step;

/// A total, and this worker's part of it.
#[derive(Clone, Copy)]
pub(super) struct Tally<'a> {
    pub(super) total: &'a AtomicU64,
    pub(super) part: &'a AtomicU64,
}

/// The bits of the number in a total; in a part also of the two marks.
const NUMBER: u64 = u32::MAX as u64;
const REPAIRED: u64 = 1 << 32;

/// The mark of a change that is under way.
const UNDER_WAY: u64 = 1;
/// The mark of a change that adds one.
const ADDING: u64 = 2;
/// One, in the number of a part.
const ONE: u64 = 4;
/// One, in the number of changes of a part.
const CHANGED: u64 = 1 << 32;

/// How often the parts are read until no worker is found counting. A worker that is found each time was interrupted or
/// stopped.
const ATTEMPTS: usize = if cfg!(any(test, loom)) { 4 } else { 200 };

/// The number in a total, or in a worker's own count.
pub(super) fn number(total: &AtomicU64) -> u64 {
    total.load(SeqCst) & NUMBER
}

/// Subtracts one from a worker's own count, unless it is 0. Returns whether it was subtracted.
pub(super) fn take_one(count: &AtomicU64) -> bool {
    let less = |count| (count & NUMBER > 0).then(|| count - 1);
    count.fetch_update(SeqCst, SeqCst, less).is_ok()
}

/// Sets a worker's own count to 0.
pub(super) fn take_all(count: &AtomicU64) {
    count.fetch_and(!NUMBER, SeqCst);
}

impl Tally<'_> {
    /// Adds one. Returns the number before.
    pub(super) fn add(self) -> u64 {
        let before = self.mark(UNDER_WAY | ADDING);
        step();
        // Sequentially consistent with everything that workers tell each other: see `Ledger::park`.
        let total = self.total.fetch_add(1, SeqCst);
        self.write(before.wrapping_add(CHANGED + ONE));
        total & NUMBER
    }

    /// Adds one, if the number is below `limit`. Returns whether it was.
    pub(super) fn add_below(self, limit: u64) -> bool {
        if number(self.total) >= limit {
            return false;
        }
        let before = self.mark(UNDER_WAY | ADDING);
        step();
        let more = |total| (total & NUMBER < limit).then_some(total + 1);
        let added = self.total.fetch_update(SeqCst, SeqCst, more).is_ok();
        self.write(if added { before.wrapping_add(CHANGED + ONE) } else { before });
        added
    }

    /// Subtracts one.
    pub(super) fn take(self) {
        let before = self.mark(UNDER_WAY);
        step();
        self.total.fetch_sub(1, SeqCst);
        self.write(before.wrapping_add(CHANGED).wrapping_sub(ONE));
    }

    /// Gives one away, which counts elsewhere as soon as `change` has returned `true`. Returns what that returned.
    pub(super) fn give(self, change: impl FnOnce() -> bool) -> bool {
        let before = self.mark(UNDER_WAY);
        step();
        let given = change();
        self.write(if given { before.wrapping_add(CHANGED).wrapping_sub(ONE) } else { before });
        given
    }

    /// Gains one, which counts elsewhere until `change` has returned `true`. Returns what that returned.
    pub(super) fn gain(self, change: impl FnOnce() -> bool) -> bool {
        let before = self.mark(UNDER_WAY | ADDING);
        step();
        let gained = change();
        self.write(if gained { before.wrapping_add(CHANGED + ONE) } else { before });
        gained
    }

    /// Subtracts one that counts elsewhere until `change` has returned `true`; nothing if it returns `false`.
    pub(super) fn give_up(self, change: impl FnOnce() -> bool) {
        let before = self.mark(UNDER_WAY);
        step();
        let given_up = change();
        if given_up {
            step();
            self.total.fetch_sub(1, SeqCst);
        }
        self.write(if given_up { before.wrapping_add(CHANGED) } else { before });
    }

    /// Sets a mark in the part. Returns the part without it.
    fn mark(self, mark: u64) -> u64 {
        // No other worker writes this part while this worker is alive.
        let before = self.part.load(Relaxed);
        step();
        // This store comes before the change of the total, because that is a release.
        self.part.store(before | mark, Relaxed);
        before
    }

    /// Writes the part after the change of the total.
    fn write(self, part: u64) {
        step();
        self.part.store(part, Release);
    }
}

/// Whether a part is zero and is not being changed.
pub(super) fn is_empty(part: &AtomicU64) -> bool {
    part.load(Relaxed) & NUMBER == 0
}

/// Clears the part of a worker that was killed. Returns its number, including one that was being added. The total must be
/// repaired afterwards. `None` if the caller is no longer the one to do this.
pub(super) fn clear(part: &AtomicU64, is_for_me: impl Fn() -> bool) -> Option<u64> {
    loop {
        step();
        let left = part.load(Acquire);
        // Checked after the part was read: if another process has to do this instead, it changes the part, even an empty
        // one, and the exchange below fails.
        if !is_for_me() {
            return None;
        }
        step();
        let none = (left & !NUMBER).wrapping_add(CHANGED);
        if part.compare_exchange(left, none, SeqCst, Acquire).is_ok() {
            return Some((left & NUMBER) / ONE + u64::from(left & ADDING != 0));
        }
    }
}

/// Clears the own count of a worker that was killed. The upper half says how often that was done, as in a total: the process
/// that comes in its place can soon have counted as many, and a worker that clears too late must not take those for the
/// old ones.
pub(super) fn clear_count(count: &AtomicU64, is_for_me: impl Fn() -> bool) {
    step();
    let left = count.load(SeqCst);
    step();
    if left & NUMBER != 0 && is_for_me() {
        step();
        let cleared = (left & !NUMBER).wrapping_add(REPAIRED);
        // If it was changed meanwhile, it belongs to a new process and is not cleared.
        let _ = count.compare_exchange(left, cleared, SeqCst, SeqCst);
    }
}

/// Sets a total to the sum of its parts, and of what is in transit between them. `false` if a worker was found counting
/// each time.
pub(super) fn repair<'a>(
    total: &AtomicU64,
    parts: impl Iterator<Item = &'a AtomicU64> + Clone,
    in_transit: impl Fn() -> u64,
) -> bool {
    for _ in 0..ATTEMPTS {
        let first = read(parts.clone());
        step();
        let was = total.load(Acquire);
        let in_transit = in_transit();
        let Some(sum) = first.filter(|first| read(parts.clone()) == Some(*first)) else {
            std::hint::spin_loop();
            continue;
        };
        let surplus = (was & NUMBER).wrapping_sub(sum.number + in_transit);
        if surplus == 0 {
            return true;
        }
        let repaired = |now: u64| {
            // Wrapping, so a negative surplus works too. A total is never smaller than its parts, but if it were, the parts
            // would be right.
            let number = now.wrapping_sub(surplus) & NUMBER;
            (now & !NUMBER == was & !NUMBER).then_some((now & !NUMBER).wrapping_add(REPAIRED) | number)
        };
        step();
        if total.fetch_update(SeqCst, SeqCst, repaired).is_ok() {
            return true;
        }
    }
    false
}

#[derive(Clone, Copy, PartialEq)]
struct Sum {
    number: u64,
    /// The sum of all numbers of changes. These only grow, so an equal sum means that each is equal.
    changes: u64,
}

/// The sum of all parts. `None` if one is being changed.
fn read<'a>(parts: impl Iterator<Item = &'a AtomicU64>) -> Option<Sum> {
    let mut sum = Sum { number: 0, changes: 0 };
    for part in parts {
        step();
        let part = part.load(Acquire);
        if part & UNDER_WAY != 0 {
            return None;
        }
        sum.number += (part & NUMBER) / ONE;
        sum.changes += part / CHANGED;
    }
    Some(sum)
}
