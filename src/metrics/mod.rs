//! What there is to be known of the pools: how many connections each server has, and what became of them;
//! who waits; what was decided about requests.
//!
//! ```text
//!   a generation: the memory of one configuration, shared by its workers
//!
//!   head | process of worker 0, 1, ..  | for each upstream: the warnings that were written
//!   worker 0 | upstream a: queue, others, gone ones, server 1, 2, .. | upstream b: ..  | auth /a, /b, ..
//!   worker 1 | the same
//!   folded   | the same: what the workers of former generations have counted, once all of them are gone
//! ```
//!
//! Each worker writes its own column only, so that it needs neither a lock nor an atomic addition. Readers
//! add up the columns, and those of former generations whose workers may still run. What counts upwards
//! survives its worker; of what goes up and down, only that of living workers counts.
#![forbid(unsafe_code)]

mod generation;
mod histogram;
mod index;
mod plan;
mod snapshot;
#[cfg(test)]
mod tests;
mod worker_counters;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use generation::{Generation, Worker};
pub use histogram::{Histogram, BOUNDS};
pub use plan::{readable, Plan, ServerInfo, UpstreamInfo};
pub use snapshot::{Describe, Row, Snapshot, GONE_LABEL};
pub use worker_counters::WorkerCounters;

/// Where a connection is. The number of those that are there goes up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the pool.
    Idle,
    /// A request has it.
    Active,
    /// The rest of a response is read from it, for nobody.
    Draining,
}

/// What is counted of the connections to a server besides their phases and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Opened for a request.
    Opened = PHASES.len() as isize,
    /// Taken from the pool for a request.
    Reused,
    /// From the pool, and failed under a request before the first byte of the response.
    Stale,
    /// Of those requests, the ones that were sent again over a new connection to the same server.
    Repeats,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Idle for `keepalive_timeout`.
    Timeout,
    /// Older than `keepalive_time`.
    Time,
    /// Served `keepalive_requests` requests.
    Requests,
    /// The server has said that it would close it (`Keep-Alive`).
    Hint,
    /// Made room for another one.
    Evicted,
    /// Closed by the server while it was idle, or right behind a response.
    ServerClosed,
    /// The server sent what nobody had asked for.
    UnexpectedData,
    /// It failed while it was idle or drained.
    Error,
    /// Found dead when a request was to have it, or taken for dead because another one was.
    Check,
    /// The rest of a response was larger than `keepalive_drain`, or took longer.
    DrainLimit,
    /// The worker exits, or was killed.
    Exiting,
    /// Its server was removed from the upstream.
    Removed,
    /// The client to which it was bound has gone (`ntlm`).
    ClientClosed,
    /// The request or the response was HTTP/1.0.
    Http10,
    /// The response said `Connection: close`.
    ConnectionClose,
    /// The request said `Connection: close`, or what means the same in another protocol.
    RequestClose,
    /// The response was not read to its end.
    BodyUnread,
    /// The request was not sent to its end.
    BodyUnsent,
    /// The request failed.
    Failed,
    /// The upstream keeps no connections.
    Disabled,
    /// It was never established.
    Connect,
    /// It has become a tunnel (101).
    Upgraded,
    /// What identified it has changed meanwhile.
    Identity,
    /// nginx keeps no connections of this protocol.
    Protocol,
    /// The server authenticates connections, and this one cannot be kept for its client.
    StatefulAuth,
}

/// Names of the ends of connections that were kept, or could have been.
pub const CLOSED: [&str; 13] = [
    "timeout",
    "time",
    "requests",
    "hint",
    "evicted",
    "server_closed",
    "unexpected_data",
    "error",
    "check",
    "drain_limit",
    "exiting",
    "removed",
    "client_closed",
];

/// Names of the reasons for which a connection could not be kept.
pub const NOT_STORED: [&str; 12] = [
    "http_1_0",
    "connection_close",
    "request_close",
    "body_unread",
    "body_unsent",
    "error",
    "disabled",
    "connect",
    "upgraded",
    "identity",
    "protocol",
    "stateful_auth",
];

/// What is counted of a queue besides its waiting times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueCount {
    /// Requests that wait now.
    Size,
    /// Requests that have come to wait.
    Requests,
    /// Requests for which it was full.
    Overflows,
    /// Requests that have waited for too long.
    Timeouts,
}

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go on.
    Allowed,
    /// It is refused.
    Denied,
    /// There was no usable answer, and it is refused.
    Failed,
    /// There was no answer in time, and it is refused.
    TimedOut,
    /// There was no usable answer, or none in time, and it may go on.
    FailedOpen,
}

/// Names of the decisions.
pub const DECISIONS: [&str; 5] = ["allowed", "denied", "failed", "timed_out", "failed_open"];

/// Names of the phases.
pub const PHASES: [&str; 3] = ["idle", "active", "draining"];

// Cells of a server, in this order, and of the others.
const FIRST_END: usize = Count::Repeats as usize + 1;
const FIRST_NOT_STORED: usize = FIRST_END + CLOSED.len();
/// Four lines of a cache: a worker shares none with another one.
const SERVER_CELLS: usize = 32;
const QUEUE_TIMES: usize = QueueCount::Timeouts as usize + 1;
const AUTH_TIMES: usize = DECISIONS.len();
const QUEUE_CELLS: usize = 24;
const AUTH_CELLS: usize = 24;
const _: () = assert!(FIRST_NOT_STORED + NOT_STORED.len() <= SERVER_CELLS);
const _: () =
    assert!(QUEUE_TIMES + histogram::CELLS <= QUEUE_CELLS && AUTH_TIMES + histogram::CELLS <= AUTH_CELLS);

/// The numbers of the connections to one server, or a sum of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers([u64; SERVER_CELLS]);

impl Default for Numbers {
    fn default() -> Self {
        Self([0; SERVER_CELLS])
    }
}

impl Numbers {
    /// How many connections are in a phase.
    pub fn phase(&self, phase: Phase) -> u64 {
        self.0[phase as usize]
    }

    /// What was counted.
    pub fn count(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Requests that got a connection.
    pub fn requests(&self) -> u64 {
        self.count(Count::Opened).wrapping_add(self.count(Count::Reused))
    }

    /// The ends of connections that were kept, or could have been, by their names.
    pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CLOSED.into_iter().zip(self.0[FIRST_END..].iter().copied())
    }

    /// The ends of connections that could not be kept, by their names.
    pub fn not_stored(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NOT_STORED.into_iter().zip(self.0[FIRST_NOT_STORED..].iter().copied())
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        for (to, from) in self.0.iter_mut().zip(others.0) {
            *to = to.wrapping_add(from);
        }
    }
}

/// The numbers of one server in this worker, which alone writes them.
#[derive(Clone, Copy, Debug)]
pub struct Meter(&'static [AtomicU64; SERVER_CELLS]);

impl Meter {
    /// A connection is opened for a request.
    #[inline]
    pub fn open(self) {
        add(&self.0[Count::Opened as usize], 1);
        add(&self.0[Phase::Active as usize], 1);
    }

    /// A request gets a connection from the pool.
    #[inline]
    pub fn reuse(self) {
        add(&self.0[Phase::Idle as usize], u64::MAX);
        add(&self.0[Count::Reused as usize], 1);
        add(&self.0[Phase::Active as usize], 1);
    }

    /// A connection passes from one phase to another.
    #[inline]
    pub fn pass(self, from: Phase, to: Phase) {
        add(&self.0[from as usize], u64::MAX);
        add(&self.0[to as usize], 1);
    }

    /// A connection ends.
    #[inline]
    pub fn end(self, from: Phase, why: End) {
        add(&self.0[from as usize], u64::MAX);
        add(&self.0[FIRST_END + why as usize], 1);
    }

    /// Counts one more.
    #[inline]
    pub fn count(self, count: Count) {
        add(&self.0[count as usize], 1);
    }
}

/// The numbers of one queue in this worker.
#[derive(Clone, Copy, Debug)]
pub struct QueueMeter(&'static [AtomicU64; QUEUE_CELLS]);

impl QueueMeter {
    /// A request begins to wait.
    pub fn begin(self) {
        add(&self.0[QueueCount::Size as usize], 1);
        add(&self.0[QueueCount::Requests as usize], 1);
    }

    /// A request has waited for so many milliseconds.
    pub fn end(self, waited: usize) {
        add(&self.0[QueueCount::Size as usize], u64::MAX);
        histogram::observe(&self.0[QUEUE_TIMES..], waited as u64);
    }

    /// The queue was full.
    pub fn overflow(self) {
        add(&self.0[QueueCount::Overflows as usize], 1);
    }

    /// The wait has lasted too long.
    pub fn time_out(self) {
        add(&self.0[QueueCount::Timeouts as usize], 1);
    }
}

/// The numbers of what was decided by one location, in this worker.
#[derive(Clone, Copy, Debug)]
pub struct AuthMeter(&'static [AtomicU64; AUTH_CELLS]);

impl AuthMeter {
    /// A request was decided after so many milliseconds.
    pub fn decide(self, decision: Decision, took: usize) {
        add(&self.0[decision as usize], 1);
        histogram::observe(&self.0[AUTH_TIMES..], took as u64);
    }
}

/// Adds to a number that nobody else writes.
#[inline]
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(more), Relaxed);
}
