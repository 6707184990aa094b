//! What a worker that was killed leaves behind, and who takes it back: the process that takes its place, or,
//! if none does, any other worker.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{Ledger, Line, Of, Server, ADDRESS, ADDRESS_WORDS, LENGTH, OPEN, REQUESTS};

/// In place of a process: another one takes back what this worker left, whose number stands beside it.
const BEING_RECOVERED: u64 = 1 << 63;

impl Ledger {
    /// This worker is the process `pid` from now on. Takes back what the process left behind that was this worker
    /// before: `left` gets the address of each server, and the requests there that the balancer was never told the end of.
    pub fn enter(&self, pid: u64, is_alive: impl Fn(u64) -> bool, left: impl FnMut(&[u8], u64)) {
        let process = self.process(self.me.get());
        loop {
            let before = process.load(SeqCst);
            if before & BEING_RECOVERED != 0 && is_alive(before & !BEING_RECOVERED) {
                std::thread::yield_now();
            } else if process.compare_exchange(before, pid, SeqCst, SeqCst).is_ok() {
                if before != 0 {
                    self.take_back(self.me.get(), left);
                }
                return;
            }
        }
    }

    /// Takes back what other workers have left behind whose processes are gone; see [`Self::enter`].
    pub fn recover(&self, is_alive: impl Fn(u64) -> bool, mut left: impl FnMut(&[u8], u64)) {
        let me = self.process(self.me.get()).load(SeqCst);
        for worker in self.others() {
            let process = self.process(worker);
            let pid = process.load(SeqCst);
            if pid == 0 || is_alive(pid & !BEING_RECOVERED) {
                continue;
            }
            if process.compare_exchange(pid, me | BEING_RECOVERED, SeqCst, SeqCst).is_ok() {
                self.take_back(worker, &mut left);
                process.store(0, SeqCst);
            }
        }
    }

    fn take_back(&self, worker: usize, mut left_behind: impl FnMut(&[u8], u64)) {
        // It may have been killed while it held the lock.
        let _ = self.table.words()[0].compare_exchange(worker as u64 + 1, 0, SeqCst, SeqCst);
        for line in [Line::Queue, Line::Retries] {
            self.waits(line, worker).store(0, SeqCst);
        }
        self.rung(worker).store(0, SeqCst);
        for server in 0..self.servers as Server {
            let left = |of| self.of(server, worker, of).swap(0, SeqCst);
            let (open, requests) = (left(Of::Open), left(Of::Requests));
            for of in [Of::Idle, Of::Lingering, Of::Parked, Of::Asked] {
                left(of);
            }
            self.word(server, OPEN).fetch_sub(open, SeqCst);
            self.word(server, REQUESTS).fetch_sub(requests, SeqCst);
            if requests > 0 {
                let mut address = [0; ADDRESS_WORDS * 8];
                let words = (0..ADDRESS_WORDS).map(|at| self.word(server, ADDRESS + at).load(SeqCst));
                address.iter_mut().zip(words.flat_map(u64::to_ne_bytes)).for_each(|(to, from)| *to = from);
                let length = self.word(server, LENGTH).load(SeqCst) as usize;
                left_behind(address.get(..length).unwrap_or(&address), requests);
            }
        }
    }

    fn process(&self, worker: usize) -> &AtomicU64 {
        &self.table.words()[1 + 4 * self.workers + worker]
    }
}
