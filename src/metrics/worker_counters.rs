//! The counters of one upstream in one worker. Configured servers have fixed places; other servers get a place when a
//! connection to them is opened first.
//!
//! A place that can be given to another server has a number of changes, which is odd during a change, so that readers
//! in other processes notice.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{
    fence, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::Arc;

use crate::base::address::MAX_ADDRESS;
use crate::base::hash::words_of;

use super::generation::Memory;
use super::http2::is_gauge;
use super::plan::{UpstreamInfo, GONE, HANDOVER, HTTP2, OTHER, QUEUE, SERVERS};
use super::{
    add, End, HandoverMeter, Http2Meter, Meter, QueueMeter, FIRST_END, HANDOVER_CELLS, HTTP2_CELLS, NOTE,
    PHASES, QUEUE_CELLS, SERVER_CELLS,
};

// Offsets of the words of a place.
const CHANGES: usize = 0;
const LENGTH: usize = 1;
const LOOKED_UP: usize = 2;
const ADDRESS: usize = 3;
const NUMBERS: usize = ADDRESS + MAX_ADDRESS / 8;
/// The words of the place of a server that is not configured.
pub(super) const PLACE_WORDS: usize = NUMBERS + SERVER_CELLS;

/// Finds the counters of servers.
pub struct WorkerCounters {
    /// The memory that the words belong to.
    memory: Arc<Memory>,
    /// The number of the upstream in it.
    number: usize,
    words: &'static [AtomicU64],
    /// The places of servers that are not configured.
    places: &'static [AtomicU64],
    /// How many of these places are taken.
    taken: Cell<usize>,
    /// How often one of these servers was looked up.
    time: Cell<u64>,
}

impl WorkerCounters {
    /// `words` are the words of the upstream in the worker's column.
    pub(super) fn new(memory: Arc<Memory>, number: usize, words: &'static [AtomicU64]) -> Self {
        let places = SERVERS + memory.plan.upstreams[number].servers.len() * SERVER_CELLS;
        let places = words.get(places..).unwrap_or(&[]);
        let used = |place: &&[AtomicU64]| place[LENGTH].load(Relaxed) > 0;
        let taken = Cell::new(places.chunks_exact(PLACE_WORDS).take_while(used).count());
        Self { memory, number, words, places, taken, time: Cell::new(0) }
    }

    /// The counters of the server at an address.
    pub fn meter(&self, address: &[u8]) -> Option<Meter> {
        match self.memory.find(self.number, address) {
            Some(at) => meter(self.words, SERVERS + at * SERVER_CELLS),
            None if self.places.is_empty() => self.other(),
            None => self.changing(address).or_else(|| self.other()),
        }
    }

    /// Whether these counters are shared by all servers that have none of their own.
    pub fn is_shared(&self, Meter(counters): Meter) -> bool {
        self.other().is_some_and(|Meter(other)| std::ptr::eq(other, counters))
    }

    /// Whether the server at an address is one of the upstream's configured servers.
    pub fn is_configured(&self, address: &[u8]) -> bool {
        self.memory.find(self.number, address).is_some()
    }

    /// The counters of the queue.
    pub fn queue(&self) -> Option<QueueMeter> {
        let words = self.words.get(QUEUE..)?.first_chunk::<QUEUE_CELLS>();
        words.map(QueueMeter)
    }

    /// The counters of the handover.
    pub fn handover(&self) -> Option<HandoverMeter> {
        let words = self.words.get(HANDOVER..)?.first_chunk::<HANDOVER_CELLS>();
        words.map(HandoverMeter)
    }

    /// The counters of the carriers.
    pub fn http2(&self) -> Option<Http2Meter> {
        let words = self.words.get(HTTP2..)?.first_chunk::<HTTP2_CELLS>();
        words.map(Http2Meter)
    }

    /// The common counters of all servers that have none of their own.
    fn other(&self) -> Option<Meter> {
        meter(self.words, OTHER)
    }

    /// The counters of a server that is not configured.
    fn changing(&self, address: &[u8]) -> Option<Meter> {
        self.time.set(self.time.get() + 1);
        let places = || self.places.chunks_exact(PLACE_WORDS);
        let known = places().take(self.taken.get()).find(|place| has_address(place, address));
        let place = match known {
            Some(place) => place,
            None => self.place_for(address)?,
        };
        place[LOOKED_UP].store(self.time.get(), Relaxed);
        meter(place, NUMBERS)
    }

    /// A place for a server that has none: a new one, or the place of the server that has no connection and whose last look-up
    /// was longest ago. A server that was looked up recently keeps its place. Otherwise, with more servers than places, they
    /// would take places from each other all the time.
    fn place_for(&self, address: &[u8]) -> Option<&'static [AtomicU64]> {
        if address.is_empty() || address.len() > MAX_ADDRESS {
            return None;
        }
        let mut places = self.places.chunks_exact(PLACE_WORDS);
        let room = places.len() as u64;
        let place = match places.nth(self.taken.get()) {
            Some(place) => {
                self.taken.set(self.taken.get() + 1);
                place
            }
            None => {
                let looked_up = |place: &&[AtomicU64]| place[LOOKED_UP].load(Relaxed);
                let vacant = self.places.chunks_exact(PLACE_WORDS).filter(|place| is_vacant(place));
                let oldest = vacant.min_by_key(looked_up)?;
                let since = self.time.get().wrapping_sub(looked_up(&oldest));
                (since > 2 * room).then_some(oldest)?
            }
        };
        self.reassign(place, address);
        Some(place)
    }

    /// Gives a place to another server. The counters of the previous server are added to the counters of [`GONE`].
    fn reassign(&self, place: &[AtomicU64], address: &[u8]) {
        add(&place[CHANGES], 1);
        fence(Release);
        if let Some(Meter(gone)) = meter(self.words, GONE) {
            for (to, from) in gone.iter().zip(&place[NUMBERS..]) {
                add(to, from.swap(0, Relaxed));
            }
        }
        for (to, word) in place[ADDRESS..NUMBERS].iter().zip(words_of(address)) {
            to.store(word, Relaxed);
        }
        place[LENGTH].store(address.len() as u64, Relaxed);
        place[CHANGES].store(place[CHANGES].load(Relaxed).wrapping_add(1), Release);
    }
}

fn meter(words: &'static [AtomicU64], at: usize) -> Option<Meter> {
    words.get(at..)?.first_chunk::<SERVER_CELLS>().map(Meter)
}

fn has_address(place: &[AtomicU64], address: &[u8]) -> bool {
    place[LENGTH].load(Relaxed) == address.len() as u64
        && place[ADDRESS..].iter().zip(words_of(address)).all(|(word, of)| word.load(Relaxed) == of)
}

/// Whether the server has no connection.
fn is_vacant(place: &[AtomicU64]) -> bool {
    place[NUMBERS..].iter().take(PHASES.len()).all(|phase| phase.load(Relaxed) == 0)
}

/// Reads the places of a worker, perhaps another one: calls `each` with the address and the counters of each server.
pub(super) fn read(places: &[AtomicU64], mut each: impl FnMut(&[u8], &[u64; SERVER_CELLS])) {
    for place in places.chunks_exact(PLACE_WORDS) {
        // Changes are rare, so a few attempts are enough.
        for _ in 0..100 {
            let before = place[CHANGES].load(Acquire);
            let mut words = [0; PLACE_WORDS];
            words.iter_mut().zip(place).for_each(|(to, from)| *to = from.load(Relaxed));
            fence(Acquire);
            if before % 2 == 1 || place[CHANGES].load(Relaxed) != before {
                std::hint::spin_loop();
                continue;
            }
            words[NUMBERS + NOTE] = 0;
            let length = words[LENGTH] as usize;
            if length == 0 {
                return;
            }
            let mut address = [0; MAX_ADDRESS];
            let bytes = words[ADDRESS..NUMBERS].iter().flat_map(|word: &u64| word.to_ne_bytes());
            address.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            if let (Some(address), Some(numbers)) = (address.get(..length), words[NUMBERS..].first_chunk()) {
                each(address, numbers);
            }
            break;
        }
    }
}

/// Ends what the worker of these words left behind, as it is gone: its connections count as ended, no request waits, there
/// are no carriers and no streams, and no place is being changed.
pub(super) fn settle(upstream: &UpstreamInfo, words: &[AtomicU64]) {
    words[QUEUE].store(0, Relaxed);
    let gauges = words[HTTP2..OTHER].iter().enumerate().filter(|(cell, _)| is_gauge(*cell));
    gauges.for_each(|(_, gauge)| gauge.store(0, Relaxed));
    let end = |numbers: &[AtomicU64]| {
        let connections = numbers
            .iter()
            .take(PHASES.len())
            .fold(0, |sum: u64, phase| sum.wrapping_add(phase.swap(0, Relaxed)));
        add(&numbers[FIRST_END + End::Exiting as usize], connections);
    };
    let places = SERVERS + upstream.servers.len() * SERVER_CELLS;
    words[OTHER..places].chunks_exact(SERVER_CELLS).for_each(end);
    let taken = words[places..].chunks_exact(PLACE_WORDS).take_while(|place| place[LENGTH].load(Relaxed) > 0);
    taken.for_each(|place| {
        end(&place[NUMBERS..]);
        place[LOOKED_UP].store(0, Relaxed);
        let changes = &place[CHANGES];
        changes.store(changes.load(Relaxed).next_multiple_of(2), Relaxed);
    });
}

/// The counters of a server of a worker that is gone: its connections count as ended.
pub(super) fn settled(mut numbers: [u64; SERVER_CELLS]) -> [u64; SERVER_CELLS] {
    let phases = &mut numbers[..PHASES.len()];
    let connections = phases.iter().fold(0, |sum: u64, phase| sum.wrapping_add(*phase));
    phases.fill(0);
    let end = &mut numbers[FIRST_END + End::Exiting as usize];
    *end = end.wrapping_add(connections);
    numbers
}
