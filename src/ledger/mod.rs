//! How many connections each server has, including idle ones. This makes `max_conns` exact.
//!
//! ```text
//!   header  lock | repairs due | recoveries
//!   each worker: waiting since (queue) | waiting since (retries) | has close requests | rung since | process
//!   each worker: tickets (connections that it hands to another worker)
//!   marks: a bit for each worker that has requests in its queue | .. in its retries | .. parked
//!   each server: address limit generation | open  requests | worker 0: open idle requests lingering parked close requests
//!                                         | (all workers)  | worker 1: ...
//! ```
//!
//! The table is a slice of atomic words: the worker's own, or memory shared by all workers if
//! the upstream has a `zone`. Each worker counts in its own columns, so that it is known what a killed worker leaves
//! behind. A worker can be killed or stopped between any two writes.
//!
//! What a worker tells others and then asks them is sequentially consistent: of two workers that each write a word and then read
//! the other's, one sees the other's. So a request that is parked sees the connection that is closed meanwhile, or is seen. A total
//! needs less (`tally.rs`), and so does the look-up of servers (`noted.rs`). Models: `orders.rs`.
//!
//! nginx can start a second worker with the number of one that still runs, as when a binary upgrade is taken back. The columns
//! belong to the first one, so the second one counts in memory of its own: see [`Entered::Alone`].
#![forbid(unsafe_code)]

#[cfg(test)]
mod killed;
mod left;
mod lock;
mod noted;
#[cfg(loom)]
pub mod orders;
mod tally;
#[cfg(test)]
mod tests;
mod transit;
#[cfg(test)]
mod transit_killed;
#[cfg(test)]
mod transit_model;
#[cfg(test)]
mod transit_tests;
#[cfg(test)]
mod transit_turns;
#[cfg(test)]
mod turns;
mod waits;

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use crate::base::address::MAX_ADDRESS;
use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;
use crate::base::memory::collect;
use tally::Tally;

pub use left::Entered;
pub use transit::Transfer;
pub use waits::LineKind;

/// The table of one upstream, as one worker sees it.
#[derive(Debug)]
pub struct Ledger {
    table: Table,
    servers: usize,
    workers: usize,
    /// Whether servers are noted while requests run, not only before.
    changing: bool,
    /// The number of this worker.
    me: Cell<usize>,
    stuck: lock::Stuck,
    /// The number of recoveries after which this worker has settled. `None` if it has to settle anyway.
    settled: Cell<Option<u64>>,
    marked: waits::Marked,
    /// How many requests this worker has parked, for all servers.
    parked: Cell<u64>,
}

/// The memory of a ledger: [`Ledger::size`] words, all zero.
#[derive(Debug)]
pub enum Table {
    /// Memory of this worker.
    Own(Vec<AtomicU64>),
    /// Memory shared by all workers.
    Shared(Shared),
}

/// Memory shared by all workers, and memory for a worker that must not use it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The memory in use.
    words: Cell<&'static [AtomicU64]>,
    /// Memory of this worker, until it is in use.
    alone: Cell<Option<&'static [AtomicU64]>>,
}

/// The number of a server in the ledger. It is valid while the server has requests or connections.
pub type Server = u32;

/// Words before the ones of the workers.
const HEADER: usize = 3;
/// Words of each worker before the tickets.
const HEADER_OF_WORKER: usize = 5;

// Offsets of the words of a server.
const HEAD: usize = 0;
const ADDRESS: usize = 1;
const ADDRESS_WORDS: usize = MAX_ADDRESS / 8;
const LIMIT: usize = ADDRESS + ADDRESS_WORDS;
const GENERATION: usize = LIMIT + 1;
const OPEN: usize = GENERATION + 1;
const REQUESTS: usize = OPEN + 1;
const WORKERS: usize = REQUESTS + 1;

/// The words that each worker has for each server.
#[derive(Clone, Copy)]
enum Column {
    Open,
    Idle,
    Requests,
    Lingering,
    Parked,
    CloseRequests,
}
const WORKER_WORDS: usize = Column::CloseRequests as usize + 1;

impl Ledger {
    /// The size of the table for a number of servers and workers, in words.
    pub fn size(servers: usize, workers: usize) -> usize {
        servers_at(workers) + capacity(servers) * (WORKERS + WORKER_WORDS * workers)
    }

    /// The upper bound (exclusive) of [`Server`] in a table for a number of servers.
    pub fn numbers(servers: usize) -> usize {
        capacity(servers)
    }

    /// A ledger for a number of servers and workers. `changing` says that servers come and go. `None` if the
    /// table is smaller than [`Ledger::size`].
    pub fn new(table: Table, servers: usize, workers: usize, changing: bool) -> Option<Self> {
        let workers = workers.max(1);
        let enough = table.len() >= Self::size(servers, workers);
        enough.then(|| Self {
            table,
            servers: capacity(servers),
            workers,
            changing,
            me: Cell::new(0),
            stuck: Cell::new(None),
            settled: Cell::new(Some(0)),
            marked: Default::default(),
            parked: Cell::new(0),
        })
    }

    /// Sets the number of this worker.
    pub fn set_worker(&self, me: usize) {
        self.me.set(me.min(self.workers - 1));
    }

    /// Whether several workers write the table.
    pub fn is_shared(&self) -> bool {
        matches!(&self.table, Table::Shared(shared) if shared.alone.get().is_some())
    }

    /// Whether servers come and go.
    pub fn is_changing(&self) -> bool {
        self.changing
    }

    /// A request begins to use the server. Returns whether the number of requests was below the limit.
    pub fn begin_request(&self, server: Server) -> bool {
        self.requests(server).add() < self.limit(server)
    }

    /// A request has stopped using the server.
    pub fn end_request(&self, server: Server) {
        self.requests(server).take();
    }

    /// Whether any server has as many requests as its limit.
    pub fn any_is_busy(&self) -> bool {
        (0..self.servers as Server).any(|server| {
            let limit = self.limit(server);
            limit > 0 && tally::number(self.word(server, REQUESTS)) >= limit
        })
    }

    /// Counts one more connection to the server, if the limit allows it. Returns whether it does.
    pub fn open(&self, server: Server) -> bool {
        self.opened(server).add_below(self.limit(server))
    }

    /// Counts one more connection to the server, even if that exceeds the limit.
    pub fn open_over_limit(&self, server: Server) {
        self.opened(server).add();
    }

    /// A connection to the server was closed.
    pub fn close(&self, server: Server) {
        self.opened(server).take();
    }

    /// Whether the server has as many connections as its limit.
    pub fn is_full(&self, server: Server) -> bool {
        let limit = self.limit(server);
        limit > 0 && tally::number(self.word(server, OPEN)) >= limit
    }

    /// A connection to the server has become idle.
    pub fn add_idle(&self, server: Server) {
        self.own_cell(server, Column::Idle).fetch_add(1, SeqCst);
    }

    /// An idle connection to the server is taken, or is about to be closed.
    pub fn remove_idle(&self, server: Server) {
        self.own_cell(server, Column::Idle).fetch_sub(1, SeqCst);
    }

    /// A connection to the server is being closed. It counts until [`Ledger::close`].
    pub fn add_lingering(&self, server: Server) {
        self.own_cell(server, Column::Lingering).fetch_add(1, SeqCst);
    }

    /// A connection that was being closed is closed now.
    pub fn remove_lingering(&self, server: Server) {
        self.own_cell(server, Column::Lingering).fetch_sub(1, SeqCst);
    }

    /// Whether this worker is closing more connections to the server than it has parked requests. Then there will be room
    /// for one more request.
    pub fn room_is_coming(&self, server: Server) -> bool {
        self.own_count(server, Column::Lingering) > self.own_count(server, Column::Parked)
    }

    /// Parks a request: the balancer has chosen the server, and the request waits for room for its connection. Asks the
    /// worker with the most idle connections to close one, unless enough are being closed for all parked requests. Returns
    /// the worker that was asked.
    pub fn park(&self, server: Server, now: Msec) -> Option<usize> {
        self.own_cell(server, Column::Parked).fetch_add(1, SeqCst);
        self.count_parked(1);
        if !self.lacks_room(server, now) {
            return None;
        }
        let count = |worker, column| self.count(server, worker, column);
        let idle = |worker| count(worker, Column::Idle).saturating_sub(count(worker, Column::CloseRequests));
        let others = self.others().filter(|worker| self.answers(*worker, now) && idle(*worker) > 0);
        let worker = others.max_by_key(|worker| idle(*worker))?;
        self.cell(server, worker, Column::CloseRequests).fetch_add(1, SeqCst);
        // After the number. It is taken by a swap, too, so that one of the two comes after the other.
        self.has_close_requests(worker).swap(1, SeqCst);
        Some(worker)
    }

    /// Whether all workers have more parked requests for the server than connections that are being closed, or will be
    /// because the worker was asked to.
    pub fn lacks_room(&self, server: Server, now: Msec) -> bool {
        let count = |worker, column| self.count(server, worker, column);
        let coming =
            |it| count(it, Column::Lingering) + count(it, Column::CloseRequests).min(count(it, Column::Idle));
        let coming: u64 = (0..self.workers).filter(|it| self.answers(*it, now)).map(coming).sum();
        coming < (0..self.workers).map(|it| count(it, Column::Parked)).sum()
    }

    /// A parked request does not wait any more.
    pub fn unpark(&self, server: Server) {
        self.own_cell(server, Column::Parked).fetch_sub(1, SeqCst);
        self.count_parked(-1);
    }

    /// Calls `close` for each idle connection that another worker has asked this one to close, and `in_vain` for each
    /// server to which this worker has no idle connection any more: the requests parked there may ask another worker.
    pub fn each_close_request(&self, mut close: impl FnMut(Server), mut in_vain: impl FnMut(Server)) {
        if self.has_close_requests(self.me.get()).swap(0, SeqCst) == 0 {
            return;
        }
        for server in 0..self.servers as Server {
            let has_idle = || self.own_count(server, Column::Idle) > 0;
            while has_idle() && self.take_close_request(server) {
                close(server);
            }
            if !has_idle() && self.own_count(server, Column::CloseRequests) > 0 {
                in_vain(server);
            }
        }
    }

    /// Whether another worker asks this one to close a connection to the server. Takes one such close request; or all of them
    /// without closing anything, if the server has room or no request is parked elsewhere.
    pub fn take_close_request(&self, server: Server) -> bool {
        let asked = self.own_cell(server, Column::CloseRequests);
        if tally::number(asked) == 0 {
            return false;
        }
        if self.is_full(server) && self.parked(server).next().is_some() {
            return tally::take_one(asked);
        }
        tally::take_all(asked);
        false
    }

    fn limit(&self, server: Server) -> u64 {
        self.word(server, LIMIT).load(SeqCst)
    }

    fn opened(&self, server: Server) -> Tally<'_> {
        Tally { total: self.word(server, OPEN), part: self.own_cell(server, Column::Open) }
    }

    fn requests(&self, server: Server) -> Tally<'_> {
        Tally { total: self.word(server, REQUESTS), part: self.own_cell(server, Column::Requests) }
    }

    /// Whether other workers have asked a worker to close connections: 1 or 0.
    fn has_close_requests(&self, worker: usize) -> &AtomicU64 {
        &self.table.words()[HEADER + 2 * self.workers + worker]
    }

    /// A word of a server, by its offset.
    fn word(&self, server: Server, at: usize) -> &AtomicU64 {
        &self.table.words()[self.index_of(server, at)]
    }

    fn index_of(&self, server: Server, at: usize) -> usize {
        let stride = WORKERS + WORKER_WORDS * self.workers;
        servers_at(self.workers) + server as usize * stride + at
    }

    /// A word of a worker for a server.
    fn cell(&self, server: Server, worker: usize, column: Column) -> &AtomicU64 {
        self.word(server, WORKERS + worker * WORKER_WORDS + column as usize)
    }

    /// A word of this worker for a server.
    fn own_cell(&self, server: Server, column: Column) -> &AtomicU64 {
        self.cell(server, self.me.get(), column)
    }

    /// A worker's own count: of anything but [`Column::Open`] and [`Column::Requests`].
    fn count(&self, server: Server, worker: usize, column: Column) -> u64 {
        tally::number(self.cell(server, worker, column))
    }

    fn own_count(&self, server: Server, column: Column) -> u64 {
        self.count(server, self.me.get(), column)
    }
}

impl Table {
    /// The memory for one worker. `None` if there is no memory.
    pub fn own(servers: usize) -> Option<Self> {
        collect((0..Ledger::size(servers, 1)).map(|_| AtomicU64::new(0))).map(Self::Own)
    }

    /// The memory shared by all workers. `alone` is as large, and belongs to this worker.
    pub fn shared(words: &'static [AtomicU64], alone: &'static [AtomicU64]) -> Self {
        Self::Shared(Shared { words: Cell::new(words), alone: Cell::new(Some(alone)) })
    }

    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Own(words) => words,
            Self::Shared(shared) => shared.words.get(),
        }
    }

    /// The number of words.
    fn len(&self) -> usize {
        match self {
            Self::Own(words) => words.len(),
            Self::Shared(Shared { words, alone }) => {
                alone.get().map_or(usize::MAX, <[_]>::len).min(words.get().len())
            }
        }
    }

    /// Uses the memory of this worker from now on. Returns the shared memory that was used before, if any.
    fn leave_shared(&self) -> Option<&'static [AtomicU64]> {
        let Self::Shared(Shared { words, alone }) = self else { return None };
        alone.take().map(|alone| words.replace(alone))
    }
}

/// Is called before each access to shared memory that other workers can interleave with. Tests stop or kill a worker there.
#[inline(always)]
fn step() {
    #[cfg(test)]
    killed::step();
}

/// The number of words before the ones of the servers.
fn servers_at(workers: usize) -> usize {
    HEADER + (HEADER_OF_WORKER + transit::TICKETS) * workers + waits::mark_words(workers)
}

/// The number of places for a number of servers. At least half of them stay empty, so that a server is found after a few
/// steps.
fn capacity(servers: usize) -> usize {
    servers.saturating_mul(2).next_power_of_two()
}
