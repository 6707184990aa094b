//! What a worker that was killed leaves behind, and who takes it back: the process that takes its place, or,
//! if none does, any other worker.
//!
//! Whoever takes it back can be killed as well, so that each step can be done again: the number of a process stands for the
//! worker until nothing of it is left, and the totals are repaired last.
#![forbid(unsafe_code)]

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, SeqCst},
};

use super::{step, tally, Column, Ledger, LineKind, Server, OPEN, REQUESTS};
use crate::base::clock::Msec;

/// In place of a process: another one takes back what this worker left, whose number stands beside it.
const BEING_RECOVERED: u64 = 1 << 63;

impl Ledger {
    /// This worker is the process `pid` from now on. Takes back what the process left behind that was this worker
    /// before: `left` gets the address of each server, and the requests there that the balancer was never told the end of.
    /// If another worker does that already, `waits` waits for it, gets how often it has, and says whether it did again: the
    /// other worker may have been stopped.
    pub fn enter(
        &self,
        pid: u64,
        is_gone: impl Fn(u64) -> bool,
        waits: impl Fn(u32) -> bool,
        left: impl FnMut(&[u8], u64),
    ) {
        let process = self.process(self.me.get());
        let mut waited = 0;
        loop {
            let before = process.load(SeqCst);
            let is_taken = before & BEING_RECOVERED != 0 && !is_gone(before & !BEING_RECOVERED);
            if is_taken && waits(waited) {
                waited += 1;
                continue;
            }
            step();
            if process.compare_exchange(before, pid, SeqCst, SeqCst).is_ok() {
                if before != 0 {
                    self.take_back(self.me.get(), pid, left);
                }
                return;
            }
        }
    }

    /// Takes back what other workers have left behind whose processes are gone; see [`Self::enter`]. `is_gone` gets the number
    /// of a worker, its process, and whether it answers when it is rung for.
    pub fn recover(
        &self,
        now: Msec,
        is_gone: impl Fn(usize, u64, bool) -> bool,
        mut left: impl FnMut(&[u8], u64),
    ) {
        let me = self.process(self.me.get()).load(SeqCst) | BEING_RECOVERED;
        for worker in self.others() {
            let process = self.process(worker);
            let pid = process.load(SeqCst);
            // Nobody rings for what is being taken back.
            let answers = pid & BEING_RECOVERED == 0 && self.answers(worker, now);
            if pid == 0 || !is_gone(worker, pid & !BEING_RECOVERED, answers) {
                continue;
            }
            step();
            if process.compare_exchange(pid, me, SeqCst, SeqCst).is_ok()
                && self.take_back(worker, me, &mut left)
            {
                step();
                // It may be another worker's by now, as in `enter`.
                let _ = process.compare_exchange(me, 0, SeqCst, SeqCst);
            }
        }
        self.repair_again();
    }

    /// The workers that have something here and that nobody has rung for, nor will when it is the turn of a request there:
    /// if such a one does not answer, it may be gone.
    pub fn unrung_holders(&self) -> impl Iterator<Item = usize> + '_ {
        let is_zero = |word: &AtomicU64| word.load(SeqCst) == 0;
        self.others().filter(move |worker| {
            let process = self.process(*worker).load(SeqCst);
            process != 0
                && process & BEING_RECOVERED == 0
                && is_zero(self.rung(*worker))
                && [LineKind::Queue, LineKind::Retries].iter().all(|line| is_zero(self.waits(*line, *worker)))
                && self.has_something(*worker)
        })
    }

    fn has_something(&self, worker: usize) -> bool {
        let has = |server, column| !tally::is_empty(self.cell(server, worker, column));
        self.used().any(|server| has(server, Column::Open) || has(server, Column::Requests))
    }

    /// Takes back what a worker has left behind, for the process that is noted in its place. `false` if another one is by now.
    fn take_back(&self, worker: usize, owner: u64, mut left_behind: impl FnMut(&[u8], u64)) -> bool {
        let is_for_me = || self.process(worker).load(Acquire) == owner;
        let forget = |word: &AtomicU64| {
            let left = word.load(SeqCst);
            step();
            if left != 0 && is_for_me() {
                // If it was changed meanwhile, it is another worker's already, and not forgotten.
                let _ = word.compare_exchange(left, 0, SeqCst, SeqCst);
            }
        };
        for line in [LineKind::Queue, LineKind::Retries] {
            forget(self.waits(line, worker));
        }
        forget(self.rung(worker));
        for server in self.used() {
            let Some(_) = tally::clear(self.cell(server, worker, Column::Open), is_for_me) else {
                return false;
            };
            let requests = tally::clear(self.cell(server, worker, Column::Requests), is_for_me);
            for column in [Column::Idle, Column::Lingering, Column::Parked, Column::CloseRequests] {
                forget(self.cell(server, worker, column));
            }
            match requests {
                None => return false,
                Some(0) => {}
                // The total still has them, so that the place keeps its address.
                Some(requests) => {
                    let (address, length) = self.address(server);
                    left_behind(address.get(..length).unwrap_or(&address), requests);
                }
            }
        }
        if !self.repair() {
            step();
            self.repairs_due().fetch_add(1, SeqCst);
        }
        true
    }

    /// Makes all totals what the workers have. `false` if one of them was found counting each time.
    fn repair(&self) -> bool {
        let mut repaired = true;
        for server in self.used() {
            for (total, column) in [(OPEN, Column::Open), (REQUESTS, Column::Requests)] {
                let parts = (0..self.workers).map(|worker| self.cell(server, worker, column));
                repaired &= tally::repair(self.word(server, total), parts);
            }
        }
        repaired
    }

    /// Mends what could not be repaired when it was taken back.
    fn repair_again(&self) {
        let times = self.repairs_due().load(SeqCst);
        if times > 0 && self.repair() {
            step();
            // Unless there is more by now.
            let _ = self.repairs_due().compare_exchange(times, 0, SeqCst, SeqCst);
        }
    }

    fn used(&self) -> impl Iterator<Item = Server> + '_ {
        (0..self.servers as Server).filter(|server| self.is_used(*server))
    }

    /// How often totals could not be repaired.
    fn repairs_due(&self) -> &AtomicU64 {
        &self.table.words()[1]
    }

    pub(super) fn process(&self, worker: usize) -> &AtomicU64 {
        &self.table.words()[super::HEADER + 4 * self.workers + worker]
    }

    /// What tells this process from all others.
    pub(super) fn identity(&self) -> u64 {
        match self.process(self.me.get()).load(SeqCst) {
            // Nobody has entered yet, so nobody is killed.
            0 => self.me.get() as u64 + 1,
            process => process,
        }
    }
}
