//! Who waits in which worker, and which worker is woken for it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{Column, Ledger, Server, HEADER};
use crate::base::clock::Msec;

/// A worker that has been rung for so long and has not answered is not waited for, in milliseconds.
const PATIENCE: u64 = 200;

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Those who take any server.
    Queue,
    /// Those who have tried a server in vain, and take another one only.
    Retries,
}

impl Ledger {
    /// Tells since when the first request of this worker waits, if one does.
    pub fn publish(&self, line: LineKind, since: Option<Msec>) {
        self.waits(line, self.me.get()).store(since.map_or(0, |since| since as u64 + 1), SeqCst);
    }

    /// The worker whose first request has waited longest, of those that answer.
    pub fn longest(&self, now: Msec) -> Option<usize> {
        let waits = |worker: usize| match self.waits(LineKind::Queue, worker).load(SeqCst) {
            0 => None,
            since => self.answers(worker, now).then_some((since, worker)),
        };
        (0..self.workers).filter_map(waits).min().map(|(_, worker)| worker)
    }

    /// Whether the request that has waited longest is another worker's.
    pub fn another_waits_longest(&self, now: Msec) -> Option<usize> {
        self.longest(now).filter(|worker| *worker != self.me.get())
    }

    /// The other workers in which requests wait that have tried a server in vain.
    pub fn with_retries(&self) -> impl Iterator<Item = usize> + '_ {
        self.others().filter(|worker| self.waits(LineKind::Retries, *worker).load(SeqCst) > 0)
    }

    /// Whether idle connections to the server belong to workers that do not answer.
    pub fn is_out_of_reach(&self, server: Server, now: Msec) -> bool {
        self.others().any(|it| !self.answers(it, now) && self.cell(server, it, Column::Idle).load(SeqCst) > 0)
    }

    /// Notes that a worker is rung for.
    pub fn ring(&self, worker: usize, now: Msec) {
        // If it was rung before and has not answered yet, that is what counts.
        let _ = self.rung(worker).compare_exchange(0, now as u64 + 1, SeqCst, SeqCst);
    }

    /// Whether this worker was rung for since it last answered.
    pub fn is_rung(&self) -> bool {
        self.rung(self.me.get()).load(SeqCst) > 0
    }

    /// This worker looks after those who wait.
    pub fn answer(&self) {
        self.rung(self.me.get()).store(0, SeqCst);
    }

    /// All workers but this one.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        let me = self.me.get();
        (0..self.workers).filter(move |worker| *worker != me)
    }

    pub(super) fn waits(&self, line: LineKind, worker: usize) -> &AtomicU64 {
        &self.table.words()[HEADER + line as usize * self.workers + worker]
    }

    pub(super) fn rung(&self, worker: usize) -> &AtomicU64 {
        &self.table.words()[HEADER + 3 * self.workers + worker]
    }

    pub(super) fn answers(&self, worker: usize, now: Msec) -> bool {
        match self.rung(worker).load(SeqCst) {
            0 => true,
            since => worker == self.me.get() || (now as u64 + 1).saturating_sub(since) <= PATIENCE,
        }
    }
}
