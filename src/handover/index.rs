//! Which worker may have an idle connection. Memory shared by the workers of a configuration.
//!
//! ```text
//!   process of worker 0, 1, ..
//!   row of worker 0: 256 notes     a note: tag of the key (32 bits) | when a connection with the key was last stored (32 bits)
//!   row of worker 1: ..
//! ```
//!
//! A worker notes each connection that it stores, in its own row, and nothing when one is taken: so a note only says that it
//! makes sense to ask, and a question in vain clears it. Under load a worker stores a connection every few milliseconds. It
//! is not asked then: its connections are in use, and an answer would take longer than to open one.
//!
//! A note is one word, and says nothing of other words, so it is relaxed: one that is seen late costs a question in vain, or a
//! connection that is opened.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;

/// The number of notes in a row. Keys that fall on the same note replace each other.
const NOTES: usize = 256;

/// How long ago a connection must have been stored for its worker to be asked, in milliseconds.
pub const MIN_IDLE: Msec = 50;

/// The index of one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    words: &'static [AtomicU64],
    workers: usize,
}

/// The row of this worker.
#[derive(Clone, Copy, Debug)]
pub struct Row(&'static [AtomicU64; NOTES]);

/// Stands for a key: a hash of it and of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// The tag of a key with this hash, in the upstream with this number.
    #[inline]
    pub fn new(hash: u32, upstream: usize) -> Self {
        Self(hash ^ (upstream as u32).wrapping_mul(0x9e37_79b9))
    }
}

impl Index {
    /// The size of the memory for a number of workers, in words of 8 bytes.
    pub fn size(workers: usize) -> usize {
        workers * (1 + NOTES)
    }

    /// An index. `None` if there are fewer words than [`Index::size`].
    pub fn new(words: &'static [AtomicU64], workers: usize) -> Option<Self> {
        (words.len() >= Self::size(workers)).then_some(Self { words, workers })
    }

    /// A process becomes a worker, perhaps in place of one that was killed: it has no connections. Returns its row. `None` if the
    /// process before it is not gone: nginx starts workers again with the same numbers if a binary upgrade is taken back.
    pub fn enter(&self, worker: usize, process: u64, is_gone: impl Fn(u64) -> bool) -> Option<Row> {
        let row = self.row(worker)?;
        let place = self.words.get(worker)?;
        let before = place.load(SeqCst);
        if before != 0 && before != process && !is_gone(before) {
            return None;
        }
        place.store(process, SeqCst);
        self.leave(worker);
        Some(row)
    }

    /// The process of a worker, if one has entered.
    pub fn process(&self, worker: usize) -> Option<u64> {
        let process = self.words.get(worker).filter(|_| worker < self.workers)?.load(SeqCst);
        (process != 0).then_some(process)
    }

    /// The worker has no connections any more.
    pub fn leave(&self, worker: usize) {
        if let Some(Row(notes)) = self.row(worker) {
            // Memory that was never touched costs nothing, so it stays untouched.
            notes.iter().filter(|note| note.load(Relaxed) != 0).for_each(|note| note.store(0, Relaxed));
        }
    }

    /// A worker that may have an idle connection, and `may_ask`. The search begins behind the worker `me`, so that not all ask
    /// the same one.
    pub fn holder(&self, tag: Tag, me: usize, now: Msec, may_ask: impl Fn(usize) -> bool) -> Option<usize> {
        let others = (1..self.workers).map(|step| (me + step) % self.workers);
        let mut holders = others.filter(|worker| self.row(*worker).is_some_and(|row| row.has(tag, now)));
        holders.find(|worker| may_ask(*worker))
    }

    fn row(&self, worker: usize) -> Option<Row> {
        let notes = self.words.get(self.workers..)?.chunks_exact(NOTES).nth(worker)?;
        (worker < self.workers).then_some(())?;
        notes.first_chunk().map(Row)
    }
}

impl Row {
    /// Notes that a connection was stored now.
    #[inline]
    pub fn note(self, tag: Tag, now: Msec) {
        self.at(tag).store((u64::from(tag.0) << 32) | u64::from(now as u32 | 1), Relaxed);
    }

    /// Notes that there is no such connection.
    pub fn clear(self, tag: Tag) {
        if self.at(tag).load(Relaxed) >> 32 == u64::from(tag.0) {
            self.at(tag).store(0, Relaxed);
        }
    }

    /// Whether a connection was stored, but not recently.
    fn has(self, tag: Tag, now: Msec) -> bool {
        let note = self.at(tag).load(Relaxed);
        let age = (now as u32 | 1).wrapping_sub(note as u32);
        // The clocks of two processes can differ by a moment: what is in the future is recent.
        note != 0 && note >> 32 == u64::from(tag.0) && age >= MIN_IDLE as u32 && age <= u32::MAX / 2
    }

    #[inline]
    fn at(self, tag: Tag) -> &'static AtomicU64 {
        &self.0[tag.0 as usize % NOTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(workers: usize) -> Index {
        let words: Vec<AtomicU64> = (0..Index::size(workers)).map(|_| AtomicU64::new(0)).collect();
        Index::new(words.leak(), workers).unwrap()
    }

    const TAG: Tag = Tag(0xabcd_0102);
    const GONE: fn(u64) -> bool = |_| true;

    #[test]
    fn a_worker_that_has_stored_a_connection_some_time_ago_is_found() {
        let index = index(3);
        let row = index.enter(1, 100, GONE).unwrap();
        assert_eq!(index.holder(TAG, 0, 1000, |_| true), None);
        row.note(TAG, 1000);
        assert_eq!(index.holder(TAG, 0, 1000 + MIN_IDLE - 2, |_| true), None, "too recently");
        assert_eq!(index.holder(TAG, 0, 1000 + MIN_IDLE, |_| true), Some(1));
        assert_eq!(index.holder(TAG, 2, 1000 + MIN_IDLE, |_| true), Some(1));
        assert_eq!(index.holder(TAG, 1, 1000 + MIN_IDLE, |_| true), None, "this worker itself");
        assert_eq!(index.holder(TAG, 0, 1000 + MIN_IDLE, |_| false), None);
        assert_eq!(
            index.holder(Tag(TAG.0 ^ (1 << 20)), 0, 2000, |_| true),
            None,
            "another key on the same note"
        );
        assert_eq!(index.holder(TAG, 0, 900, |_| true), None, "another clock");
    }

    #[test]
    fn a_question_in_vain_clears_the_note() {
        let index = index(2);
        let row = index.enter(1, 100, GONE).unwrap();
        row.note(TAG, 0);
        row.clear(Tag(TAG.0 ^ (1 << 20)));
        assert_eq!(index.holder(TAG, 0, 1000, |_| true), Some(1), "another key clears nothing");
        row.clear(TAG);
        assert_eq!(index.holder(TAG, 0, 1000, |_| true), None);
    }

    #[test]
    fn the_next_worker_is_asked_first() {
        let index = index(4);
        for worker in 0..4 {
            index.enter(worker, 100, GONE).unwrap().note(TAG, 0);
        }
        assert_eq!(index.holder(TAG, 3, 1000, |_| true), Some(0));
        assert_eq!(index.holder(TAG, 1, 1000, |_| true), Some(2));
        assert_eq!(index.holder(TAG, 1, 1000, |worker| worker != 2), Some(3));
    }

    #[test]
    fn a_process_that_comes_or_goes_has_no_connections() {
        let index = index(2);
        index.enter(1, 100, GONE).unwrap().note(TAG, 0);
        index.enter(1, 100, GONE).unwrap();
        assert_eq!(index.holder(TAG, 0, 1000, |_| true), None);
        index.enter(1, 100, GONE).unwrap().note(TAG, 0);
        index.leave(1);
        assert_eq!(index.holder(TAG, 0, 1000, |_| true), None);
        assert!(index.enter(2, 1, GONE).is_none());
        assert_eq!([index.process(0), index.process(1), index.process(2)], [None, Some(100), None]);
        assert!(index.enter(1, 200, |_| false).is_none(), "the process before it lives");
        assert!(index.enter(1, 100, |_| false).is_some(), "it is the same");
    }

    #[test]
    fn the_time_may_wrap_around() {
        let index = index(2);
        index.enter(1, 100, GONE).unwrap().note(TAG, u32::MAX as Msec - 10);
        assert_eq!(index.holder(TAG, 0, u32::MAX as Msec + 100, |_| true), Some(1));
    }

    #[test]
    fn upstreams_with_equal_keys_have_different_tags() {
        assert_ne!(Tag::new(7, 0), Tag::new(7, 1));
    }
}
