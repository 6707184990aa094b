//! The questions to other workers that are not answered yet: at most one to each.
#![forbid(unsafe_code)]

use crate::base::clock::Msec;
use crate::base::memory::collect;

/// How long a request waits for an answer, in milliseconds. A worker that has nothing else to do answers within some 20
/// microseconds.
pub const PATIENCE: Msec = 5;

/// How long a worker that does not answer is not asked again, in milliseconds: it may have been stopped.
pub const SILENCE: Msec = 10_000;

/// The questions of one worker.
#[derive(Debug, Default)]
pub struct Questions {
    /// For each worker, the question that it has not answered.
    open: Vec<Option<Open>>,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    question: u32,
    /// The number of the upstream.
    upstream: usize,
    since: Msec,
}

impl Questions {
    /// For a number of workers. `None` if there is no memory.
    pub fn new(workers: usize) -> Option<Self> {
        Some(Self { open: collect((0..workers).map(|_| None))?, last: 0 })
    }

    /// Whether a worker can be asked now.
    pub fn may_ask(&self, worker: usize, now: Msec) -> bool {
        match self.open.get(worker) {
            None => false,
            Some(open) => open.is_none_or(|open| now.wrapping_sub(open.since) >= SILENCE),
        }
    }

    /// The number of the next question; it is not 0.
    pub fn next_question(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        self.last
    }

    /// A worker was asked for a connection of the upstream with this number.
    pub fn ask(&mut self, worker: usize, question: u32, upstream: usize, now: Msec) {
        if let Some(open) = self.open.get_mut(worker) {
            *open = Some(Open { question, upstream, since: now });
        }
    }

    /// A worker has answered. Returns the number of the upstream; `None` if this was an earlier question.
    pub fn answer(&mut self, worker: usize, question: u32) -> Option<usize> {
        let open = self.open.get_mut(worker)?.take_if(|open| open.question == question);
        open.map(|open| open.upstream)
    }

    /// Whether a question is not answered yet.
    pub fn is_open(&self, question: u32) -> bool {
        self.open.iter().flatten().any(|open| open.question == question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_asked_one_question_at_a_time() {
        let mut questions = Questions::new(3).unwrap();
        assert!(questions.may_ask(1, 0) && !questions.may_ask(3, 0));
        let first = questions.next_question();
        questions.ask(1, first, 4, 0);
        assert!(!questions.may_ask(1, 5) && questions.may_ask(2, 5) && questions.is_open(first));
        assert_eq!(questions.answer(2, first), None);
        assert!(questions.is_open(first), "another worker cannot answer it");
        assert_eq!(questions.answer(1, first + 1), None);
        assert!(questions.is_open(first), "nor is another question answered");
        assert_eq!(questions.answer(1, first), Some(4));
        assert!(questions.may_ask(1, 5) && !questions.is_open(first));
    }

    #[test]
    fn a_worker_that_does_not_answer_is_asked_again_much_later() {
        let mut questions = Questions::new(2).unwrap();
        let first = questions.next_question();
        questions.ask(1, first, 0, 100);
        assert!(!questions.may_ask(1, 100 + SILENCE - 1) && questions.may_ask(1, 100 + SILENCE));
        let second = questions.next_question();
        questions.ask(1, second, 0, 100 + SILENCE);
        assert_eq!(questions.answer(1, first), None);
        assert!(questions.is_open(second), "the answer to the first question comes too late");
    }

    #[test]
    fn no_question_has_the_number_0() {
        let mut questions = Questions { open: Vec::new(), last: u32::MAX - 1 };
        assert_eq!([questions.next_question(), questions.next_question()], [u32::MAX, 1]);
    }
}
