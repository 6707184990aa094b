//! The counters of one upstream in one worker. Configured servers have fixed places; other servers get a place when a
//! connection to them is opened first.
//!
//! A place is a row of counters, and a header if it can be given to another server. The header has a number of changes, which is
//! odd during a change, so that readers in other processes notice. The fences order it with the words between: a reader that
//! sees one of a change sees that the number has changed. Model: `orders.rs`.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::Arc;

use crate::base::address::MAX_ADDRESS;
use crate::base::atomic::{fence, AtomicU64};
use crate::base::hash::words_of;

use super::generation::Memory;
use super::hint::{Cause, Hint};
use super::http2::is_gauge;
use super::lately;
use super::plan::{Spot, HANDOVER, HTTP2, QUEUE};
use super::rows::{add_to, connections, numbers, word, Row, Rows, LINE};
use super::{
    add, End, HandoverMeter, Http2Meter, Meter, QueueMeter, BEHIND, FIRST_END, HANDOVER_CELLS, HTTP2_CELLS,
    NOTE, PHASE_CELLS, QUEUE_CELLS, SERVER_CELLS,
};

// Offsets of the words of a header.
const CHANGES: usize = 0;
const LENGTH: usize = 1;
const LOOKED_UP: usize = 2;
const ADDRESS: usize = 3;
/// The words of the header of a server that is not configured.
pub(super) const HEADER_WORDS: usize = ADDRESS + MAX_ADDRESS / 8;

/// How often a place is read until it is not being changed. Changes are rare.
const ATTEMPTS: usize = if cfg!(loom) { 1 } else { 100 };

/// Finds the counters of servers.
pub struct WorkerCounters {
    /// The memory that the words belong to.
    memory: Arc<Memory>,
    /// The number of the upstream in it.
    number: usize,
    spot: Spot,
    /// The counters that belong to no server.
    words: &'static [AtomicU64],
    /// The whole column of the worker.
    column: &'static [AtomicU64],
    rows: Rows,
    /// The headers of servers that are not configured.
    headers: &'static [AtomicU64],
    /// How many of these places are taken.
    taken: Cell<usize>,
    /// How often one of these servers was looked up.
    time: Cell<u64>,
}

impl WorkerCounters {
    /// `column` is the worker's column.
    pub(super) fn new(memory: Arc<Memory>, number: usize, column: usize) -> Self {
        let spot = memory.spots[number];
        let (rows, headers) = (memory.rows(column), headers(&memory, column, &spot));
        let column = memory.column(column);
        let words = &column[spot.cells..];
        let taken = Cell::new(headers.chunks_exact(HEADER_WORDS).take_while(is_used).count());
        Self { memory, number, spot, words, column, rows, headers, taken, time: Cell::new(0) }
    }

    /// The counters of the server at an address.
    pub fn meter(&self, address: &[u8]) -> Option<Meter> {
        match self.memory.find(self.number, address) {
            Some(at) => self.rows.write(self.spot.servers + at).map(Meter),
            None if self.headers.is_empty() => self.other(),
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

    /// Notes that a connection was in vain, at `now`, in milliseconds. Returns a hint if it is to be logged: once for each cause in all
    /// workers together, and not at each reload.
    #[cold]
    pub fn note(&self, cause: Cause, now: u64) -> Option<Hint> {
        let is_time = lately::note(self.column, self.rows, &self.spot, self.memory.entered().count(), cause);
        let is_wanted = self.memory.plan.upstreams.get(self.number)?.is_wanted;
        if !is_time || !is_wanted {
            return None;
        }
        lately::hint(&self.memory, self.number).filter(|hint| self.memory.tells(self.number, hint.cause, now))
    }

    /// The common counters of all servers that have none of their own.
    fn other(&self) -> Option<Meter> {
        self.rows.write(self.spot.other).map(Meter)
    }

    /// The counters of a server that is not configured.
    fn changing(&self, address: &[u8]) -> Option<Meter> {
        self.time.set(self.time.get() + 1);
        let known = self.places().take(self.taken.get()).find(|(header, _)| has_address(header, address));
        let (header, row) = match known {
            Some(place) => place,
            None => self.place_for(address)?,
        };
        header[LOOKED_UP].store(self.time.get(), Relaxed);
        self.rows.write(row).map(Meter)
    }

    /// The places of servers that are not configured: their headers, and the numbers of their rows.
    fn places(&self) -> impl ExactSizeIterator<Item = Place> {
        self.headers.chunks_exact(HEADER_WORDS).zip(self.spot.others..self.spot.others + self.spot.room)
    }

    /// A place for a server that has none: a new one, or the place of the server that has no connection and whose last look-up
    /// was longest ago. A server that was looked up recently keeps its place. Otherwise, with more servers than places, they
    /// would take places from each other all the time.
    fn place_for(&self, address: &[u8]) -> Option<Place> {
        if address.is_empty() || address.len() > MAX_ADDRESS {
            return None;
        }
        let mut places = self.places();
        let room = places.len() as u64;
        let place = match places.nth(self.taken.get()) {
            Some(place) => {
                self.taken.set(self.taken.get() + 1);
                place
            }
            None => {
                let looked_up = |(header, _): &Place| header[LOOKED_UP].load(Relaxed);
                let vacant = self
                    .places()
                    .filter(|(_, row)| self.rows.read(*row).is_none_or(|row| connections(row) == 0));
                let oldest = vacant.min_by_key(looked_up)?;
                let since = self.time.get().wrapping_sub(looked_up(&oldest));
                (since > 2 * room).then_some(oldest)?
            }
        };
        self.reassign(place, address);
        Some(place)
    }

    /// Gives a place to another server. The counters of the previous server are added to the counters of [`GONE`].
    fn reassign(&self, (header, row): Place, address: &[u8]) {
        add(&header[CHANGES], 1);
        fence(Release);
        if let Some(row) = self.rows.read(row) {
            self.move_to_gone(row);
        }
        for (to, word) in header[ADDRESS..].iter().zip(words_of(address)) {
            to.store(word, Relaxed);
        }
        header[LENGTH].store(address.len() as u64, Relaxed);
        header[CHANGES].store(header[CHANGES].load(Relaxed).wrapping_add(1), Release);
    }

    fn move_to_gone(&self, row: &Row) {
        let gone = self.rows.write(self.spot.gone);
        let cells = if row[BEHIND].load(Relaxed) == 0 { LINE } else { SERVER_CELLS };
        for cell in (0..cells).filter(|cell| *cell != BEHIND) {
            let number = row[word(cell)].swap(0, Relaxed);
            if let Some(gone) = gone.filter(|_| number != 0 && cell != NOTE) {
                add_to(gone, cell, number);
            }
        }
    }
}

/// A header, and the number of a row.
type Place = (&'static [AtomicU64], usize);

/// The headers of an upstream in a column.
fn headers(memory: &Memory, column: usize, spot: &Spot) -> &'static [AtomicU64] {
    &memory.column(column)[spot.headers..][..spot.room * HEADER_WORDS]
}

fn is_used(header: &&[AtomicU64]) -> bool {
    header[LENGTH].load(Relaxed) > 0
}

fn has_address(header: &[AtomicU64], address: &[u8]) -> bool {
    header[LENGTH].load(Relaxed) == address.len() as u64
        && header[ADDRESS..].iter().zip(words_of(address)).all(|(word, of)| word.load(Relaxed) == of)
}

/// Reads the places of a worker, perhaps another one: calls `each` with the address and the counters of each server.
pub(super) fn read(
    memory: &Memory,
    column: usize,
    spot: &Spot,
    mut each: impl FnMut(&[u8], [u64; SERVER_CELLS]),
) {
    let rows = memory.rows(column);
    for (header, row) in headers(memory, column, spot).chunks_exact(HEADER_WORDS).zip(spot.others..) {
        for _ in 0..ATTEMPTS {
            let before = header[CHANGES].load(Acquire);
            let mut words = [0; HEADER_WORDS];
            words.iter_mut().zip(header).for_each(|(to, from)| *to = from.load(Relaxed));
            let numbers = rows.read(row).map_or([0; SERVER_CELLS], numbers);
            fence(Acquire);
            if before % 2 == 1 || header[CHANGES].load(Relaxed) != before {
                std::hint::spin_loop();
                continue;
            }
            let length = words[LENGTH] as usize;
            if length == 0 {
                return;
            }
            let mut address = [0; MAX_ADDRESS];
            let bytes = words[ADDRESS..].iter().flat_map(|word: &u64| word.to_ne_bytes());
            address.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            if let Some(address) = address.get(..length) {
                each(address, numbers);
            }
            break;
        }
    }
}

/// Ends what the worker of a column left behind in an upstream, as it is gone: its connections count as ended, no request waits,
/// there are no carriers and no streams, and no place is being changed.
pub(super) fn settle(memory: &Memory, column: usize, spot: &Spot) {
    let (words, rows) = (&memory.column(column)[spot.cells..], memory.rows(column));
    words[QUEUE].store(0, Relaxed);
    let gauges = words[HTTP2..HTTP2 + HTTP2_CELLS].iter().enumerate().filter(|(cell, _)| is_gauge(*cell));
    gauges.for_each(|(_, gauge)| gauge.store(0, Relaxed));
    let end = |row: &Row| {
        let connections = connections(row);
        if connections != 0 {
            PHASE_CELLS.iter().for_each(|phase| row[word(*phase)].store(0, Relaxed));
            add_to(row, FIRST_END + End::Exiting as usize, connections);
        }
    };
    spot.rows().filter_map(|row| rows.read(row)).for_each(end);
    let taken = headers(memory, column, spot).chunks_exact(HEADER_WORDS).take_while(is_used);
    taken.for_each(|header| {
        header[LOOKED_UP].store(0, Relaxed);
        let changes = &header[CHANGES];
        changes.store(changes.load(Relaxed).next_multiple_of(2), Relaxed);
    });
}

/// The counters of a server of a worker that is gone: its connections count as ended.
pub(super) fn settled(mut numbers: [u64; SERVER_CELLS]) -> [u64; SERVER_CELLS] {
    let mut connections: u64 = 0;
    for phase in PHASE_CELLS {
        connections = connections.wrapping_add(std::mem::take(&mut numbers[phase]));
    }
    let end = &mut numbers[FIRST_END + End::Exiting as usize];
    *end = end.wrapping_add(connections);
    numbers
}
