//! Entries in the order in which they came.
#![forbid(unsafe_code)]

use crate::base::list::{Link, NONE};

/// An entry that can be in the queue.
pub(super) trait Queued {
    /// The link to the entry that came to the queue after it.
    fn newer(&mut self) -> &mut Link;
}

/// A queue: first in, first out. None leaves it in between.
#[derive(Debug)]
pub(super) struct Fifo {
    newest: Link,
    oldest: Link,
}

impl Default for Fifo {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE }
    }
}

impl Fifo {
    /// The entry that has been in the queue longest, or [`NONE`].
    pub(super) fn oldest(&self) -> Link {
        self.oldest
    }

    /// Adds an entry that is not in the queue.
    pub(super) fn push(&mut self, entries: &mut [impl Queued], at: Link) {
        *entries[at as usize].newer() = NONE;
        match entries.get_mut(self.newest as usize) {
            Some(newest) => *newest.newer() = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }

    /// Takes the entry that has been in the queue longest.
    pub(super) fn pop(&mut self, entries: &mut [impl Queued]) -> Option<Link> {
        let at = self.oldest;
        self.oldest = *entries.get_mut(at as usize)?.newer();
        if self.oldest == NONE {
            self.newest = NONE;
        }
        Some(at)
    }
}
