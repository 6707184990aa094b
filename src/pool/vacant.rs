//! The entries that nobody uses at present, in the order in which they became so: the oldest one is the first to be needed for
//! something else.
#![forbid(unsafe_code)]

use crate::base::list::{Link, NONE};

/// An entry that can be in the queue.
pub(super) trait Waiting {
    /// The link to the entry that came to the queue after it.
    fn newer(&mut self) -> &mut Link;
}

#[derive(Debug)]
pub(super) struct Queue {
    newest: Link,
    oldest: Link,
}

impl Default for Queue {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE }
    }
}

impl Queue {
    /// Adds an entry that is not in the queue.
    pub(super) fn push(&mut self, entries: &mut [impl Waiting], at: Link) {
        *entries[at as usize].newer() = NONE;
        match entries.get_mut(self.newest as usize) {
            Some(newest) => *newest.newer() = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }

    /// Takes the entry that has been in the queue longest.
    pub(super) fn pop(&mut self, entries: &mut [impl Waiting]) -> Option<Link> {
        let at = self.oldest;
        self.oldest = *entries.get_mut(at as usize)?.newer();
        if self.oldest == NONE {
            self.newest = NONE;
        }
        Some(at)
    }
}
