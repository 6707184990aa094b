//! Recovers what a killed worker leaves behind. The process that replaces it does that, or, if there is none, any other
//! worker.
//!
//! The recovering process can be killed too, so each step can be repeated: the number of a process stays in the worker's
//! place until everything is recovered, and the totals are repaired last.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, SeqCst};

use super::{step, tally, Column, Ledger, LineKind, Server, OPEN, REQUESTS};
use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;

/// A flag in the number of a worker's process: that process is not the worker, but recovers what the worker left.
const BEING_RECOVERED: u64 = 1 << 63;

/// How a process counts that has become a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Entered {
    /// Together with all other workers.
    Together,
    /// For itself, in memory of its own, because the worker's previous process still runs. Nobody rings it, and it hands
    /// nothing over.
    Alone,
}

impl Ledger {
    /// This worker is the process `pid` from now on. Recovers what the worker's previous process left behind: `left` gets
    /// the address of each server, and the number of requests there whose end the balancer was not told. If another worker is
    /// already recovering that, `waits` is called to wait for it. It gets the number of waits so far, and returns `false`
    /// to stop waiting: the other worker may have been stopped. Afterwards this worker has to
    /// [settle](Self::settle_transfers). Nothing of a previous process that still runs is touched.
    pub fn enter(
        &self,
        pid: u64,
        is_gone: impl Fn(u64) -> bool,
        waits: impl Fn(u32) -> bool,
        left: impl FnMut(&[u8], u64),
    ) -> Entered {
        let process = self.process(self.me.get());
        let mut waited = 0;
        loop {
            let before = process.load(SeqCst);
            if before != 0 && before != pid && !is_gone(before & !BEING_RECOVERED) {
                if before & BEING_RECOVERED == 0 {
                    self.count_alone(pid);
                    return Entered::Alone;
                }
                if waits(waited) {
                    waited += 1;
                    continue;
                }
            }
            step();
            if process.compare_exchange(before, pid, SeqCst, SeqCst).is_ok() {
                // Even if another worker has recovered everything: something may still have been being sent then.
                self.settled.set(None);
                self.clear_marks();
                if before != 0 {
                    self.recover_worker(self.me.get(), pid, left);
                }
                return Entered::Together;
            }
        }
    }

    /// This worker, the process `pid`, counts for itself from now on.
    fn count_alone(&self, pid: u64) {
        if let Some(shared) = self.table.leave_shared() {
            self.copy_noted(shared);
            self.process(self.me.get()).store(pid, SeqCst);
            // Nothing is handed over, so there is nothing to settle.
            self.settled.set(Some(0));
        }
    }

    /// Recovers what other workers have left behind whose processes are gone; see [`Self::enter`]. `is_gone` gets the number
    /// of a worker, its process, and whether it answers its bell. `read` reads the inbox of a worker that has no process, as
    /// [`Self::settle_transfers`] says. Afterwards the caller rings the [receivers](Self::receivers).
    pub fn recover(
        &self,
        now: Msec,
        is_gone: impl Fn(usize, u64, bool) -> bool,
        mut left: impl FnMut(&[u8], u64),
        read: impl Fn(usize) -> bool,
    ) {
        let me = self.process(self.me.get()).load(SeqCst) | BEING_RECOVERED;
        for worker in self.others() {
            let process = self.process(worker);
            let pid = process.load(SeqCst);
            // A worker that is being recovered is not rung.
            let answers = pid & BEING_RECOVERED == 0 && self.answers(worker, now);
            let is_due = match pid {
                // What was sent to it after it was recovered, or could not be settled then.
                0 => self.is_any_sent_to(worker),
                _ => is_gone(worker, pid & !BEING_RECOVERED, answers),
            };
            if !is_due {
                continue;
            }
            step();
            if process.compare_exchange(pid, me, SeqCst, SeqCst).is_ok()
                && (pid == 0 || self.recover_worker(worker, me, &mut left))
            {
                // What is not settled now is found the next time.
                self.settle_transfers(worker, || read(worker));
                step();
                // If this fails, a new process has entered in the worker's place.
                let _ = process.compare_exchange(me, 0, SeqCst, SeqCst);
            }
        }
        self.repair_again();
    }

    /// The other workers that hold connections or requests, have not been rung, and will not be, because none of their
    /// requests wait. The caller rings them: a worker that does not answer may be gone.
    pub fn unrung_holders(&self) -> impl Iterator<Item = usize> + '_ {
        let is_zero = |word: &AtomicU64| word.load(SeqCst) == 0;
        self.others().filter(move |worker| {
            self.has_process(*worker)
                && is_zero(self.rung(*worker))
                && [LineKind::Queue, LineKind::Retries].iter().all(|line| is_zero(self.waits(*line, *worker)))
                && self.has_something(*worker)
        })
    }

    /// Whether a worker holds connections or requests, or has sent connections, or is to receive some.
    fn has_something(&self, worker: usize) -> bool {
        let has = |server, column| !tally::is_empty(self.cell(server, worker, column));
        self.used().any(|server| has(server, Column::Open) || has(server, Column::Requests))
            || self.has_given(worker)
            || self.is_any_sent_to(worker)
    }

    /// Recovers what a worker has left behind. `owner` is the process noted in the worker's place. `false` if it is another
    /// process by now.
    fn recover_worker(&self, worker: usize, owner: u64, mut left: impl FnMut(&[u8], u64)) -> bool {
        let is_for_me = || self.process(worker).load(Acquire) == owner;
        let clear = |word: &AtomicU64| {
            let left = word.load(SeqCst);
            step();
            if left != 0 && is_for_me() {
                step();
                // If it was changed meanwhile, it belongs to a new process and is not cleared. The same time does not come again.
                let _ = word.compare_exchange(left, 0, SeqCst, SeqCst);
            }
        };
        for line in [LineKind::Queue, LineKind::Retries] {
            clear(self.waits(line, worker));
        }
        clear(self.rung(worker));
        for server in self.used() {
            let Some(_) = tally::clear(self.cell(server, worker, Column::Open), is_for_me) else {
                return false;
            };
            let requests = tally::clear(self.cell(server, worker, Column::Requests), is_for_me);
            for column in [Column::Idle, Column::Lingering, Column::Parked, Column::CloseRequests] {
                tally::clear_count(self.cell(server, worker, column), is_for_me);
            }
            match requests {
                None => return false,
                Some(0) => {}
                // The total still includes them, so the place keeps its address.
                Some(requests) => {
                    let (address, length) = self.address(server);
                    left(address.get(..length).unwrap_or(&address), requests);
                }
            }
        }
        if !self.repair() {
            step();
            self.repairs_due().fetch_add(1, SeqCst);
        }
        self.recover_transfers(worker, is_for_me);
        true
    }

    /// Sets all totals to the sums of the workers' parts and of what is in transit. `false` if a worker was found counting
    /// each time.
    pub(super) fn repair(&self) -> bool {
        let mut repaired = true;
        for server in self.used() {
            for (total, column) in [(OPEN, Column::Open), (REQUESTS, Column::Requests)] {
                let parts = (0..self.workers).map(|worker| self.cell(server, worker, column));
                let in_transit = || match column {
                    Column::Open => self.in_transit(server),
                    _ => 0,
                };
                repaired &= tally::repair(self.word(server, total), parts, in_transit);
            }
        }
        repaired
    }

    /// Repairs the totals that could not be repaired when a worker was recovered.
    fn repair_again(&self) {
        let times = self.repairs_due().load(SeqCst);
        if times > 0 && self.repair() {
            step();
            // Unless there is more by now.
            let _ = self.repairs_due().compare_exchange(times, 0, SeqCst, SeqCst);
        }
    }

    /// The places that were ever used.
    fn used(&self) -> impl Iterator<Item = Server> + '_ {
        (0..self.servers as Server).filter(|server| self.is_used(*server))
    }

    /// How often a repair of the totals failed since the last complete one.
    fn repairs_due(&self) -> &AtomicU64 {
        &self.table.words()[1]
    }

    /// The process that is a worker, or that recovers it; 0 if there is none.
    pub(super) fn process(&self, worker: usize) -> &AtomicU64 {
        &self.table.words()[super::HEADER + 4 * self.workers + worker]
    }

    /// Whether a worker has a process, as far as is known.
    pub(super) fn has_process(&self, worker: usize) -> bool {
        let process = self.process(worker).load(SeqCst);
        process != 0 && process & BEING_RECOVERED == 0
    }

    /// A number that no other process in the ledger has.
    pub(super) fn identity(&self) -> u64 {
        match self.process(self.me.get()).load(SeqCst) {
            // No process has entered yet, so none can have been killed.
            0 => self.me.get() as u64 + 1,
            process => process,
        }
    }
}
