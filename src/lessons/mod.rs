//! What the pool learns of the servers: the idle age at which a server closes connections, and the number of requests after
//! which it does, though it announces neither.
//!
//! ```text
//!   worker 1                    record of 10.0.0.1:8080                 worker 2
//!   an idle connection  ----->  ages  5.002 5.001 5.004 5.001 ..
//!   ends at an age              known  limit 4.989              ----->  closes its connections at
//!                                                                       that age, lets one watch
//! ```
//!
//! All workers share the records of a configuration, and all upstreams that name a server share its record. The next
//! configuration begins with a copy. See [`opinion`] for the rule.
#![forbid(unsafe_code)]

#[cfg(test)]
mod model;
pub mod opinion;
pub mod record;
mod rule;
#[cfg(test)]
mod tests;
pub mod text;
mod words;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::clock::Msec;
use crate::base::hash::hash_bytes;

pub use record::{
    Bound, Change, Expired, Known, Lesson, Limited, Verdict, View, Witness, BEHIND, BEHIND_WATCH,
};
pub use words::WORDS;
use words::{KEY, USED};

/// How many records a search looks at.
const PROBES: usize = 8;

/// The record of a server to which no connection was opened for this time can be given to another server, in milliseconds.
/// Connections that are as old would use the wrong record, but `keepalive_time` closes them before.
const UNUSED: isize = 7_200_000;

/// The records of one configuration.
pub struct Lessons {
    words: &'static [AtomicU64],
    _owner: Box<dyn Send + Sync>,
}

impl Lessons {
    /// The size of the memory for a number of servers, in words of 8 bytes.
    pub fn size(servers: usize) -> usize {
        (servers.saturating_mul(2) + PROBES).next_power_of_two().saturating_mul(WORDS)
    }

    /// Records in memory that `owner` owns: zeros, of the [size](Self::size) for a number of servers.
    pub fn new(words: &'static [AtomicU64], owner: Box<dyn Send + Sync>) -> Self {
        Self { words, _owner: owner }
    }

    /// Begins with what `last` knows of the server at an address, in a new configuration that has this server.
    pub fn inherit(&self, last: &Self, address: &[u8]) {
        if let Some(former) = last.find(fingerprint(address)) {
            self.copy(former);
        }
    }

    /// Begins with what `last` knows of any other server, as far as there is room: it may come back, if servers change. Its record
    /// can be given to another one at any time, until a connection to it is opened.
    pub fn inherit_others(&self, last: &Self) {
        for former in last.records() {
            let key = former[KEY].load(Relaxed);
            if key != 0 && self.find(key).is_none() {
                if let Some(record) = self.copy(former) {
                    let long_ago = former[USED].load(Relaxed).wrapping_sub(UNUSED as u64 + 1);
                    record[USED].store(long_ago, Relaxed);
                }
            }
        }
    }

    /// Copies a record of the last configuration, if there is room.
    fn copy(&self, former: &[AtomicU64; WORDS]) -> Option<&'static [AtomicU64; WORDS]> {
        let record = self.claim(former[KEY].load(Relaxed))?;
        words::copy(former, record);
        Some(record)
    }

    /// What is known of the server at an address, to which a connection is opened at `now`. [`Lesson::NONE`] if there is no
    /// record for it.
    pub fn of(&self, address: &[u8], now: Msec) -> Lesson {
        let key = fingerprint(address);
        self.place(key, now as u64).map_or(Lesson::NONE, |record| {
            record[USED].store(now as u64, Relaxed);
            Lesson::new(record)
        })
    }

    /// What is known of the server at an address, to be shown.
    pub fn view(&self, address: &[u8], now: Msec) -> View {
        self.find(fingerprint(address)).map_or_else(View::default, |record| Lesson::new(record).view(now))
    }

    fn find(&self, key: u64) -> Option<&'static [AtomicU64; WORDS]> {
        self.candidates(key).find(|record| record[KEY].load(Relaxed) == key)
    }

    fn records(&self) -> impl Iterator<Item = &'static [AtomicU64; WORDS]> {
        self.words.chunks_exact(WORDS).filter_map(<[AtomicU64]>::first_chunk)
    }

    fn candidates(&self, key: u64) -> impl Iterator<Item = &'static [AtomicU64; WORDS]> {
        let (words, number, first) = (self.words, self.words.len() / WORDS, (key >> 32) as usize);
        let places = (0..PROBES.min(number)).map(move |next| (first + next) % number * WORDS);
        places.filter_map(move |at| words.get(at..)?.first_chunk())
    }

    /// The record with a key: the one that has it, or a free one, or that of a server that is not used any more.
    fn place(&self, key: u64, now: u64) -> Option<&'static [AtomicU64; WORDS]> {
        if let Some(found) = self.claim(key) {
            return Some(found);
        }
        let unused = |record: &&[AtomicU64; WORDS]| words::since(now, record[USED].load(Relaxed));
        let oldest = self.candidates(key).max_by_key(unused)?;
        if unused(&oldest) <= UNUSED {
            return None;
        }
        words::give(oldest, key).then_some(oldest)
    }

    /// The record that has a key, or a free one, which gets it.
    fn claim(&self, key: u64) -> Option<&'static [AtomicU64; WORDS]> {
        self.find(key).or_else(|| {
            self.candidates(key).find(|record| {
                let holder = record[KEY].compare_exchange(0, key, Relaxed, Relaxed);
                holder.is_ok() || holder == Err(key)
            })
        })
    }
}

impl std::fmt::Debug for Lessons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lessons").field("records", &(self.words.len() / WORDS)).finish_non_exhaustive()
    }
}

/// Tells addresses apart; never 0. Two addresses with the same one, of which there are hardly any, share a record.
fn fingerprint(address: &[u8]) -> u64 {
    hash_bytes(hash_bytes(0x6c65_7373_6f6e, address), &(address.len() as u64).to_ne_bytes()) | 1
}
