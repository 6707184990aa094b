//! What a configuration counts, and where that is in a column.
#![forbid(unsafe_code)]

use crate::base::memory::{append, collect};

use super::lately::LATELY_CELLS;
use super::rows::{notes, size, PLANE};
use super::servers::Servers;
use super::worker_counters::HEADER_WORDS;
use super::{AUTH_CELLS, HANDOVER_CELLS, HTTP2_CELLS, QUEUE_CELLS};

/// Everything that a configuration counts.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The upstreams that have a pool or a queue.
    pub upstreams: Vec<UpstreamInfo>,
    /// The URIs of `auth_subrequest`, each once.
    pub auth: Vec<String>,
    /// How many servers of an upstream can have counters of their own besides the configured ones.
    pub room: usize,
}

/// An upstream of the configuration.
#[derive(Clone, Debug, Default)]
pub struct UpstreamInfo {
    /// Its name.
    pub name: String,
    /// Its servers, by their addresses.
    pub servers: Servers,
    /// Whether servers come and go.
    pub changing: bool,
    /// How many idle connections a worker may keep.
    pub limit: usize,
    /// Whether the limit applies to each server.
    pub per_server: bool,
    /// Whether all workers together keep to `max_conns` (`zone`), and not each for itself.
    pub zone: bool,
    /// The number of `queue`.
    pub queue: Option<usize>,
    /// Whether connections may carry many requests (`http2`).
    pub http2: bool,
    /// Whether it keeps to what was learned of its servers (`keepalive_hint learn`).
    pub learns: bool,
    /// Whether the configuration asks for a pool, and nginx does not have one by default.
    pub is_wanted: bool,
}

/// Makes bytes readable: bytes that are not UTF-8 become `\xNN`. The backslash of a literal `\x` becomes `\x5c`, so that
/// different names stay different. `None` if there is no memory.
pub fn readable(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for (nth, part) in chunk.valid().split("\\x").enumerate() {
            if nth > 0 {
                append(&mut text, "\\x5cx")?;
            }
            append(&mut text, part)?;
        }
        for byte in chunk.invalid() {
            let digit = |number: u8| char::from_digit(number.into(), 16).unwrap_or_default();
            append(&mut text, "\\x")?;
            // `text` has memory for the two digits.
            text.try_reserve(2).ok()?;
            text.extend([digit(byte >> 4), digit(byte & 15)]);
        }
    }
    Some(text)
}

// Where the counters of an upstream are that belong to no server, relative to their beginning.
pub(super) const QUEUE: usize = 0;
pub(super) const HANDOVER: usize = QUEUE + QUEUE_CELLS;
pub(super) const HTTP2: usize = HANDOVER + HANDOVER_CELLS;
pub(super) const LATELY: usize = HTTP2 + HTTP2_CELLS;
const UPSTREAM_CELLS: usize = LATELY + LATELY_CELLS;

/// The rows of an upstream besides those of its servers: of all servers that have none of their own, and of those that have left
/// the upstream.
const SHARED_ROWS: usize = 2;

/// The words that the counters of a server take at most: less than those of a row.
const SERVER_WORDS: usize = 40;

/// Where the counters of an upstream are in a column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// Where the counters begin that belong to no server.
    pub(super) cells: usize,
    /// Where the headers of the servers begin that are not configured, and how many there can be.
    pub(super) headers: usize,
    pub(super) room: usize,
    /// The row of the first configured server, then those of the others.
    pub(super) servers: usize,
    /// The row of the first server that is not configured.
    pub(super) others: usize,
    /// The row of the servers that have none of their own.
    pub(super) other: usize,
    /// The row of the servers that have left the upstream.
    pub(super) gone: usize,
}

impl Spot {
    /// The rows of the upstream.
    pub(super) fn rows(&self) -> impl Iterator<Item = usize> {
        (self.servers..self.others + self.room).chain([self.other, self.gone])
    }

    /// How many these are.
    pub(super) fn number_of_rows(&self) -> usize {
        self.others + self.room - self.servers + SHARED_ROWS
    }
}

/// A cache line, in words.
const CACHE_LINE: usize = 8;

/// The default of [`Plan::room`].
const ROOM: usize = 64;

impl Plan {
    /// A plan with the default room.
    pub fn new(upstreams: Vec<UpstreamInfo>, auth: Vec<String>) -> Self {
        Self { upstreams, auth, room: ROOM }
    }

    /// How much memory counters can take for a number of workers, in words of 8 bytes.
    pub fn size(&self, workers: usize) -> usize {
        let upstreams = self.upstreams.len() * (UPSTREAM_CELLS + SHARED_ROWS * SERVER_WORDS);
        let others = self.room() * (HEADER_WORDS + SERVER_WORDS);
        let column = upstreams + self.servers() * SERVER_WORDS + others + self.auth.len() * AUTH_CELLS;
        self.head(workers).next_multiple_of(CACHE_LINE) + (workers + 1) * column.next_multiple_of(CACHE_LINE)
    }

    /// How much memory is to be had for a number of workers, in words of 8 bytes. It is a little more, as counters that are touched
    /// together lie in the same pages; the rest of these pages is never touched.
    pub fn memory(&self, workers: usize) -> usize {
        self.column_at(workers + 1, workers)
    }

    /// That for [`Self::size_for_two_each`].
    pub fn memory_for_two_each(&self, workers: usize) -> usize {
        self.memory(2 * workers.max(1))
    }

    /// The size of the memory with which a second process with the number of each worker can count too, while the first one
    /// still runs.
    pub fn size_for_two_each(&self, workers: usize) -> usize {
        self.size(2 * workers.max(1))
    }

    /// Increases the room so that the plan uses memory of `size` words.
    ///
    /// # Errors
    /// The size that is needed, in words, if `size` is smaller.
    pub fn use_all(&mut self, size: usize, workers: usize) -> Result<(), usize> {
        let needed = self.size(workers);
        let more = size.checked_sub(needed).ok_or(needed)?;
        let changing = self.upstreams.iter().filter(|upstream| upstream.changing).count();
        self.room += more
            .saturating_sub(CACHE_LINE * (workers + 1))
            .checked_div(changing * (workers + 1) * (HEADER_WORDS + SERVER_WORDS))
            .unwrap_or(0);
        Ok(())
    }

    /// Where the process is that writes a column.
    pub(super) fn process(&self, column: usize) -> usize {
        column
    }

    /// Where the warnings of an upstream are.
    pub(super) fn warnings(&self, columns: usize, upstream: usize) -> usize {
        columns + upstream
    }

    /// Where it is written when hints about an upstream were logged.
    pub(super) fn told(&self, columns: usize, upstream: usize) -> usize {
        self.warnings(columns, self.upstreams.len()) + upstream
    }

    /// Where a column begins, of this number of columns that processes write: with a page.
    pub(super) fn column_at(&self, column: usize, columns: usize) -> usize {
        let size = self.first_row() + size(self.rows()).next_multiple_of(PLANE);
        self.head(columns).next_multiple_of(PLANE) + column * size
    }

    /// The counters of each upstream in a column. `None` if there is no memory.
    pub(super) fn spots(&self) -> Option<Vec<Spot>> {
        let mut spot = Spot {
            cells: self.notes(),
            headers: self.first_auth() + self.auth.len() * AUTH_CELLS,
            room: 0,
            servers: 0,
            others: 0,
            other: self.servers() + self.room(),
            gone: 0,
        };
        let mut next = |upstream: &UpstreamInfo| {
            spot.room = self.room_of(upstream);
            spot.others = spot.servers + upstream.servers.len();
            spot.gone = spot.other + 1;
            let this = spot;
            spot.cells += UPSTREAM_CELLS;
            spot.headers += spot.room * HEADER_WORDS;
            spot.servers = spot.others + spot.room;
            spot.other += SHARED_ROWS;
            this
        };
        collect(self.upstreams.iter().map(&mut next))
    }

    /// The size of what notes which rows are in use, at the beginning of a column.
    pub(super) fn notes(&self) -> usize {
        notes(self.rows()).next_multiple_of(CACHE_LINE)
    }

    /// The offset of the counters of `auth_subrequest` in a column.
    pub(super) fn first_auth(&self) -> usize {
        self.notes() + self.upstreams.len() * UPSTREAM_CELLS
    }

    /// The offset of the rows in a column: a page begins.
    pub(super) fn first_row(&self) -> usize {
        let headers = self.room() * HEADER_WORDS;
        (self.first_auth() + self.auth.len() * AUTH_CELLS + headers).next_multiple_of(PLANE)
    }

    /// The rows of a column.
    fn rows(&self) -> usize {
        self.servers() + self.room() + self.upstreams.len() * SHARED_ROWS
    }

    /// How many servers are configured.
    fn servers(&self) -> usize {
        self.upstreams.iter().map(|upstream| upstream.servers.len()).sum()
    }

    /// How many other servers there can be.
    fn room(&self) -> usize {
        self.upstreams.iter().map(|upstream| self.room_of(upstream)).sum()
    }

    fn room_of(&self, upstream: &UpstreamInfo) -> usize {
        if upstream.changing {
            self.room
        } else {
            0
        }
    }

    /// The size of what stands before the columns.
    fn head(&self, columns: usize) -> usize {
        columns + 2 * self.upstreams.len()
    }
}
