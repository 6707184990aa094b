//! A number that all workers count together, of which each has its part: exact however many count at once, and wherever
//! one of them is killed.
//!
//! ```text
//!   total   how often it was repaired (32 bits) | number (32 bits)
//!   part    how often it was changed (32 bits) | number (30 bits) | adding (1 bit) | under way (1 bit)
//! ```
//!
//! Only the worker itself writes its part: it marks it, changes the total, and writes the part anew, without the mark. One
//! that is killed in between leaves the mark. Who takes its part back cannot know whether the total was changed, and need
//! not: the total is *repaired*, to what the parts of all workers come to.
//!
//! To repair it, the parts are read twice, and the total in between. If both times the parts are the same and have no
//! mark, the total and the parts that were read are of the same moment:
//!
//! - A change that was read in the total: its mark was set before. Setting the mark comes before the change of the total,
//!   which is a release; the total was read by an acquire. So the second reading finds the mark, or what was written after
//!   it; if that is what the first reading found as well, the change is in the parts too.
//! - A change that was read in the parts: they are written after the total, by a release, and read by an acquire, so that
//!   the total that is read after them has the change too.
//!
//! (The total is never written but by read-modify-write, so that whoever reads a later value of it acquires what came
//! before all changes up to then.) The difference is what killed workers have left. It stays the same while others
//! count, until it is repaired; so it is taken off the total as that is by then, unless somebody else has repaired it.
//! What a process wrote before it was killed is seen by whoever finds it gone: the kernel's own locks are in between.
#![forbid(unsafe_code)]

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use super::step;

/// One of the totals, and the part of the worker that changes it.
#[derive(Clone, Copy)]
pub(super) struct Tally<'a> {
    pub(super) total: &'a AtomicU64,
    pub(super) part: &'a AtomicU64,
}

const NUMBER: u64 = u32::MAX as u64;
const REPAIRED: u64 = 1 << 32;

const UNDER_WAY: u64 = 1;
const ADDING: u64 = 2;
const ONE: u64 = 4;
const CHANGED: u64 = 1 << 32;

/// So often the parts are read, until no worker is found counting. One that is found each time was interrupted, or stopped.
const ATTEMPTS: usize = if cfg!(test) { 4 } else { 200 };

/// The number in a total.
pub(super) fn number(total: &AtomicU64) -> u64 {
    total.load(SeqCst) & NUMBER
}

impl Tally<'_> {
    /// Adds one. Returns the number before.
    pub(super) fn add(self) -> u64 {
        let before = self.mark(UNDER_WAY | ADDING);
        step();
        // In one order with all that workers tell each other: see `Ledger::park`.
        let total = self.total.fetch_add(1, SeqCst);
        self.write(before.wrapping_add(CHANGED + ONE));
        total & NUMBER
    }

    /// Adds one, if there are less than `limit`.
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

    /// Takes one off.
    pub(super) fn take(self) {
        let before = self.mark(UNDER_WAY);
        step();
        self.total.fetch_sub(1, SeqCst);
        self.write(before.wrapping_add(CHANGED).wrapping_sub(ONE));
    }

    fn mark(self, mark: u64) -> u64 {
        // Nobody else writes it while this worker lives.
        let before = self.part.load(Relaxed);
        step();
        // Before the change of the total, as that is a release.
        self.part.store(before | mark, Relaxed);
        before
    }

    fn write(self, part: u64) {
        step();
        self.part.store(part, Release);
    }
}

/// Whether a worker has no part in a total, and is not about to have one.
pub(super) fn is_empty(part: &AtomicU64) -> bool {
    part.load(Relaxed) & NUMBER == 0
}

/// Clears the part of a worker that was killed, and returns what it was, with what was just being added; the total is to
/// be repaired then. `None` if that is not for the caller to do any more.
pub(super) fn clear(part: &AtomicU64, is_for_me: impl Fn() -> bool) -> Option<u64> {
    loop {
        step();
        let left = part.load(Acquire);
        // Asked after the part was read: whoever has this to do instead changes the part, be it empty or not, and what
        // was read is out of date then.
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

/// Makes a total what its parts come to. `false` if a worker was found counting each time.
pub(super) fn repair<'a>(total: &AtomicU64, parts: impl Iterator<Item = &'a AtomicU64> + Clone) -> bool {
    for _ in 0..ATTEMPTS {
        let first = read(parts.clone());
        step();
        let was = total.load(Acquire);
        let Some(sum) = first.filter(|first| read(parts.clone()) == Some(*first)) else {
            std::hint::spin_loop();
            continue;
        };
        let surplus = (was & NUMBER).wrapping_sub(sum.number);
        if surplus == 0 {
            return true;
        }
        let repaired = |now: u64| {
            // The sign tells which is larger; a total is never smaller than its parts, but if it were, they are right.
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
    /// A part is only ever changed more often, so the sums are the same if each is.
    changes: u64,
}

/// What all parts come to; `None` if one is being changed.
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
