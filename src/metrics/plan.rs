//! What there is to be counted, as the configuration says, and where it lies in a column.
#![forbid(unsafe_code)]

use crate::base::memory::{append, collect};

use super::worker_counters::PLACE_WORDS;
use super::{AUTH_CELLS, QUEUE_CELLS, SERVER_CELLS};

/// What a configuration has.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The upstreams that have a pool or a queue.
    pub upstreams: Vec<UpstreamInfo>,
    /// What `auth_subrequest` names, each once.
    pub auth: Vec<String>,
    /// How many servers of an upstream can have numbers of their own besides those of the configuration.
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
    /// Idle connections that a worker may keep.
    pub limit: usize,
    /// They are for each server.
    pub per_server: bool,
    /// The number of `queue`.
    pub queue: Option<usize>,
}

/// A server of the configuration.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// Its socket address, byte for byte.
    pub address: Vec<u8>,
    /// Its socket address, to be read.
    pub text: String,
    /// Its name in the configuration.
    pub name: String,
    /// It is asked only if all others are down.
    pub backup: bool,
    /// It is not asked at all.
    pub down: bool,
    /// `max_conns`, 0 for any number.
    pub max_conns: u64,
}

/// Bytes as they can be shown: what is no UTF-8 by its number, and so is the backslash of what looks as if it was written
/// by its number, so that different names stay different. `None` if there is no memory.
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
            // As many bytes as their marks had.
            text.try_reserve(2).ok()?;
            text.extend([digit(byte >> 4), digit(byte & 15)]);
        }
    }
    Some(text)
}

/// Where the numbers of an upstream lie, from its beginning.
pub(super) const QUEUE: usize = 0;
pub(super) const OTHER: usize = QUEUE_CELLS;
pub(super) const GONE: usize = OTHER + SERVER_CELLS;
pub(super) const SERVERS: usize = GONE + SERVER_CELLS;

/// A line of a cache, in words.
const LINE: usize = 8;

/// How many servers that come and go have numbers of their own, if nothing else is said.
const ROOM: usize = 64;

impl Plan {
    /// A plan with the room for servers that come and go for which no more memory is asked.
    pub fn new(upstreams: Vec<UpstreamInfo>, auth: Vec<String>) -> Self {
        Self { upstreams, auth, room: ROOM }
    }

    /// The memory for so many workers, in words of 8 bytes.
    pub fn size(&self, workers: usize) -> usize {
        self.first_column(workers) + (workers + 1) * self.column()
    }

    /// Uses memory of so many words: the more there is, the more servers that come and go have numbers of
    /// their own.
    ///
    /// # Errors
    /// The size that is needed, in words.
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

    /// Where the processes of the workers are noted.
    pub(super) fn process(&self, worker: usize) -> usize {
        worker
    }

    /// Where the warnings of an upstream are noted.
    pub(super) fn warnings(&self, workers: usize, upstream: usize) -> usize {
        workers + upstream
    }

    /// Where the column of a worker begins.
    pub(super) fn column_of(&self, worker: usize, workers: usize) -> usize {
        self.first_column(workers) + worker * self.column()
    }

    /// Where each upstream begins in a column, and how long it is.
    pub(super) fn places(&self) -> Option<Vec<(usize, usize)>> {
        let mut at = 0;
        let mut place = |upstream| {
            let size = self.size_of(upstream);
            at += size;
            (at - size, size)
        };
        collect(self.upstreams.iter().map(&mut place))
    }

    /// Where the numbers of `auth_subrequest` begin in a column.
    pub(super) fn first_auth(&self) -> usize {
        self.upstreams.iter().map(|upstream| self.size_of(upstream)).sum()
    }

    fn size_of(&self, upstream: &UpstreamInfo) -> usize {
        let room = if upstream.changing { self.room } else { 0 };
        SERVERS + upstream.servers.len() * SERVER_CELLS + room * PLACE_WORDS
    }

    fn first_column(&self, workers: usize) -> usize {
        (workers + self.upstreams.len()).next_multiple_of(LINE)
    }

    fn column(&self) -> usize {
        (self.first_auth() + self.auth.len() * AUTH_CELLS).next_multiple_of(LINE)
    }
}
