//! The counters of the pools: the connections of each server and why they ended, those that workers hand over to each other,
//! the carriers of HTTP/2, the requests in the queues, and the decisions of `auth_subrequest`.
//!
//! ```text
//!   a generation: the memory of one configuration, shared by its workers
//!
//!   head | process of worker 0, 1, ..  | for each upstream: the warnings that were written | and when hints were
//!   worker 0 | upstream a: queue, handover, http2, lately | upstream b: ..  | auth /a, /b, .. | rows: server 1, 2, .. | other, gone, ..
//!   worker 1 | the same
//!   folded   | the same: the sums of former generations whose workers have all ended
//! ```
//!
//! Each worker writes only its own column, so it needs neither a lock nor an atomic addition. Cells are relaxed: each is a number
//! by itself, and a page that shows one of two numbers a moment before the other is right all the same. What a killed worker
//! has counted is visible when it is found gone, as the kernel's locks are in between. Readers
//! add up the columns, including the columns of former generations whose workers may still run. Counters survive their
//! worker. Gauges (phases, carriers, streams, the size of a queue) count only while their worker is alive.
#![forbid(unsafe_code)]

mod generation;
mod handover;
mod hint;
mod histogram;
mod http2;
mod index;
mod lately;
#[cfg(loom)]
pub mod orders;
mod plan;
mod rows;
mod servers;
mod snapshot;
#[cfg(test)]
mod tests;
mod worker_counters;

use std::sync::atomic::Ordering::Relaxed;

use crate::base::atomic::AtomicU64;

use handover::HANDOVER_CELLS;
use http2::HTTP2_CELLS;
use rows::{add_to, Row as Cells, LINE};

pub use generation::{Generation, Refused, Worker};
pub use handover::{Dropped, Handover, HandoverCount, HandoverMeter, DROPPED};
pub use hint::{Cause, Hint};
pub use histogram::{Histogram, BOUNDS};
pub use http2::{Http2, Http2Count, Http2Gauge, Http2Meter, HTTP2_COUNTS};
pub use plan::{readable, Plan, UpstreamInfo};
pub use servers::{ServerInfo, ServerView, Servers};
pub use snapshot::{Describe, Row, Snapshot, GONE_LABEL};
pub use worker_counters::WorkerCounters;

/// Where a connection is. The number of connections in a phase is a gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the pool.
    Idle,
    /// Used by a request.
    Active,
    /// The rest of a response is being read from it and discarded.
    Draining = LINE as isize,
}

/// The counters of the connections to a server, besides the phases and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Connections opened for a request.
    Opened = Phase::Active as isize + 1,
    /// Connections taken from the pool for a request.
    Reused,
    /// Connections from the pool that failed before the first byte of the response.
    Stale = Phase::Draining as isize + 1,
    /// Requests on such connections that were sent again over a new connection to the same server.
    Repeats,
    /// Connections handed over to another worker.
    Given,
    /// Connections taken over from another worker.
    Taken,
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
    /// The server has announced that it would close it (`Keep-Alive`).
    Hint,
    /// The server was [seen](crate::lessons) to close connections at this age, or after so many requests.
    Learned,
    /// Evicted for another connection.
    Evicted,
    /// Closed by the server while it was idle, or directly after a response.
    ServerClosed,
    /// The server sent data without a request.
    UnexpectedData,
    /// It failed while it was idle or draining.
    Error,
    /// Found closed when a request needed it, or assumed to be because another connection was.
    Check,
    /// The rest of a response was larger than `keepalive_drain`, or took longer.
    DrainLimit,
    /// The worker exits, or was killed.
    Exiting,
    /// Its server was removed from the upstream.
    Removed,
    /// The client to which it was bound has disconnected (`ntlm`).
    ClientClosed,
    /// The request or the response was HTTP/1.0.
    Http10,
    /// The response said `Connection: close`.
    ConnectionClose,
    /// The request said `Connection: close`, or the equivalent in another protocol.
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
    /// It has become a tunnel (status 101).
    Upgraded,
    /// Its identity has changed during the request.
    Identity,
    /// nginx keeps no connections of this protocol.
    Protocol,
    /// The server authenticates connections, and this one cannot be kept for its client.
    StatefulAuth,
}

/// Names of the ends of connections that were kept, or could have been kept.
pub const CLOSED: [&str; 14] = [
    "timeout",
    "time",
    "requests",
    "hint",
    "learned",
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

/// Names of the ends of connections that could not be kept.
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

/// The counters of a queue, besides the waiting times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueCount {
    /// Requests that wait now.
    Size,
    /// Requests that have waited or wait.
    Requests,
    /// Requests that found the queue full.
    Overflows,
    /// Requests that waited for too long.
    Timeouts,
}

/// A decision of `auth_subrequest` about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request is allowed.
    Allowed,
    /// The request is denied.
    Denied,
    /// There was no usable answer, and the request is denied.
    Failed,
    /// There was no answer in time, and the request is denied.
    TimedOut,
    /// There was no usable answer, or none in time, and the request is allowed.
    FailedOpen,
}

/// Names of the decisions.
pub const DECISIONS: [&str; 5] = ["allowed", "denied", "failed", "timed_out", "failed_open"];

/// Names of the phases.
pub const PHASES: [&str; 3] = ["idle", "active", "draining"];

/// The cells of the phases.
const PHASE_CELLS: [usize; PHASES.len()] =
    [Phase::Idle as usize, Phase::Active as usize, Phase::Draining as usize];

// Cells of a server: the phases and the counts, in the first line those that each connection counts; the ends. Then the cells of
// a queue and of a decision.
const FIRST_END: usize = Count::Taken as usize + 1;
const FIRST_NOT_STORED: usize = FIRST_END + CLOSED.len();
/// Seven lines.
const SERVER_CELLS: usize = 7 * LINE;
/// The cell of [`Meter::note`]: no counter.
const NOTE: usize = LINE - 2;
/// Whether the lines behind the first one were ever touched: no counter.
const BEHIND: usize = LINE - 1;
const QUEUE_TIMES: usize = QueueCount::Timeouts as usize + 1;
const AUTH_TIMES: usize = DECISIONS.len();
const QUEUE_CELLS: usize = 24;
const AUTH_CELLS: usize = 24;
const _: () =
    assert!(FIRST_NOT_STORED + NOT_STORED.len() <= SERVER_CELLS && Count::Reused as usize + 1 == NOTE);
const _: () =
    assert!(QUEUE_TIMES + histogram::CELLS <= QUEUE_CELLS && AUTH_TIMES + histogram::CELLS <= AUTH_CELLS);

/// The counters of one server, or a sum of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCounters([u64; SERVER_CELLS]);

impl Default for ServerCounters {
    fn default() -> Self {
        Self([0; SERVER_CELLS])
    }
}

impl ServerCounters {
    /// How many connections are in a phase.
    pub fn phase(&self, phase: Phase) -> u64 {
        self.0[phase as usize]
    }

    /// The value of a counter.
    pub fn count(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Requests that got a connection.
    pub fn requests(&self) -> u64 {
        self.count(Count::Opened).wrapping_add(self.count(Count::Reused))
    }

    /// The numbers of connections that were kept, or could have been kept, by the name of their end.
    pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CLOSED.into_iter().zip(self.0[FIRST_END..].iter().copied())
    }

    /// The numbers of connections that could not be kept, by the name of their end.
    pub fn not_stored(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NOT_STORED.into_iter().zip(self.0[FIRST_NOT_STORED..].iter().copied())
    }

    /// Adds other counters to these.
    pub fn add(&mut self, others: &Self) {
        for (to, from) in self.0.iter_mut().zip(others.0) {
            *to = to.wrapping_add(from);
        }
    }
}

/// The counters of one server in this worker, which is their only writer.
#[derive(Clone, Copy, Debug)]
pub struct Meter(&'static Cells);

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

    /// Whether this worker has an idle connection to the server.
    pub fn has_idle(self) -> bool {
        self.0[Phase::Idle as usize].load(Relaxed) > 0
    }

    /// What this worker has noted about the server; 0 if nothing.
    #[inline]
    pub fn noted(self) -> u64 {
        self.0[NOTE].load(Relaxed)
    }

    /// Notes a number about the server that has a meaning in this worker.
    pub fn note(self, number: u64) {
        self.0[NOTE].store(number, Relaxed);
    }

    /// A connection changes from one phase to another.
    #[inline]
    pub fn pass(self, from: Phase, to: Phase) {
        add_to(self.0, from as usize, u64::MAX);
        add_to(self.0, to as usize, 1);
    }

    /// A connection ends.
    #[inline]
    pub fn end(self, from: Phase, why: End) {
        add_to(self.0, from as usize, u64::MAX);
        add_to(self.0, FIRST_END + why as usize, 1);
    }

    /// An idle connection is handed over to another worker. It has not ended.
    pub fn give(self) {
        add(&self.0[Phase::Idle as usize], u64::MAX);
        add_to(self.0, Count::Given as usize, 1);
    }

    /// It could not be handed over, and is still here: reverses [`Self::give`].
    pub fn keep(self) {
        add(&self.0[Phase::Idle as usize], 1);
        add_to(self.0, Count::Given as usize, u64::MAX);
    }

    /// A connection is taken over from another worker, and is idle. It is not opened.
    pub fn take(self) {
        add(&self.0[Phase::Idle as usize], 1);
        add_to(self.0, Count::Taken as usize, 1);
    }

    /// Adds one to a counter.
    #[inline]
    pub fn count(self, count: Count) {
        add_to(self.0, count as usize, 1);
    }
}

/// The counters of one queue in this worker.
#[derive(Clone, Copy, Debug)]
pub struct QueueMeter(&'static [AtomicU64; QUEUE_CELLS]);

impl QueueMeter {
    /// A request begins to wait.
    pub fn begin(self) {
        add(&self.0[QueueCount::Size as usize], 1);
        add(&self.0[QueueCount::Requests as usize], 1);
    }

    /// A wait ends after `waited` milliseconds.
    pub fn end(self, waited: usize) {
        add(&self.0[QueueCount::Size as usize], u64::MAX);
        histogram::observe(&self.0[QUEUE_TIMES..], waited as u64);
    }

    /// A request found the queue full.
    pub fn overflow(self) {
        add(&self.0[QueueCount::Overflows as usize], 1);
    }

    /// A request waited for too long.
    pub fn time_out(self) {
        add(&self.0[QueueCount::Timeouts as usize], 1);
    }
}

/// The counters of the decisions of one `auth_subrequest` URI in this worker.
#[derive(Clone, Copy, Debug)]
pub struct AuthMeter(&'static [AtomicU64; AUTH_CELLS]);

impl AuthMeter {
    /// Counts a decision that took `took` milliseconds.
    pub fn decide(self, decision: Decision, took: usize) {
        add(&self.0[decision as usize], 1);
        histogram::observe(&self.0[AUTH_TIMES..], took as u64);
    }
}

/// Adds to a cell of which this worker is the only writer. It wraps around, so adding `u64::MAX` subtracts one.
#[inline]
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(more), Relaxed);
}
