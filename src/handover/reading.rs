//! Who reads an inbox. Memory shared by the workers of a configuration.
//!
//! Usually only its worker does. If that was killed or does not answer, another one reads it. A worker that asks whether a
//! message was lost must know that nobody else has one in hand: has read it, and not yet counted its connection.
//!
//! Each says that it reads before it does. Two that read the same inbox are ordered by the kernel's lock of the socket: who finds
//! it empty sees that the other one, which has taken the last message, reads, or else all that it has counted before it said that
//! it does not any more. Model: `src/ledger/orders.rs`.
//!
//! ```text
//!   for each worker: process of the worker while it reads its inbox | process of another worker while that reads it
//! ```
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::SeqCst;

use crate::base::atomic::AtomicU64;

/// The words of the inboxes.
#[derive(Clone, Copy, Debug)]
pub struct Readers(&'static [AtomicU64]);

/// An inbox that is being read. It is not any more when this is dropped.
#[derive(Debug)]
pub struct Reading {
    own: &'static AtomicU64,
    other: &'static AtomicU64,
}

impl Readers {
    /// The size of the memory for a number of workers, in words of 8 bytes.
    pub fn size(workers: usize) -> usize {
        2 * workers
    }

    /// `None` if there are fewer words than [`Readers::size`].
    pub fn new(words: &'static [AtomicU64], workers: usize) -> Option<Self> {
        words.get(..Self::size(workers)).map(Self)
    }

    /// The process `me` begins to read the inbox of a worker. `is_own` says that it is this worker. `None` if another worker
    /// already reads it in place of its own, which `is_gone` tells to be alive.
    pub fn begin(
        &self,
        worker: usize,
        me: u64,
        is_own: bool,
        is_gone: impl Fn(u64) -> bool,
    ) -> Option<Reading> {
        let (own, guest) = (self.0.get(2 * worker)?, self.0.get(2 * worker + 1)?);
        if is_own {
            // What a worker before this one has had in hand is lost.
            own.store(me, SeqCst);
            return Some(Reading { own, other: guest });
        }
        let before = guest.load(SeqCst);
        let is_free = before == 0 || is_gone(before);
        let begun = is_free && guest.compare_exchange(before, me, SeqCst, SeqCst).is_ok();
        begun.then_some(Reading { own: guest, other: own })
    }
}

impl Reading {
    /// Whether nobody else has a message in hand. To be asked after the inbox was read to its end.
    pub fn is_alone(&self, is_gone: impl Fn(u64) -> bool) -> bool {
        let other = self.other.load(SeqCst);
        other == 0 || is_gone(other)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.own.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers() -> Readers {
        let words: Vec<AtomicU64> = (0..Readers::size(2)).map(|_| AtomicU64::new(0)).collect();
        Readers::new(words.leak(), 2).unwrap()
    }

    const ALIVE: fn(u64) -> bool = |_| false;

    #[test]
    fn a_worker_and_another_one_know_of_each_other() {
        let readers = readers();
        let own = readers.begin(1, 100, true, ALIVE).unwrap();
        assert!(own.is_alone(ALIVE));
        let guest = readers.begin(1, 200, false, ALIVE).unwrap();
        assert!(!own.is_alone(ALIVE) && !guest.is_alone(ALIVE));
        assert!(own.is_alone(|process| process == 200), "it was killed");
        drop(own);
        assert!(guest.is_alone(ALIVE));
        assert!(readers.begin(0, 200, false, ALIVE).unwrap().is_alone(ALIVE), "another inbox");
    }

    #[test]
    fn one_other_worker_at_a_time_reads_it() {
        let readers = readers();
        let first = readers.begin(1, 200, false, ALIVE).unwrap();
        assert!(readers.begin(1, 300, false, ALIVE).is_none());
        let second = readers.begin(1, 300, false, |process| process == 200).unwrap();
        drop(second);
        drop(first);
        assert!(readers.begin(1, 300, false, ALIVE).is_some());
        assert!(readers.begin(2, 300, false, ALIVE).is_none(), "no such worker");
    }

    #[test]
    fn a_worker_takes_the_place_of_one_that_was_killed() {
        let readers = readers();
        std::mem::forget(readers.begin(1, 100, true, ALIVE));
        let guest = readers.begin(1, 200, false, ALIVE).unwrap();
        assert!(!guest.is_alone(ALIVE) && guest.is_alone(|process| process == 100));
        drop(readers.begin(1, 101, true, ALIVE).unwrap());
        assert!(guest.is_alone(ALIVE));
    }
}
