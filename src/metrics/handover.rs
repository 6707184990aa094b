//! The connections that workers hand over to each other: what an upstream counts besides `given` and `taken` of its servers.
//!
//! ```text
//!   giving worker                     taking worker
//!   idle  -> given   ..in transit..   taken -> idle
//!                                     dropped, for one of the reasons
//! ```
#![forbid(unsafe_code)]

use super::{add, Count, ServerCounters};
use crate::base::atomic::AtomicU64;

/// The counters of the questions for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverCount {
    /// Questions to other workers whether they have an idle connection.
    Asked,
    /// Questions that were answered with a connection.
    Answered,
}

/// Why a connection was dropped that had arrived from another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The upstream keeps or takes no connections.
    Disabled,
    /// The server is not in the upstream any more.
    Server,
    /// There is no such protocol module here.
    Protocol,
    /// `max_conns` of the server is reached, or the pool has no room.
    Limit,
    /// The server has closed it meanwhile, or sent something.
    Closed,
    /// It was idle or open for too long.
    Expired,
    /// The worker has no free connection, descriptor or memory.
    Resources,
    /// The message or the descriptor is not what it should be.
    Invalid,
}

/// Names of the reasons for which connections are dropped.
pub const DROPPED: [&str; 8] =
    ["disabled", "server", "protocol", "limit", "closed", "expired", "resources", "invalid"];

const FIRST_DROPPED: usize = HandoverCount::Answered as usize + 1;
/// Two cache lines.
pub(super) const HANDOVER_CELLS: usize = 16;
const _: () = assert!(Dropped::Invalid as usize + 1 == DROPPED.len());
const _: () = assert!(FIRST_DROPPED + DROPPED.len() <= HANDOVER_CELLS);

/// The counters of the handover in one upstream of this worker.
#[derive(Clone, Copy, Debug)]
pub struct HandoverMeter(pub(super) &'static [AtomicU64; HANDOVER_CELLS]);

impl HandoverMeter {
    /// Other workers are asked for a connection.
    pub fn ask(self) {
        add(&self.0[HandoverCount::Asked as usize], 1);
    }

    /// A question was answered with a connection.
    pub fn answer(self) {
        add(&self.0[HandoverCount::Answered as usize], 1);
    }

    /// A connection that has arrived is dropped. The server has not counted it as taken.
    pub fn drop(self, why: Dropped) {
        add(&self.0[FIRST_DROPPED + why as usize], 1);
    }
}

/// The counters of the handover in one upstream, of all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handover(pub(super) [u64; HANDOVER_CELLS]);

impl Handover {
    /// The value of a counter.
    pub fn count(&self, count: HandoverCount) -> u64 {
        self.0[count as usize]
    }

    /// The numbers of connections that were dropped, by the name of the reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        DROPPED.into_iter().zip(self.0[FIRST_DROPPED..].iter().copied())
    }

    /// The connections that were given and have not arrived yet. `sum` is the sum of all rows of the upstream. The counters
    /// are read while they change, so an arrival may be seen before the connection was given.
    pub fn in_transit(&self, sum: &ServerCounters) -> u64 {
        let taken = sum.count(Count::Taken);
        let arrived = self.dropped().fold(taken, |arrived, (_, number)| arrived.wrapping_add(number));
        sum.count(Count::Given).saturating_sub(arrived)
    }
}
