//! What a configuration counts, and where that is in a column.
#![forbid(unsafe_code)]

use crate::base::memory::{append, collect};

use super::worker_counters::PLACE_WORDS;
use super::{AUTH_CELLS, HANDOVER_CELLS, HTTP2_CELLS, QUEUE_CELLS, SERVER_CELLS};

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
    pub servers: Vec<ServerInfo>,
    /// Whether servers come and go.
    pub changing: bool,
    /// How many idle connections a worker may keep.
    pub limit: usize,
    /// Whether the limit applies to each server.
    pub per_server: bool,
    /// The number of `queue`.
    pub queue: Option<usize>,
    /// Whether connections may carry many requests (`http2`).
    pub http2: bool,
    /// Whether it keeps to what was learned of its servers (`keepalive_hint learn`).
    pub learns: bool,
}

/// What is known about a server.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// Its socket address, byte for byte.
    pub address: Vec<u8>,
    /// Its socket address as text.
    pub text: String,
    /// Its name in the configuration.
    pub name: String,
    /// It is used only if all other servers are down (`backup`).
    pub backup: bool,
    /// It is not used (`down`).
    pub down: bool,
    /// `max_conns`; 0 if there is no limit.
    pub max_conns: u64,
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

// Where the counters of an upstream are, relative to its beginning.
pub(super) const QUEUE: usize = 0;
pub(super) const HANDOVER: usize = QUEUE + QUEUE_CELLS;
pub(super) const HTTP2: usize = HANDOVER + HANDOVER_CELLS;
pub(super) const OTHER: usize = HTTP2 + HTTP2_CELLS;
pub(super) const GONE: usize = OTHER + SERVER_CELLS;
pub(super) const SERVERS: usize = GONE + SERVER_CELLS;

/// A cache line, in words.
const LINE: usize = 8;

/// The default of [`Plan::room`].
const ROOM: usize = 64;

impl Plan {
    /// A plan with the default room.
    pub fn new(upstreams: Vec<UpstreamInfo>, auth: Vec<String>) -> Self {
        Self { upstreams, auth, room: ROOM }
    }

    /// The size of the memory for a number of workers, in words of 8 bytes.
    pub fn size(&self, workers: usize) -> usize {
        self.first_column(workers) + (workers + 1) * self.column()
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
            .saturating_sub(LINE * (workers + 1))
            .checked_div(changing * (workers + 1) * PLACE_WORDS)
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

    /// Where a column begins, of this number of columns that processes write.
    pub(super) fn column_at(&self, column: usize, columns: usize) -> usize {
        self.first_column(columns) + column * self.column()
    }

    /// The offset of each upstream in a column, and its size. `None` if there is no memory.
    pub(super) fn places(&self) -> Option<Vec<(usize, usize)>> {
        let mut at = 0;
        let mut place = |upstream| {
            let size = self.size_of(upstream);
            at += size;
            (at - size, size)
        };
        collect(self.upstreams.iter().map(&mut place))
    }

    /// The offset of the counters of `auth_subrequest` in a column.
    pub(super) fn first_auth(&self) -> usize {
        self.upstreams.iter().map(|upstream| self.size_of(upstream)).sum()
    }

    /// The size of an upstream in a column, in words.
    fn size_of(&self, upstream: &UpstreamInfo) -> usize {
        let room = if upstream.changing { self.room } else { 0 };
        SERVERS + upstream.servers.len() * SERVER_CELLS + room * PLACE_WORDS
    }

    /// Where the columns begin.
    fn first_column(&self, columns: usize) -> usize {
        (columns + self.upstreams.len()).next_multiple_of(LINE)
    }

    /// The size of a column, in words: whole cache lines.
    fn column(&self) -> usize {
        (self.first_auth() + self.auth.len() * AUTH_CELLS).next_multiple_of(LINE)
    }
}
