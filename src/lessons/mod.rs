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
#[cfg(loom)]
pub mod orders;
mod owner;
pub mod record;
mod rule;
#[cfg(test)]
mod tests;
pub mod text;
mod words;

use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;
use crate::base::hash::hash_bytes;

use owner::Owner;
pub use record::{
    Bound, Change, Expired, Known, Lesson, Limited, Verdict, View, Witness, BEHIND, BEHIND_WATCH,
};
use words::Record;
pub use words::{Body, Head, BLOCK_WORDS, BODY_WORDS, HEAD_WORDS, IN_BLOCK};

/// How many records a search looks at.
const PROBES: usize = 24;

/// The record of a server to which no connection was opened for longer than this can be given to another server, in units of
/// [`Owner`]: two hours. Connections that are as old would use the wrong record, but `keepalive_time` closes them before.
const UNUSED: i16 = 110;

/// The records of one configuration.
pub struct Lessons {
    words: &'static [AtomicU64],
    _owner: Box<dyn Send + Sync>,
}

impl Lessons {
    /// The size of the memory for a number of servers, in words of 8 bytes.
    pub fn size(servers: usize) -> usize {
        // With so many to choose from, hardly any server finds none.
        let records = (servers / 4).saturating_mul(7).saturating_add(7 + PROBES);
        records.div_ceil(IN_BLOCK).saturating_mul(BLOCK_WORDS)
    }

    /// Records in memory that `owner` owns: zeros, of the [size](Self::size) for a number of servers.
    pub fn new(words: &'static [AtomicU64], owner: Box<dyn Send + Sync>) -> Self {
        Self { words, _owner: owner }
    }

    /// Begins with what `last` knows of the server at an address, in a new configuration that has this server.
    pub fn inherit(&self, last: &Self, address: &[u8]) {
        if let Some(former) = last.find(fingerprint(address)) {
            self.copy(&former, Owner::of(former.0));
        }
    }

    /// Begins with what `last` knows of any other server, as far as there is room: it may come back, if servers change. Its record
    /// can be given to another one at any time, until a connection to it is opened.
    pub fn inherit_others(&self, last: &Self, now: Msec) {
        for former in last.records() {
            let owner = Owner::of(former.0);
            if self.find(owner.key()).is_none() {
                self.copy(&former, owner.unused_for(UNUSED + 1, now));
            }
        }
    }

    /// Copies a record of the last configuration, if it says anything, and there is room.
    fn copy(&self, former: &Record, owner: Owner) {
        if let Some(record) = owner.has_body().then(|| self.claim(owner)).flatten() {
            words::copy(former, &record);
        }
    }

    /// What is known of the server at an address, to which a connection is opened at `now`. [`Lesson::none()`] if there is no
    /// record for it.
    pub fn of(&self, address: &[u8], now: Msec) -> Lesson {
        let owner = Owner::new(fingerprint(address), now);
        self.place(owner, now).map_or(Lesson::none(), |Record(head, body)| Lesson::new(head, body))
    }

    /// What is known of the server at an address, to be shown.
    pub fn view(&self, address: &[u8], now: Msec) -> View {
        let found = self.find(fingerprint(address));
        found.map_or_else(View::default, |Record(head, body)| Lesson::new(head, body).view(now))
    }

    fn find(&self, key: u64) -> Option<Record> {
        let owner = |record: &Record| Owner::of(record.0).key();
        // Records are not given back, so a free one ends the search.
        self.candidates(key).take_while(|record| owner(record) != 0).find(|record| owner(record) == key)
    }

    /// How many records there are.
    fn number(&self) -> usize {
        self.words.len() / BLOCK_WORDS * IN_BLOCK
    }

    fn record(&self, number: usize) -> Option<Record> {
        let block = self.words.get(number / IN_BLOCK * BLOCK_WORDS..)?;
        let (heads, bodies) = block.split_at_checked(IN_BLOCK * HEAD_WORDS)?;
        let at = number % IN_BLOCK;
        let (head, body) = (heads.get(at * HEAD_WORDS..)?, bodies.get(at * BODY_WORDS..)?);
        Some(Record(head.first_chunk()?, body.first_chunk()?))
    }

    fn records(&self) -> impl Iterator<Item = Record> + '_ {
        (0..self.number()).filter_map(|number| self.record(number))
    }

    fn candidates(&self, key: u64) -> impl Iterator<Item = Record> + '_ {
        let number = self.number();
        let places = (0..PROBES.min(number)).map(move |next| (key as usize + next) % number);
        places.filter_map(|number| self.record(number))
    }

    /// The record of a server: the one that it has, or a free one, or that of a server that is not used any more.
    fn place(&self, owner: Owner, now: Msec) -> Option<Record> {
        if let Some(found) = self.claim(owner) {
            return Some(found);
        }
        let unused = |record: &Record| Owner::of(record.0).unused(now);
        let oldest = self.candidates(owner.key()).max_by_key(unused)?;
        if unused(&oldest) <= UNUSED {
            return None;
        }
        words::give(&oldest, owner).then_some(oldest)
    }

    /// The record that a server has, or a free one, which it gets.
    fn claim(&self, owner: Owner) -> Option<Record> {
        // Another worker may take it for the same server meanwhile.
        let is_own = |head| owner.renew(head) || owner.take(head) || owner.renew(head);
        self.candidates(owner.key()).find(|record| is_own(record.0))
    }
}

impl std::fmt::Debug for Lessons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lessons").field("records", &self.number()).finish_non_exhaustive()
    }
}

/// Tells addresses apart; 47 bits, and never 0. Two addresses with the same one, of which there are hardly any, share a record.
fn fingerprint(address: &[u8]) -> u64 {
    let hash = hash_bytes(hash_bytes(0x6c65_7373_6f6e, address), &(address.len() as u64).to_ne_bytes());
    (hash >> 17).max(1)
}
