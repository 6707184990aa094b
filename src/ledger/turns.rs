//! Tests in which workers interrupt each other between any two steps: all orders with few interruptions, and random ones
//! with many.
#![forbid(unsafe_code)]

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};

use super::killed::{killed_before, three, with_hook, EMPTY, NOBODY};
use super::tests::{workers, A, B};
use super::*;

/// Threads of which only one runs at a time. Before each step a thread waits until it is chosen.
struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
}

struct TurnState {
    turn: Option<usize>,
    is_over: Vec<bool>,
}

impl Turns {
    /// A thread has come to a step, or to its end, and lets another one run.
    fn pass(&self, me: usize, is_over: bool) {
        let mut state = self.state.lock().unwrap();
        (state.turn, state.is_over[me]) = (None, is_over);
        self.changed.notify_all();
        while !is_over && state.turn != Some(me) {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Chooses a thread for each step, until all have ended. Starts when all threads have come to their first step.
    fn run_turns(&self, mut choose: impl FnMut(usize, &[usize]) -> usize) {
        let mut last = 0;
        let mut state = self.state.lock().unwrap();
        loop {
            while state.turn.is_some() {
                state = self.changed.wait(state).unwrap();
            }
            let ready: Vec<usize> = (0..state.is_over.len()).filter(|it| !state.is_over[*it]).collect();
            if ready.is_empty() {
                return;
            }
            last = choose(last, &ready);
            state.turn = Some(last);
            self.changed.notify_all();
        }
    }
}

pub(super) type Script = Box<dyn FnOnce(&Ledger) + Send>;

/// Runs a script with each ledger. `choose` gets the last thread and the threads that can run, and returns the next one.
pub(super) fn run(scripts: Vec<(Ledger, Script)>, choose: impl FnMut(usize, &[usize]) -> usize) {
    let number = scripts.len();
    let turns = Turns {
        // No thread has its turn until all have started.
        state: Mutex::new(TurnState { turn: Some(usize::MAX), is_over: vec![false; number] }),
        changed: Condvar::new(),
    };
    let turns = Arc::new(turns);
    let come = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (me, (ledger, script)) in scripts.into_iter().enumerate() {
            let (turns, come) = (turns.clone(), come.clone());
            threads.push(scope.spawn(move || {
                let at_step = turns.clone();
                come.fetch_add(1, SeqCst);
                let mut state = turns.state.lock().unwrap();
                while state.turn != Some(me) {
                    state = turns.changed.wait(state).unwrap();
                }
                drop(state);
                let work = || with_hook(Box::new(move || at_step.pass(me, false)), || script(&ledger));
                let result = catch_unwind(AssertUnwindSafe(work));
                turns.pass(me, true);
                result
            }));
        }
        while come.load(SeqCst) < number as u64 {
            std::thread::yield_now();
        }
        turns.state.lock().unwrap().turn = None;
        turns.run_turns(choose);
        for thread in threads {
            if let Err(panic) = thread.join().unwrap() {
                resume_unwind(panic);
            }
        }
    });
}

/// Calls `case` for each order with at most `interruptions` interruptions, and for `random` random orders.
pub(super) fn in_all_orders(
    interruptions: usize,
    random: u64,
    case: impl Fn(&mut dyn FnMut(usize, &[usize]) -> usize),
) {
    // Each choice, and out of how many.
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    loop {
        let (mut at, mut left) = (0, interruptions);
        case(&mut |last, ready| {
            let goes_on = ready.contains(&last);
            // The last thread comes first: choosing it again is no interruption.
            let mut order: Vec<usize> = ready.iter().copied().filter(|it| *it == last).collect();
            order.extend(ready.iter().copied().filter(|it| *it != last));
            if goes_on && left == 0 {
                order.truncate(1);
            }
            if at == chosen.len() {
                chosen.push((0, order.len()));
            }
            let choice = chosen[at].0;
            left -= usize::from(goes_on && choice > 0);
            at += 1;
            order[choice]
        });
        chosen.truncate(at);
        while chosen.last().is_some_and(|(choice, of)| choice + 1 == *of) {
            chosen.pop();
        }
        match chosen.last_mut() {
            None => break,
            Some((choice, _)) => *choice += 1,
        }
    }
    for seed in 0..random {
        let mut state = seed;
        case(&mut |_, ready| {
            state = crate::base::hash::mix(state, 0x5eed);
            ready[state as usize % ready.len()]
        });
    }
}

/// One worker recovers what a killed worker has left, while another one counts.
#[test]
fn exact_while_others_count() {
    for killed_at in 1..3 {
        in_all_orders(2, 100, |choose| {
            let (mut workers, server) = three();
            killed_before(killed_at, || {
                workers[1].open(server);
            });
            let (counting, observer) = (workers.pop().unwrap(), workers.pop().unwrap());
            let recovering = workers.pop().unwrap();
            let count: Script = Box::new(move |ledger| {
                ledger.close(server);
                ledger.open(server);
                ledger.begin_request(server);
            });
            let recover: Script = Box::new(move |ledger| {
                ledger.recover(0, |_, pid, _| pid == 101, |_, requests| assert_eq!(requests, 2), EMPTY);
            });
            run(vec![(counting, count), (recovering, recover)], choose);
            // If a worker was found counting each time, the totals are repaired now.
            assert_eq!(observer.enter(103, |pid| pid == 102, |_| false, NOBODY), Entered::Together);
            observer.recover(0, |_, _, _| false, NOBODY, EMPTY);
            let totals = [OPEN, REQUESTS].map(|at| tally::number(observer.word(server, at)));
            assert_eq!(totals, [2 + 2, 2 + 3], "killed at {killed_at}");
        });
    }
}

/// Two workers recover what two killed workers have left, at the same time.
#[test]
fn exact_if_two_take_it_back() {
    in_all_orders(1, 400, |choose| {
        let mut workers = workers(4, 2, true);
        let server = workers[0].noted(A, 9, 0).unwrap();
        for (worker, pid) in workers.iter().zip(100..) {
            assert_eq!(worker.enter(pid, |_| false, |_| false, NOBODY), Entered::Together);
            worker.begin_request(server);
            worker.open(server);
        }
        for worker in workers.drain(2..) {
            assert!(killed_before(2, || {
                worker.open(server);
            }));
        }
        let told = Arc::new(AtomicU64::new(0));
        let script = |ledger| {
            let told = told.clone();
            let recover: Script = Box::new(move |ledger: &Ledger| {
                let is_gone = |_, pid, _| pid == 102 || pid == 103;
                let left = |_: &[u8], requests| {
                    told.fetch_add(requests, SeqCst);
                };
                ledger.recover(0, is_gone, left, EMPTY);
            });
            (ledger, recover)
        };
        let other = Ledger::new(shared(&workers[0]), 2, 4, true).unwrap();
        run(workers.into_iter().map(script).collect(), choose);
        other.recover(0, |_, _, _| false, NOBODY, EMPTY);
        let totals = [OPEN, REQUESTS].map(|at| tally::number(other.word(server, at)));
        assert_eq!((totals, told.load(SeqCst)), ([2, 2], 2));
    });
}

/// A new process starts while another worker still recovers what the previous process has left, and does not wait for it.
#[test]
fn exact_if_the_new_process_does_not_wait() {
    in_all_orders(2, 100, |choose| {
        let (mut workers, server) = three();
        assert!(killed_before(2, || {
            workers[1].open(server);
        }));
        let (other, new) = (workers.pop().unwrap(), workers.pop().unwrap());
        let recover: Script = Box::new(|ledger| {
            ledger.recover(0, |_, pid, _| pid == 101, |_, requests| assert_eq!(requests, 2), EMPTY)
        });
        let enter: Script = Box::new(move |ledger| {
            let left = |_: &[u8], requests| assert_eq!(requests, 2);
            assert_eq!(ledger.enter(103, |pid| pid == 101, |_| false, left), Entered::Together);
            for _ in 0..3 {
                ledger.begin_request(server);
                ledger.open(server);
            }
            ledger.add_idle(server);
            ledger.add_lingering(server);
        });
        run(vec![(workers.pop().unwrap(), recover), (new, enter)], choose);
        other.recover(0, |_, _, _| false, NOBODY, EMPTY);
        let totals = [OPEN, REQUESTS].map(|at| tally::number(other.word(server, at)));
        assert_eq!(totals, [4 + 3, 4 + 3]);
        // As many as the one before has left, but these are its own.
        let own = [Column::Idle, Column::Lingering].map(|column| other.count(server, 1, column));
        assert_eq!(own, [1, 1]);
    });
}

/// A worker that looks for a server while the place gets another server finds it unchanged, or not at all.
#[test]
fn finds_no_server_that_is_half_written() {
    let found = Arc::new([const { AtomicBool::new(false) }; 2]);
    in_all_orders(2, 100, |choose| {
        let mut workers = workers(2, 1, true);
        let server = workers[0].noted(A, 0, 0).unwrap();
        let second = workers[0].noted(B, 1, 0).unwrap();
        workers[0].open(second);
        let seen = found.clone();
        let find: Script = Box::new(move |ledger| match ledger.find(A, 0) {
            None => seen[0].store(true, SeqCst),
            it => {
                assert_eq!(it, Some((server, false)));
                seen[1].store(true, SeqCst);
            }
        });
        let note: Script = Box::new(move |ledger| {
            assert_eq!(ledger.noted(b"server c, 16 b..", 7, 1), Some(server));
        });
        let noting = workers.pop().unwrap();
        run(vec![(workers.pop().unwrap(), find), (noting, note)], choose);
    });
    assert!(found.iter().all(|it| it.load(SeqCst)), "before and after");
}

/// Another table with the same memory.
pub(super) fn shared(ledger: &Ledger) -> Table {
    match &ledger.table {
        Table::Shared(shared) => Table::Shared(shared.clone()),
        Table::Own(_) => panic!("it is of one worker alone"),
    }
}
