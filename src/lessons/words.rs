//! The words of a record. They lie in memory that workers share. What workers decide by is read without the lock (`KNOWN`,
//! `AGE`, `CAUTIOUS`); the others are for whoever has it.
//!
//! ```text
//!   a block     head 0, 1, .. 255                | body 0, 1, .. 255
//!               owner, known: what requests read | what was seen
//!               4 kB: touched when a             | 44 kB: touched when something
//!               connection is opened             | was seen of the server
//! ```
//!
//! Most words are relaxed: the lock orders those of the body for whoever has it, and others read single words, which need not fit
//! each other. Where they must, the place says so. Models: `orders.rs`.
//!
//! Most servers close nothing early, so most bodies are never touched. Memory that was never touched costs nothing; reading
//! touches it too.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::opinion::{Sighting, Unit, BLURRED_BAND, REMEMBERED, SHARP_BAND};
use super::owner::Owner;
use super::record::Witness;
use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;

/// The words of a head.
pub const HEAD_WORDS: usize = 2;
/// The words of a body.
pub const BODY_WORDS: usize = 22;
/// How many records a block has: the heads are one page.
pub const IN_BLOCK: usize = 256;
/// The words of a block: whole pages.
pub const BLOCK_WORDS: usize = IN_BLOCK * (HEAD_WORDS + BODY_WORDS);

/// The head of a record.
pub type Head = [AtomicU64; HEAD_WORDS];
/// The body of a record.
pub type Body = [AtomicU64; BODY_WORDS];

/// In the head: whose record it is, see [`Owner`]; 0 if it is free.
pub(super) const OWNER: usize = 0;
/// In the head: the two bounds that requests observe, two halves: of the age, and of the number of requests.
pub(super) const KNOWN: usize = 1;

// In the body.
/// The process that changes the record, or 0.
pub(super) const LOCK: usize = 0;
/// The lowest age at which the server closes, and how much earlier nginx does, in milliseconds: two halves.
pub(super) const AGE: usize = 1;
/// The greatest age of a connection for a request that cannot be repeated, and until when that holds.
pub(super) const CAUTIOUS: usize = 2;
pub(super) const CAUTIOUS_UNTIL: usize = 3;
/// When the server was last seen to close a connection.
pub(super) const SEEN: usize = 4;
/// A round trip, in milliseconds; and how many requests the connection has served that is used further to watch the server: two
/// halves.
pub(super) const TRIP: usize = 5;
/// What was seen of ages, and of numbers of requests.
pub(super) const AGES: Part = Part(6);
pub(super) const REQUESTS: Part = Part(AGES.0 + PART);
/// How many connections have reached the same end that the server has announced, and their age: two halves.
pub(super) const EXPIRED: usize = REQUESTS.0 + PART;
const _: () = assert!(EXPIRED < BODY_WORDS);

/// A part of a record: the sightings, two in a word, the newest first; the last burst of closes; until when a connection watches
/// the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part(usize);

/// The words of a part.
const PART: usize = WATCHED + 1;
/// Of the last burst, its lowest and its highest value, two halves; then when it began, and two numbers: see [`Record::burst`].
const BURST: usize = REMEMBERED / 2;
const BURST_BEGAN: usize = BURST + 1;
const WATCHED: usize = BURST + 2;

/// Closes within this time are a burst, in milliseconds. A server that stops closes all connections within it, at any age.
const BURST_TIME: u32 = 50;

/// So many connections that became idle together are as many sightings, which make a limit. Fewer that are closed at the same time
/// at the same age can be chance.
const BURST_COUNTS: u32 = 4;

/// The words of a record, to whoever has the lock.
pub(super) struct Record(pub(super) &'static Head, pub(super) &'static Body);

impl Part {
    pub(super) fn unit(self) -> Unit {
        if self == AGES {
            Unit::Age
        } else {
            Unit::Requests
        }
    }
}

impl Record {
    /// The bounds that requests observe.
    pub(super) fn known(&self) -> u64 {
        self.0[KNOWN].load(Relaxed)
    }

    pub(super) fn set_known(&self, known: u64) {
        // Whoever sees that there is a limit (by `Acquire`) sees the words of it in the body, which were written before.
        self.0[KNOWN].store(known, Release);
    }

    pub(super) fn get(&self, word: usize) -> u64 {
        self.1[word].load(Relaxed)
    }

    pub(super) fn set(&self, word: usize, value: u64) {
        self.1[word].store(value, Relaxed);
    }

    /// Notes that a connection was closed at a value. Connections that are closed in the same burst at values that are `equal`
    /// became idle together: that is enough to know the limit, unless another one has lived longer. If their values are not equal,
    /// but could be of a sharp limit, they are one sighting, of the lowest; if they could be of a blurred one, they are two, of the
    /// lowest and the highest: the server looks at its connections from time to time. If they differ too much for a limit, they
    /// are none: the server stops, or is short of connections. Numbers of requests are one sighting or none, as connections that
    /// are used in turn have served about as many when a server stops: of these, no two are `equal`.
    pub(super) fn see_close(&self, part: Part, now: u64, value: u32, equal: Option<u32>) {
        let (began, closes, counts) = self.burst(part);
        if self.is_new_burst(part, now) {
            self.set(part.0 + BURST, whole(value, value));
            self.set_burst(part, now as u32, 1, 1);
            return self.push(part, Sighting::closed(value));
        }
        let (lowest, highest) = halves(self.get(part.0 + BURST));
        let (low, high) = (lowest.min(value), highest.max(value));
        self.set(part.0 + BURST, whole(low, high));
        if counts == 0 {
            return;
        }
        let are_equal = equal.is_some_and(|equal| high - low <= equal);
        let now_counts = match high - low {
            _ if are_equal && closes + 1 >= BURST_COUNTS && !self.has_lived(part, high) => BURST_COUNTS,
            range if range <= low / SHARP_BAND => 1,
            range if range <= low / BLURRED_BAND && part == AGES => 2,
            _ => 0,
        };
        (0..counts).for_each(|_| self.take_close_back(part));
        let values = (0..now_counts).map(|nth| if nth == 0 && now_counts > 1 { high } else { low });
        values.for_each(|value| self.push(part, Sighting::closed(value)));
        self.set_burst(part, began, closes + 1, now_counts);
    }

    /// Notes that a connection was closed at a value that is no limit: nor are the others of the same burst.
    pub(super) fn see_accident(&self, part: Part, now: u64) {
        let (mut began, _, counts) = self.burst(part);
        if self.is_new_burst(part, now) {
            began = now as u32;
            self.set(part.0 + BURST, whole(1, 1));
        } else {
            (0..counts).for_each(|_| self.take_close_back(part));
        }
        self.set_burst(part, began, 1, 0);
    }

    /// When the last burst began, how many closes it has had, and how many of the sightings are of it.
    fn burst(&self, part: Part) -> (u32, u32, u32) {
        let (began, numbers) = halves(self.get(part.0 + BURST_BEGAN));
        (began, numbers >> 8, numbers & 0xff)
    }

    fn set_burst(&self, part: Part, began: u32, closes: u32, counts: u32) {
        self.set(part.0 + BURST_BEGAN, whole(began, (closes.min(1 << 16) << 8) | counts));
    }

    fn is_new_burst(&self, part: Part, now: u64) -> bool {
        let (began, ..) = self.burst(part);
        (now as u32).wrapping_sub(began) > BURST_TIME || self.get(part.0 + BURST) == 0
    }

    /// Notes that a connection was open at a value. That is remembered once between two closes, or forgotten together with the
    /// newest closes if it was clearly more than those, and something higher is known: they were accidents.
    pub(super) fn live(&self, part: Part, value: u32) {
        let Some(newest) = Sighting::from_bits(self.sightings(part)[0]) else { return };
        if !newest.is_close() {
            if value <= newest.value() {
                return;
            }
            self.take_back(part, 0);
        }
        let all = self.sightings(part);
        let sighting = |at: &usize| all.get(*at).copied().and_then(Sighting::from_bits);
        let is_outlived = |it: Sighting| it.is_close() && part.unit().clearly_more(it.value()) <= value;
        let accidents = (0..REMEMBERED).take_while(|at| sighting(at).is_some_and(is_outlived)).count();
        if accidents > 0 && sighting(&accidents).is_some_and(Sighting::is_close) {
            (0..accidents).for_each(|_| self.take_back(part, 0));
            let (began, closes, _) = self.burst(part);
            self.set_burst(part, began, closes, 0);
        } else {
            self.push(part, Sighting::lived(value));
        }
    }

    /// Whether a connection may stay to watch the server from now on, for a time: if no other one does. Of many connections few
    /// stay.
    pub(super) fn watch(&self, part: Part, now: u64, time: u32) -> bool {
        let until = self.get(part.0 + WATCHED);
        let is_free = until == 0 || since(now, until) >= 0;
        if is_free {
            self.set(part.0 + WATCHED, now.wrapping_add(time.into()).max(1));
        }
        is_free
    }

    /// The sightings, the newest first.
    pub(super) fn list<'a>(&self, part: Part, memory: &'a mut [Sighting; REMEMBERED]) -> &'a [Sighting] {
        let mut number = 0;
        let sightings = self.sightings(part).into_iter().map_while(Sighting::from_bits);
        for (to, from) in memory.iter_mut().zip(sightings) {
            *to = from;
            number += 1;
        }
        &memory[..number]
    }

    /// Forgets all sightings.
    pub(super) fn forget(&self, part: Part) {
        self.write(part, &[0; REMEMBERED]);
        self.set(part.0 + BURST_BEGAN, 0);
        self.set(part.0 + BURST, 0);
    }

    fn sightings(&self, part: Part) -> [u32; REMEMBERED] {
        let mut all = [0; REMEMBERED];
        for (pair, word) in all.chunks_exact_mut(2).zip(&self.1[part.0..]) {
            let (newer, older) = halves(word.load(Relaxed));
            pair.copy_from_slice(&[newer, older]);
        }
        all
    }

    fn write(&self, part: Part, all: &[u32; REMEMBERED]) {
        for (pair, word) in all.chunks_exact(2).zip(&self.1[part.0..]) {
            word.store(whole(pair[0], pair[1]), Relaxed);
        }
    }

    fn push(&self, part: Part, sighting: Sighting) {
        let mut all = self.sightings(part);
        all.rotate_right(1);
        all[0] = sighting.to_bits();
        self.write(part, &all);
    }

    /// Whether a connection was open at more than this value.
    fn has_lived(&self, part: Part, value: u32) -> bool {
        let mut sightings = self.sightings(part).into_iter().map_while(Sighting::from_bits);
        sightings.any(|it| !it.is_close() && it.value() > value)
    }

    /// Removes a sighting.
    fn take_back(&self, part: Part, at: usize) {
        let mut all = self.sightings(part);
        all[at..].rotate_left(1);
        all[REMEMBERED - 1] = 0;
        self.write(part, &all);
    }

    /// Removes the newest close.
    fn take_close_back(&self, part: Part) {
        let is_close = |bits: &u32| Sighting::from_bits(*bits).is_some_and(Sighting::is_close);
        if let Some(at) = self.sightings(part).iter().position(is_close) {
            self.take_back(part, at);
        }
    }
}

/// The lock of a record. A process that was killed loses it.
pub(super) struct Lock<'a>(&'a AtomicU64);

impl<'a> Lock<'a> {
    pub(super) fn take(word: &'a AtomicU64, who: &Witness) -> Option<Self> {
        const SPINS: usize = if cfg!(loom) { 1 } else { 1000 };
        for _ in 0..SPINS {
            match word.compare_exchange(0, who.process, Acquire, Relaxed) {
                Ok(_) => return Some(Self(word)),
                Err(_) => std::hint::spin_loop(),
            }
        }
        let holder = word.load(Relaxed);
        let is_lost = holder != 0 && holder != who.process && !(who.is_alive)(holder);
        let taken = is_lost && word.compare_exchange(holder, who.process, Acquire, Relaxed).is_ok();
        // A value that is made too early would give the lock of the other process back.
        taken.then(|| Self(word))
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.store(0, Release);
    }
}

/// How much later one time is than another, in milliseconds; negative if it is earlier. The clock wraps around.
pub(super) fn since(now: u64, then: u64) -> isize {
    (now as Msec).wrapping_sub(then as Msec) as isize
}

pub(super) fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

pub(super) fn whole(low: u32, high: u32) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

/// Copies what is known to a record that has the same server, and that nobody else uses yet. If another process changes it
/// meanwhile, some of the sightings may be there twice, or not at all.
pub(super) fn copy(from: &Record, to: &Record) {
    to.set_known(from.known());
    Owner::note_body(to.0);
    for (word, (from, to)) in from.1.iter().zip(to.1).enumerate() {
        if ![LOCK, AGES.0 + WATCHED, REQUESTS.0 + WATCHED].contains(&word) {
            to.store(from.load(Relaxed), Relaxed);
        }
    }
}

/// Gives the record of a server that is not used any more to another one. `false` if somebody else changes it.
pub(super) fn give(record: &Record, owner: Owner) -> bool {
    // No process has this number.
    const NOBODY: u64 = u64::MAX;
    let has_body = Owner::of(record.0).has_body();
    let lock =
        has_body.then(|| Lock::take(&record.1[LOCK], &Witness { process: NOBODY, is_alive: |_| true }));
    if matches!(lock, Some(None)) {
        return false;
    }
    if has_body {
        record.set_known(0);
        record.1.iter().skip(LOCK + 1).for_each(|word| word.store(0, Relaxed));
    }
    // Last, and by a release: whoever finds the new owner sees nothing of the former one.
    owner.replace(record.0);
    true
}
