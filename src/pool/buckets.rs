//! A hash table of the entries of a vector: a list for each bucket. Links are indexes, so the table grows without the entries.
#![forbid(unsafe_code)]

use super::steps;
use crate::base::list::{Link, NONE};

/// The largest number of buckets of a hash table. More would need much memory and save little time.
const MAX_BUCKETS: usize = 1 << 16;

/// An entry of the table.
pub(super) trait Hashed {
    /// The hash of the key of the entry.
    fn hash(&self) -> u32;

    /// The link to the next entry with the same bucket.
    fn next(&mut self) -> &mut Link;
}

/// The first entry of each bucket. The number of buckets is a power of two, or there are none yet.
#[derive(Debug, Default)]
pub(super) struct Buckets(Vec<Link>);

impl Buckets {
    /// The first entry with the bucket of a hash, or [`NONE`].
    #[inline(always)]
    pub(super) fn first(&self, hash: u32) -> Link {
        self.0.get(self.bucket(hash)).copied().unwrap_or(NONE)
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, entries: &mut [impl Hashed], at: Link) {
        let entry = &mut entries[at as usize];
        let bucket = self.bucket(entry.hash());
        *entry.next() = std::mem::replace(&mut self.0[bucket], at);
    }

    /// Removes an entry, if it is in the table.
    pub(super) fn remove(&mut self, entries: &mut [impl Hashed], at: Link) {
        let entry = &mut entries[at as usize];
        let next = *entry.next();
        let bucket = self.bucket(entry.hash());
        let mut link = self.0[bucket];
        if link == at {
            self.0[bucket] = next;
        }
        while let Some(entry) = entries.get_mut(link as usize).filter(|_| link != at) {
            link = *entry.next();
            if link == at {
                *entry.next() = next;
            }
        }
    }

    /// Makes buckets for a number of entries, unless there are enough. `None` if there is no memory: then nothing has changed.
    #[cold]
    pub(super) fn grow(&mut self, entries: &mut [impl Hashed], number: usize) -> Option<()> {
        let number = number.min(MAX_BUCKETS).next_power_of_two();
        if number <= self.0.len() {
            return Some(());
        }
        let mut buckets = Vec::new();
        steps::reserve(&mut buckets, number)?;
        buckets.resize(number, NONE);
        for mut at in std::mem::replace(&mut self.0, buckets) {
            while let Some(entry) = entries.get_mut(at as usize) {
                let next = *entry.next();
                self.add(entries, at);
                at = next;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn bucket(&self, hash: u32) -> usize {
        hash as usize & self.0.len().wrapping_sub(1)
    }
}
