//! Which workers have waiting requests, and which worker is rung for them.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{Column, Ledger, Server, HEADER};
use crate::base::clock::Msec;

/// A worker that has not answered its bell for this long is not waited for, in milliseconds.
const ANSWER_TIMEOUT: u64 = 200;

/// A kind of waiting requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Requests that take any server.
    Queue,
    /// Requests that have tried servers without success and take only others.
    Retries,
}

impl Ledger {
    /// Publishes since when the first request of this worker waits; `None` if none waits.
    pub fn publish(&self, line: LineKind, since: Option<Msec>) {
        self.waits(line, self.me.get()).store(since.map_or(0, |since| since as u64 + 1), SeqCst);
    }

    /// The worker whose first request has waited longest. Workers that do not answer are ignored.
    pub fn longest(&self, now: Msec) -> Option<usize> {
        let waits = |worker: usize| match self.waits(LineKind::Queue, worker).load(SeqCst) {
            0 => None,
            since => self.answers(worker, now).then_some((since, worker)),
        };
        (0..self.workers).filter_map(waits).min().map(|(_, worker)| worker)
    }

    /// The worker whose first request has waited longest, if it is not this one.
    pub fn another_waits_longest(&self, now: Msec) -> Option<usize> {
        self.longest(now).filter(|worker| *worker != self.me.get())
    }

    /// The other workers that have requests of [`LineKind::Retries`].
    pub fn with_retries(&self) -> impl Iterator<Item = usize> + '_ {
        self.others().filter(|worker| self.waits(LineKind::Retries, *worker).load(SeqCst) > 0)
    }

    /// Whether a worker that does not answer has idle connections to the server.
    pub fn is_out_of_reach(&self, server: Server, now: Msec) -> bool {
        self.others().any(|it| !self.answers(it, now) && self.count(server, it, Column::Idle) > 0)
    }

    /// Notes that a worker is rung.
    pub fn ring(&self, worker: usize, now: Msec) {
        // If it has not answered an earlier ring, the time of that one stays.
        let _ = self.rung(worker).compare_exchange(0, now as u64 + 1, SeqCst, SeqCst);
    }

    /// Whether this worker was rung since it last answered.
    pub fn is_rung(&self) -> bool {
        self.rung(self.me.get()).load(SeqCst) > 0
    }

    /// This worker answers its bell: it serves its waiting requests.
    pub fn answer(&self) {
        self.rung(self.me.get()).store(0, SeqCst);
    }

    /// All workers but this one.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        let me = self.me.get();
        (0..self.workers).filter(move |worker| *worker != me)
    }

    /// Since when the first request of a kind waits in a worker, plus 1; 0 if none waits.
    pub(super) fn waits(&self, line: LineKind, worker: usize) -> &AtomicU64 {
        &self.table.words()[HEADER + line as usize * self.workers + worker]
    }

    /// Since when a worker has been rung, plus 1; 0 if it has answered.
    pub(super) fn rung(&self, worker: usize) -> &AtomicU64 {
        &self.table.words()[HEADER + 3 * self.workers + worker]
    }

    /// Whether a worker answers its bell in time. This worker always does.
    pub(super) fn answers(&self, worker: usize, now: Msec) -> bool {
        match self.rung(worker).load(SeqCst) {
            0 => true,
            since => worker == self.me.get() || (now as u64 + 1).saturating_sub(since) <= ANSWER_TIMEOUT,
        }
    }
}
