//! Workers that were killed, and what becomes of their connections and requests.
#![forbid(unsafe_code)]

use keepalive::ledger::Entered;

use super::{Cells, Left, Model, ADDRESSES};

impl Model {
    fn take_left(&mut self, worker: usize) -> Left {
        let worker = &mut self.workers[worker];
        worker.waits = [None; 2];
        worker.rung = None;
        let mut left = Vec::new();
        for (server, cells) in &mut worker.cells {
            if cells.requests > 0 {
                let address = ADDRESSES[self.places[server].address].to_vec();
                left.push((address, cells.requests));
            }
            *cells = Cells::default();
        }
        left
    }

    pub(super) fn enter(&mut self, me: usize) {
        self.pids += 1;
        let alive = self.alive();
        let mut left = Left::new();
        let entered = self.workers[me].ledger.enter(
            self.pids,
            |pid| !alive.contains(&pid),
            |_| false,
            |address, requests| left.push((address.to_vec(), requests)),
        );
        assert_eq!(entered, Entered::Together);
        let expected = if self.workers[me].known == 0 { Vec::new() } else { self.take_left(me) };
        assert_eq!(left, expected);
        (self.workers[me].pid, self.workers[me].known) = (self.pids, self.pids);
    }

    pub(super) fn recover(&mut self, me: usize) {
        let alive = self.alive();
        let mut left = Left::new();
        let ledger = &self.workers[me].ledger;
        ledger.recover(
            self.now,
            |worker, pid, answers| {
                assert_eq!(answers, self.answers(me, worker));
                !alive.contains(&pid)
            },
            |address, requests| left.push((address.to_vec(), requests)),
            |_| true,
        );
        let mut expected = Vec::new();
        for worker in self.others(me) {
            if self.workers[worker].pid == 0 && self.workers[worker].known != 0 {
                expected.extend(self.take_left(worker));
                self.workers[worker].known = 0;
            }
        }
        assert_eq!(left, expected);
    }
}
