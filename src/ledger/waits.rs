//! Which workers have waiting requests, and which worker is rung for them.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use super::transit::TICKETS;
use super::{step, Column, Ledger, Server, HEADER, HEADER_OF_WORKER};
use crate::base::atomic::AtomicU64;
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

/// What is marked: a bit for each worker says whether it is worth looking at the worker's own words.
#[derive(Clone, Copy, Debug)]
enum Mark {
    /// It has requests of [`LineKind::Queue`].
    Queue,
    /// It has requests of [`LineKind::Retries`].
    Retries,
    /// It has parked requests.
    Parked,
}

/// The number of [`Mark`]s.
const MARKS: usize = Mark::Parked as usize + 1;

/// Which marks this worker has set.
pub(super) type Marked = [Cell<bool>; MARKS];

/// The number of words of all marks, for a number of workers.
pub(super) fn mark_words(workers: usize) -> usize {
    MARKS * words_of_mark(workers)
}

fn words_of_mark(workers: usize) -> usize {
    workers.div_ceil(BITS)
}

const BITS: usize = u64::BITS as usize;

impl Ledger {
    /// Publishes since when the first request of this worker waits; `None` if none waits.
    pub fn publish(&self, line: LineKind, since: Option<Msec>) {
        self.waits(line, self.me.get()).store(since.map_or(0, |since| since as u64 + 1), SeqCst);
        self.mark(line.mark(), since.is_some());
    }

    /// The worker whose first request has waited longest. Workers that do not answer are ignored.
    pub fn longest(&self, now: Msec) -> Option<usize> {
        let waits = |worker: usize| match self.waits(LineKind::Queue, worker).load(SeqCst) {
            0 => None,
            since => self.answers(worker, now).then_some((since, worker)),
        };
        self.marked(Mark::Queue).filter_map(waits).min().map(|(_, worker)| worker)
    }

    /// The worker whose first request has waited longest, if it is not this one.
    pub fn another_waits_longest(&self, now: Msec) -> Option<usize> {
        let any_other = self.others_marked(Mark::Queue).next().is_some();
        any_other.then(|| self.longest(now)).flatten().filter(|worker| *worker != self.me.get())
    }

    /// The other workers that have requests of [`LineKind::Retries`].
    pub fn with_retries(&self) -> impl Iterator<Item = usize> + '_ {
        self.others_marked(Mark::Retries)
            .filter(|worker| self.waits(LineKind::Retries, *worker).load(SeqCst) > 0)
    }

    /// Whether this worker has parked requests for the server.
    pub fn has_parked(&self, server: Server) -> bool {
        self.own_count(server, Column::Parked) > 0
    }

    /// The other workers that have parked requests for the server.
    pub fn parked(&self, server: Server) -> impl Iterator<Item = usize> + '_ {
        self.others_marked(Mark::Parked).filter(move |worker| self.count(server, *worker, Column::Parked) > 0)
    }

    /// Counts the parked requests of this worker.
    pub(super) fn count_parked(&self, more: i64) {
        self.parked.set(self.parked.get().saturating_add_signed(more));
        self.mark(Mark::Parked, self.parked.get() > 0);
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

    /// This worker answers its bell: it serves its waiting requests. Returns whether it was rung.
    pub fn answer(&self) -> bool {
        self.rung(self.me.get()).swap(0, SeqCst) > 0
    }

    /// All workers but this one.
    pub fn others(&self) -> impl Iterator<Item = usize> {
        let me = self.me.get();
        (0..self.workers).filter(move |worker| *worker != me)
    }

    /// Sets or clears a mark of this worker, after its own word was written: other workers that do not see the mark yet do
    /// not see the word either.
    fn mark(&self, mark: Mark, is_set: bool) {
        if self.marked[mark as usize].replace(is_set) == is_set {
            return;
        }
        step();
        let me = self.me.get();
        let word = &self.marks(mark)[me / BITS];
        match is_set {
            true => word.fetch_or(1 << (me % BITS), SeqCst),
            false => word.fetch_and(!(1 << (me % BITS)), SeqCst),
        };
    }

    /// Clears the marks that the previous process of this worker has left. Only the worker itself writes its marks: those of a
    /// killed worker without a successor cost its siblings a look each time.
    pub(super) fn clear_marks(&self) {
        for mark in [Mark::Queue, Mark::Retries, Mark::Parked] {
            self.marked[mark as usize].set(true);
            self.mark(mark, false);
        }
    }

    /// The workers that have a mark.
    #[inline]
    fn marked(&self, mark: Mark) -> Workers<'_> {
        Workers { words: self.marks(mark).iter(), word: 0, next: 0 }
    }

    /// The other workers that have a mark.
    fn others_marked(&self, mark: Mark) -> impl Iterator<Item = usize> + '_ {
        let me = self.me.get();
        self.marked(mark).filter(move |worker| *worker != me)
    }

    fn marks(&self, mark: Mark) -> &[AtomicU64] {
        let length = words_of_mark(self.workers);
        let begin = HEADER + (HEADER_OF_WORKER + TICKETS) * self.workers;
        &self.table.words()[begin + mark as usize * length..][..length]
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

impl LineKind {
    fn mark(self) -> Mark {
        match self {
            Self::Queue => Mark::Queue,
            Self::Retries => Mark::Retries,
        }
    }
}

/// The numbers of the workers that have a mark.
struct Workers<'a> {
    /// The words that follow.
    words: std::slice::Iter<'a, AtomicU64>,
    /// What is left of the present word.
    word: u64,
    /// The number of the first worker in the next word.
    next: usize,
}

impl Iterator for Workers<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.word == 0 {
            self.word = self.words.next()?.load(SeqCst);
            self.next += BITS;
        }
        let bit = self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        Some(self.next - BITS + bit)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::workers;
    use super::super::Entered;
    use super::*;

    fn marked(ledger: &Ledger, mark: Mark) -> Vec<usize> {
        ledger.marked(mark).collect()
    }

    #[test]
    fn those_who_wait_are_marked_and_nobody_else() {
        let workers = workers(130, 1, false);
        for worker in [129, 3, 64] {
            workers[worker].publish(LineKind::Retries, Some(10));
        }
        workers[64].publish(LineKind::Queue, Some(5));
        assert_eq!(marked(&workers[0], Mark::Retries), [3, 64, 129]);
        assert_eq!(workers[64].with_retries().collect::<Vec<_>>(), [3, 129]);
        assert_eq!(workers[0].another_waits_longest(10), Some(64));
        assert_eq!((workers[64].another_waits_longest(10), workers[64].longest(10)), (None, Some(64)));
        workers[64].publish(LineKind::Retries, None);
        assert_eq!(
            (marked(&workers[0], Mark::Retries), marked(&workers[0], Mark::Queue)),
            (vec![3, 129], vec![64])
        );
    }

    #[test]
    fn one_that_has_parked_several_is_marked_until_the_last_has_gone() {
        let workers = workers(2, 2, false);
        let servers = [b"a", b"b"].map(|address| workers[0].noted(address, 1, 0).unwrap());
        for server in servers {
            workers[1].park(server, 0);
        }
        workers[1].unpark(servers[0]);
        assert_eq!((workers[0].parked(servers[0]).count(), workers[0].parked(servers[1]).count()), (0, 1));
        workers[1].unpark(servers[1]);
        assert!(marked(&workers[0], Mark::Parked).is_empty());
    }

    #[test]
    fn a_process_begins_without_the_marks_of_the_one_before() {
        let workers = workers(2, 1, false);
        workers[1].publish(LineKind::Queue, Some(10));
        assert_eq!(workers[1].enter(7, |_| true, |_| false, |_, _| {}), Entered::Together);
        assert!(marked(&workers[0], Mark::Queue).is_empty());
        workers[1].publish(LineKind::Queue, Some(20));
        assert_eq!(workers[0].longest(20), Some(1));
    }
}
