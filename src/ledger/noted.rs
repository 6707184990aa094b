//! Which server has which number, and its limit.
//!
//! Workers look for a server without a lock, while another worker may note one. The first word of a place has a mark while
//! the other words are written, and a new value afterwards. So a reader notices if it has read some words before the change
//! and some after it. Writers exclude each other by a lock. A worker that is killed while it holds the lock leaves a place
//! with the mark: the server is not found there, and the next worker that notes it, or needs the place, writes it again.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::lock::Lock;
use super::{step, tally, Ledger, Server, ADDRESS, GENERATION, HEAD, LIMIT, OPEN, REQUESTS};
use crate::base::address::MAX_ADDRESS;
use crate::base::atomic::{fence, AtomicU64};
use crate::base::clock::Msec;
use crate::base::hash::{hash_bytes, words_of};

// The first word of a place: the length of the address, a mark, and how often the place was written. It is 0 if the place
// was never used.
/// The bits of the length of the address.
const LENGTH: u64 = 0xff;
/// The mark of a place that is being written.
const CHANGING: u64 = 1 << 8;
/// One, in the number of times the place was written.
const WRITTEN: u64 = 1 << 9;

/// A value that is not the number of any generation.
const NO_GENERATION: u64 = u64::MAX;

/// How often a place is read until no worker is found writing it.
const ATTEMPTS: usize = if cfg!(any(test, loom)) { 4 } else { 100 };

/// What is at a place.
enum Found {
    /// The place was never used: the server is not behind it either.
    Nothing,
    /// Another server.
    Another,
    /// The server.
    Wanted { limit: u64, generation: u64 },
}

impl Ledger {
    /// The server at an address, if it was noted in this generation, and whether it has a limit.
    pub fn find(&self, address: &[u8], generation: u64) -> Option<(Server, bool)> {
        for server in self.places(address) {
            match self.look(server, address) {
                Found::Nothing => return None,
                Found::Another => {}
                Found::Wanted { limit, generation: of } => {
                    return (of == generation).then_some((server, limit > 0));
                }
            }
        }
        None
    }

    /// Notes the limit of a server, 0 for none. A server of another generation without connections and requests gives up its
    /// place if necessary. `is_gone` tells whether a process has ended. `None` if there is no room, if the address is longer
    /// than [`MAX_ADDRESS`], or if another worker was stopped while it noted a server.
    pub fn note(
        &self,
        address: &[u8],
        limit: u64,
        generation: u64,
        now: Msec,
        is_gone: impl Fn(u64) -> bool,
    ) -> Option<Server> {
        if address.len() > MAX_ADDRESS {
            return None;
        }
        let lock = match self.changing && self.is_shared() {
            true => Some(Lock::take(&self.table.words()[0], self.identity(), now, &self.stuck, is_gone)?),
            false => None,
        };
        let (known, free) = self.probe(address, generation);
        match (known, free) {
            (Some(server), _) => self.write(server, None, limit, generation),
            (None, Some(server)) => self.write(server, Some(address), limit, generation),
            (None, None) => {}
        }
        if let Some(lock) = lock {
            lock.release();
        }
        known.or(free)
    }

    /// Notes the same servers as `from`, another table of the same size, at the same places. Nothing else was noted before.
    pub(super) fn copy_noted(&self, from: &[AtomicU64]) {
        // Other workers may be writing servers that come and go. Those are noted when they are first used.
        let servers = if self.changing { 0 } else { self.servers };
        for server in 0..servers as Server {
            for at in HEAD..=GENERATION {
                let word = from[self.index_of(server, at)].load(Relaxed);
                // Memory that was never touched costs nothing, so it stays untouched.
                if word != 0 {
                    self.word(server, at).store(word, Relaxed);
                }
            }
        }
    }

    /// The address of a server, and its length. The server must have requests or connections, so that its place does not
    /// change.
    pub(super) fn address(&self, server: Server) -> ([u8; MAX_ADDRESS], usize) {
        let mut address = [0; MAX_ADDRESS];
        let words = (0..MAX_ADDRESS / 8).map(|at| self.word(server, ADDRESS + at).load(Relaxed));
        address.iter_mut().zip(words.flat_map(u64::to_ne_bytes)).for_each(|(to, from)| *to = from);
        (address, (self.word(server, HEAD).load(Relaxed) & LENGTH) as usize)
    }

    /// Whether the place of a server was ever used.
    pub(super) fn is_used(&self, server: Server) -> bool {
        self.word(server, HEAD).load(Acquire) != 0
    }

    /// The places at which an address can be, in the order of the search.
    fn places(&self, address: &[u8]) -> impl Iterator<Item = Server> {
        let (start, mask) = (hash_bytes(0, address) as usize, self.servers - 1);
        (0..self.servers).map(move |step| (start.wrapping_add(step) & mask) as Server)
    }

    #[inline]
    fn look(&self, server: Server, address: &[u8]) -> Found {
        let word = |at| self.word(server, at);
        for _ in 0..ATTEMPTS {
            step();
            let head = word(HEAD).load(Acquire);
            if head == 0 {
                return Found::Nothing;
            }
            if head & CHANGING != 0 {
                std::hint::spin_loop();
                continue;
            }
            let same = head & LENGTH == address.len() as u64 && self.has_address(server, address);
            step();
            let (limit, generation) = (word(LIMIT).load(Relaxed), word(GENERATION).load(Relaxed));
            // If a word of a change was read, the mark of the change is visible behind this fence, because the writer has a
            // fence after the mark.
            fence(Acquire);
            step();
            if word(HEAD).load(Relaxed) == head {
                return if same { Found::Wanted { limit, generation } } else { Found::Another };
            }
        }
        // The worker that writes it was interrupted, stopped or killed.
        Found::Another
    }

    /// Looks for a server, under the lock. Returns its place, or a place at which it can be noted.
    fn probe(&self, address: &[u8], generation: u64) -> (Option<Server>, Option<Server>) {
        let mut free = None;
        for server in self.places(address) {
            match self.word(server, HEAD).load(Relaxed) {
                0 => return (None, free.or(Some(server))),
                head if head & LENGTH == address.len() as u64
                    && !self.is_half_written(server, head)
                    && self.has_address(server, address) =>
                {
                    return (Some(server), None)
                }
                head if free.is_none() && self.is_left_over(server, head, generation) => free = Some(server),
                _ => {}
            }
        }
        (None, free)
    }

    /// Writes a place, under the lock. `address` is `None` if it stays the same.
    fn write(&self, server: Server, address: Option<&[u8]>, limit: u64, generation: u64) {
        let word = |at, value| {
            step();
            self.word(server, at).store(value, Relaxed);
        };
        let head = self.word(server, HEAD).load(Relaxed);
        let length = address.map_or(head & LENGTH, |address| address.len() as u64);
        let written = (head & !(CHANGING | LENGTH)).wrapping_add(WRITTEN);
        word(HEAD, head & !LENGTH | CHANGING | length);
        // The mark comes first.
        fence(Release);
        if let Some(address) = address {
            word(GENERATION, NO_GENERATION);
            for (at, value) in words_of(address).enumerate() {
                word(ADDRESS + at, value);
            }
        }
        word(LIMIT, limit);
        word(GENERATION, generation);
        step();
        self.word(server, HEAD).store(written | length, Release);
    }

    fn has_address(&self, server: Server, address: &[u8]) -> bool {
        step();
        words_of(address).enumerate().all(|(at, word)| self.word(server, ADDRESS + at).load(Relaxed) == word)
    }

    /// Whether a worker was killed while it wrote another address to the place: what is there may be neither of the two.
    fn is_half_written(&self, server: Server, head: u64) -> bool {
        head & CHANGING != 0 && self.word(server, GENERATION).load(Relaxed) == NO_GENERATION
    }

    /// Whether a place can be given to another server: it is of another generation, or a worker was killed while it wrote it;
    /// and the server has no connections and no requests.
    fn is_left_over(&self, server: Server, head: u64, generation: u64) -> bool {
        (head & CHANGING != 0 || self.word(server, GENERATION).load(Relaxed) != generation)
            && [OPEN, REQUESTS].iter().all(|at| tally::number(self.word(server, *at)) == 0)
    }
}
