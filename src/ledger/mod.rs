//! How many connections each server has: what keeps `max_conns` exact, idle connections included.
//!
//! ```text
//!   lock, to repair | for each worker: since when its first request waits, and the first of those that have tried a
//!                 | server in vain; whether it is asked for a connection; since when it is rung for; which process it is
//!   server  address limit generation | open  requests | worker 0: open idle requests lingering parked asked
//!                                    | (all workers)  | worker 1: ...
//! ```
//!
//! The table is a slice of atomic numbers: the worker's own, or memory that all workers share if
//! the upstream has a `zone`. Each worker writes what is its own into its own columns, so that it
//! is known what a killed worker leaves behind; it can be killed, or stopped, between any two writes.
#![forbid(unsafe_code)]

#[cfg(test)]
mod killed;
mod left;
mod lock;
mod noted;
mod tally;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turns;
mod waits;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::base::address::MAX_ADDRESS;
use crate::base::clock::Msec;
use crate::base::memory::collect;
use tally::Tally;

pub use waits::LineKind;

/// The table of one upstream, seen by one worker.
#[derive(Debug)]
pub struct Ledger {
    table: Table,
    servers: usize,
    workers: usize,
    /// Servers are noted while requests run, not only before.
    changing: bool,
    me: Cell<usize>,
    stuck: lock::Stuck,
}

/// The memory of a ledger: as many zeros as [`Ledger::size`] says.
#[derive(Debug)]
pub enum Table {
    /// Of this worker alone.
    Own(Vec<AtomicU64>),
    /// Of all workers.
    Shared(&'static [AtomicU64]),
}

/// The number of a server in the ledger. It holds while the server has requests or connections.
pub type Server = u32;

/// Words before those of the workers.
const HEADER: usize = 2;

// Words of a server.
const HEAD: usize = 0;
const ADDRESS: usize = 1;
const ADDRESS_WORDS: usize = MAX_ADDRESS / 8;
const LIMIT: usize = ADDRESS + ADDRESS_WORDS;
const GENERATION: usize = LIMIT + 1;
const OPEN: usize = GENERATION + 1;
const REQUESTS: usize = OPEN + 1;
const WORKERS: usize = REQUESTS + 1;

/// Words of a worker, in each server.
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
    /// How many numbers the table of so many servers and workers has.
    pub fn size(servers: usize, workers: usize) -> usize {
        HEADER + 5 * workers + capacity(servers) * (WORKERS + WORKER_WORDS * workers)
    }

    /// Numbers of servers are below this, if there is to be room for so many.
    pub fn numbers(servers: usize) -> usize {
        capacity(servers)
    }

    /// A ledger for so many servers and workers; `changing` if servers come and go. `None` if the
    /// table is smaller than [`Ledger::size`] says.
    pub fn new(table: Table, servers: usize, workers: usize, changing: bool) -> Option<Self> {
        let workers = workers.max(1);
        let enough = table.words().len() >= Self::size(servers, workers);
        enough.then(|| Self {
            table,
            servers: capacity(servers),
            workers,
            changing,
            me: Cell::new(0),
            stuck: Cell::new(None),
        })
    }

    /// Says which worker this is.
    pub fn set_worker(&self, me: usize) {
        self.me.set(me.min(self.workers - 1));
    }

    /// Whether several workers can write it.
    pub fn is_shared(&self) -> bool {
        matches!(self.table, Table::Shared(_))
    }

    /// Whether servers come and go.
    pub fn is_changing(&self) -> bool {
        self.changing
    }

    /// A request begins to use the server. Returns whether the balancer keeps to the limit.
    pub fn begin_request(&self, server: Server) -> bool {
        self.requests(server).add() < self.limit(server)
    }

    /// A request has stopped using the server.
    pub fn end_request(&self, server: Server) {
        self.requests(server).take();
    }

    /// Whether a server has as many requests as it may have.
    pub fn any_is_busy(&self) -> bool {
        (0..self.servers as Server).any(|server| {
            let limit = self.limit(server);
            limit > 0 && tally::number(self.word(server, REQUESTS)) >= limit
        })
    }

    /// Makes room for one more connection to the server, if the limit allows it.
    pub fn open(&self, server: Server) -> bool {
        self.opened(server).add_below(self.limit(server))
    }

    /// Counts one more connection to the server, whatever the limit.
    pub fn open_over_limit(&self, server: Server) {
        self.opened(server).add();
    }

    /// A connection to the server was closed.
    pub fn close(&self, server: Server) {
        self.opened(server).take();
    }

    /// Whether the server has as many connections as it may have.
    pub fn is_full(&self, server: Server) -> bool {
        let limit = self.limit(server);
        limit > 0 && tally::number(self.word(server, OPEN)) >= limit
    }

    /// A connection to the server has become idle.
    pub fn add_idle(&self, server: Server) {
        self.own_cell(server, Column::Idle).fetch_add(1, SeqCst);
    }

    /// An idle connection to the server is taken, or about to be closed.
    pub fn remove_idle(&self, server: Server) {
        self.own_cell(server, Column::Idle).fetch_sub(1, SeqCst);
    }

    /// A connection to the server is being closed; it counts until [`Ledger::close`].
    pub fn add_lingering(&self, server: Server) {
        self.own_cell(server, Column::Lingering).fetch_add(1, SeqCst);
    }

    /// It is closed now.
    pub fn remove_lingering(&self, server: Server) {
        self.own_cell(server, Column::Lingering).fetch_sub(1, SeqCst);
    }

    /// Whether more connections of this worker to the server are being closed than requests wait here
    /// for room: then there will be room for one more request.
    pub fn room_is_coming(&self, server: Server) -> bool {
        self.own_cell(server, Column::Lingering).load(SeqCst)
            > self.own_cell(server, Column::Parked).load(SeqCst)
    }

    /// Whether requests of this worker wait for room at the server.
    pub fn has_parked(&self, server: Server) -> bool {
        self.own_cell(server, Column::Parked).load(SeqCst) > 0
    }

    /// A request that the balancer has sent to the server waits for room for its connection. Asks the
    /// worker with the most idle connections to close one, unless that is on its way for each that
    /// waits; returns which worker that is.
    pub fn park(&self, server: Server, now: Msec) -> Option<usize> {
        self.own_cell(server, Column::Parked).fetch_add(1, SeqCst);
        if !self.lacks_room(server, now) {
            return None;
        }
        let count = |worker, column| self.cell(server, worker, column).load(SeqCst);
        let idle = |worker| count(worker, Column::Idle).saturating_sub(count(worker, Column::CloseRequests));
        let others = self.others().filter(|worker| self.answers(*worker, now) && idle(*worker) > 0);
        let worker = others.max_by_key(|worker| idle(*worker))?;
        self.cell(server, worker, Column::CloseRequests).fetch_add(1, SeqCst);
        self.has_close_requests(worker).store(1, SeqCst);
        Some(worker)
    }

    /// Whether more requests wait for room at the server, in all workers, than connections are being
    /// closed, or will be because the worker was asked.
    pub fn lacks_room(&self, server: Server, now: Msec) -> bool {
        let count = |worker, column| self.cell(server, worker, column).load(SeqCst);
        let coming =
            |it| count(it, Column::Lingering) + count(it, Column::CloseRequests).min(count(it, Column::Idle));
        let coming: u64 = (0..self.workers).filter(|it| self.answers(*it, now)).map(coming).sum();
        coming < (0..self.workers).map(|it| count(it, Column::Parked)).sum()
    }

    /// The request does not wait any more.
    pub fn unpark(&self, server: Server) {
        self.own_cell(server, Column::Parked).fetch_sub(1, SeqCst);
    }

    /// The workers, besides this one, in which requests wait for room at the server.
    pub fn parked(&self, server: Server) -> impl Iterator<Item = usize> + '_ {
        self.others().filter(move |worker| self.cell(server, *worker, Column::Parked).load(SeqCst) > 0)
    }

    /// Calls `close` for each idle connection that another worker asks this one to close, and `in_vain`
    /// for each server to which there is none any more: those that wait there may ask another worker.
    pub fn each_close_request(&self, mut close: impl FnMut(Server), mut in_vain: impl FnMut(Server)) {
        if self.has_close_requests(self.me.get()).swap(0, SeqCst) == 0 {
            return;
        }
        for server in 0..self.servers as Server {
            let has_idle = || self.own_cell(server, Column::Idle).load(SeqCst) > 0;
            while has_idle() && self.take_close_request(server) {
                close(server);
            }
            if !has_idle() && self.own_cell(server, Column::CloseRequests).load(SeqCst) > 0 {
                in_vain(server);
            }
        }
    }

    /// Whether another worker asks this one to close a connection to the server. One that is closed
    /// answers one question; if nobody waits any more, all of them.
    pub fn take_close_request(&self, server: Server) -> bool {
        let asked = self.own_cell(server, Column::CloseRequests);
        if asked.load(SeqCst) == 0 {
            return false;
        }
        if self.is_full(server) && self.parked(server).next().is_some() {
            return asked.fetch_update(SeqCst, SeqCst, |asked| asked.checked_sub(1)).is_ok();
        }
        asked.store(0, SeqCst);
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

    fn has_close_requests(&self, worker: usize) -> &AtomicU64 {
        &self.table.words()[HEADER + 2 * self.workers + worker]
    }

    fn word(&self, server: Server, at: usize) -> &AtomicU64 {
        let stride = WORKERS + WORKER_WORDS * self.workers;
        &self.table.words()[HEADER + 5 * self.workers + server as usize * stride + at]
    }

    fn cell(&self, server: Server, worker: usize, column: Column) -> &AtomicU64 {
        self.word(server, WORKERS + worker * WORKER_WORDS + column as usize)
    }

    fn own_cell(&self, server: Server, column: Column) -> &AtomicU64 {
        self.cell(server, self.me.get(), column)
    }
}

impl Table {
    /// Zeros for one worker. `None` if there is no memory.
    pub fn own(servers: usize) -> Option<Self> {
        collect((0..Ledger::size(servers, 1)).map(|_| AtomicU64::new(0))).map(Self::Own)
    }

    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Own(words) => words,
            Self::Shared(words) => words,
        }
    }
}

/// Comes before each access to what workers share that others can come between: tests stop a worker there, or kill it.
#[inline(always)]
fn step() {
    #[cfg(test)]
    killed::step();
}

/// Half of the places stay empty, so that a server is found after a few steps.
fn capacity(servers: usize) -> usize {
    servers.saturating_mul(2).next_power_of_two()
}
