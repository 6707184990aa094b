//! Tests in which workers are killed before any of their steps. In the end all connections and requests are counted, and
//! nothing else.
#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use super::tests::{workers, A, B};
use super::*;

pub(super) type Hook = Box<dyn FnMut()>;

thread_local! {
    /// Is called before each step of this thread.
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

pub(super) fn step() {
    let hook = HOOK.with(|hook| hook.borrow_mut().take());
    if let Some(mut hook) = hook {
        hook();
        HOOK.with(|place| place.borrow_mut().replace(hook));
    }
}

/// Runs `work`, and calls `hook` before each step.
pub(super) fn with_hook(hook: Hook, work: impl FnOnce()) {
    HOOK.with(|place| place.borrow_mut().replace(hook));
    work();
    HOOK.with(|place| place.borrow_mut().take());
}

/// Runs `work`, and kills it before a step. Returns whether there was a step with this number.
pub(super) fn killed_before(number: usize, work: impl FnOnce()) -> bool {
    let mut left = number;
    let hook = move || match left {
        // The worker does nothing more.
        0 => resume_unwind(Box::new("killed") as Box<dyn Any + Send>),
        _ => left -= 1,
    };
    let killed = catch_unwind(AssertUnwindSafe(|| with_hook(Box::new(hook), work))).is_err();
    HOOK.with(|place| place.borrow_mut().take());
    killed
}

/// Calls `case` with 0, 1, 2, ... until it returns that no worker was killed.
pub(super) fn before_each_step(mut case: impl FnMut(usize) -> bool) {
    let mut number = 0;
    while case(number) {
        number += 1;
        assert!(number < 1000, "it does not end");
    }
    assert!(number > 0, "it has no steps");
}

pub(super) const LIMIT: u64 = 9;
pub(super) const NOBODY: fn(&[u8], u64) = |_, _| {};
/// An inbox without messages.
pub(super) const EMPTY: fn(usize) -> bool = |_| true;

/// Three workers, the processes 100, 101 and 102; each has two requests and two connections, one of them idle.
pub(super) fn three() -> (Vec<Ledger>, Server) {
    let workers = workers(3, 2, true);
    let server = workers[0].noted(A, LIMIT, 0).unwrap();
    for (worker, pid) in workers.iter().zip(100..) {
        assert_eq!(worker.enter(pid, |_| false, |_| false, NOBODY), Entered::Together);
        for _ in 0..2 {
            worker.begin_request(server);
            worker.open(server);
        }
        worker.add_idle(server);
        worker.publish(LineKind::Queue, Some(7));
    }
    (workers, server)
}

fn recover(worker: &Ledger, gone: &[u64], told: &Cell<u64>) {
    worker.recover(0, |_, pid, _| gone.contains(&pid), |_, requests| told.set(told.get() + requests), EMPTY);
}

/// Asserts the totals, and that as many more connections can be opened as the limit has left.
pub(super) fn is_exact(worker: &Ledger, server: Server, open: u64, requests: u64) {
    let totals = [OPEN, REQUESTS].map(|at| tally::number(worker.word(server, at)));
    assert_eq!(totals, [open, requests]);
    assert_eq!((0..20).filter(|_| worker.open(server)).count() as u64, LIMIT - open);
    (open..LIMIT).for_each(|_| worker.close(server));
}

type Work = (&'static str, fn(&Ledger, Server));

/// Everything that a worker does with the ledger that takes several steps.
const WORKS: [Work; 7] = [
    ("begin", |worker, server| {
        worker.begin_request(server);
    }),
    ("end", |worker, server| worker.end_request(server)),
    ("open", |worker, server| {
        worker.open(server);
    }),
    ("open beyond", |worker, server| worker.open_over_limit(server)),
    ("close", |worker, server| worker.close(server)),
    ("note", |worker, _| {
        worker.noted(B, 3, 0);
    }),
    ("note again", |worker, _| {
        worker.noted(A, LIMIT, 0);
    }),
];

#[test]
fn nothing_is_lost_with_a_worker_that_is_killed() {
    for (name, work) in WORKS {
        before_each_step(|number| {
            let (workers, server) = three();
            let killed = killed_before(number, || work(&workers[1], server));
            // Others continue to count before anyone knows.
            workers[2].open(server);
            workers[0].close(server);
            workers[0].end_request(server);
            let told = Cell::new(0);
            recover(&workers[0], &[101], &told);
            // A worker finds the server or nothing. If it finds nothing, it notes the server again.
            assert!(workers[0].find(A, 0).is_none_or(|found| found == (server, true)));
            assert_eq!(workers[0].note(A, LIMIT, 0, 0, |pid| pid == 101), Some(server), "{name}, {number}");
            assert!(workers[0].note(B, 4, 0, 0, |pid| pid == 101).is_some_and(|it| it != server));
            is_exact(&workers[0], server, 1 + 3, 1 + 2);
            // The balancer knows one more request while one begins, and one less only after one has ended.
            let (least, most) = match name {
                "begin" => (2, 3),
                "end" => (1, 2),
                _ => (2, 2),
            };
            assert!((least..=most).contains(&told.get()), "{name}, {number}: {told:?}");
            assert_eq!(workers[0].count(server, 1, Column::Idle), 0);
            assert_eq!(workers[2].another_waits_longest(0), Some(0));
            killed
        });
    }
}

/// Nor with the processes that recover what it has left: another worker, and the process that replaces it.
#[test]
fn nothing_is_lost_with_those_who_come_after_it() {
    for (_, work) in WORKS {
        before_each_step(|number| {
            let mut killed = false;
            before_each_step(|second| {
                let (workers, server) = three();
                killed = killed_before(number, || work(&workers[1], server));
                let told = Cell::new(0);
                let also = killed_before(second, || recover(&workers[0], &[101], &told));
                recover(&workers[2], if also { &[101, 100] } else { &[101] }, &told);
                let lives = if also { 1 } else { 2 };
                is_exact(&workers[2], server, 2 * lives, 2 * lives);
                also
            });
            before_each_step(|second| {
                let (workers, server) = three();
                killed = killed_before(number, || work(&workers[1], server));
                let is_gone = |pid| pid == 101 || pid == 103;
                let enter =
                    |pid| assert_eq!(workers[1].enter(pid, is_gone, |_| false, NOBODY), Entered::Together);
                let also = killed_before(second, || enter(103));
                enter(104);
                is_exact(&workers[1], server, 4, 4);
                also
            });
            killed
        });
    }
}

/// A worker that is stopped while it counts is not taken for one that is gone: what it has begun stays until it continues.
#[test]
fn what_cannot_be_mended_at_once_is_mended_later() {
    let (workers, server) = three();
    assert!(killed_before(2, || {
        workers[1].open(server);
    }));
    // The third worker counts too, and is interrupted.
    assert!(killed_before(2, || workers[2].close(server)));
    let told = Cell::new(0);
    recover(&workers[0], &[101], &told);
    assert_eq!(workers[0].words()[1].load(SeqCst), 1, "to be repaired");
    // It continues, and writes its part without the mark.
    let part = workers[2].own_cell(server, Column::Open);
    part.store((part.load(SeqCst) & !1) + (1 << 32) - (1 << 2), SeqCst);
    recover(&workers[0], &[], &told);
    assert_eq!(workers[0].words()[1].load(SeqCst), 0);
    is_exact(&workers[0], server, 3, 4);
}

impl Ledger {
    fn words(&self) -> &[AtomicU64] {
        self.table.words()
    }
}

/// A worker that is stopped while it notes a server does not block others: what it writes is not found, its lock is not
/// waited for any more, and all other servers are found and counted.
#[test]
fn nobody_waits_for_one_that_is_stopped() {
    before_each_step(|number| {
        let (workers, server) = three();
        let second = workers[0].noted(B, 5, 0).unwrap();
        let stopped = killed_before(number, || {
            workers[1].noted(b"server c, 16 b..", 7, 0);
        });
        assert_eq!(workers[0].find(A, 0), Some((server, true)));
        assert_eq!(workers[0].find(B, 0), Some((second, true)));
        assert!(workers[0].open(second) && workers[2].begin_request(second));
        // While it holds the lock, no other worker does.
        let is_held = workers[0].words()[0].load(SeqCst) != 0;
        for now in [0, 1, 5000] {
            let noted = workers[0].note(b"server d, 16 b..", 1, 0, now, |_| false);
            assert_eq!(noted.is_none(), is_held, "{number}");
        }
        stopped
    });
}

/// What is at the place of one that is killed while it notes a server has a part of either address, and both parts together
/// can be the address of a third one: that is still found where it is counted.
#[test]
fn no_server_is_found_in_two_halves() {
    let address = |first: u32, second: u32| format!("{first:08}{second:08}").into_bytes();
    before_each_step(|number| {
        let mut killed = false;
        // Some of them come to lie in the way to each other.
        for at in 0..300 {
            let [old, new, third] = [address(1, at), address(2, at % 17 * 771), address(2, at)];
            let workers = workers(2, 2, true);
            workers[0].noted(&old, LIMIT, 0).unwrap();
            let server = workers[0].noted(&third, LIMIT, 0).unwrap();
            workers[0].open(server);
            killed |= killed_before(number, || {
                workers[1].noted(&new, LIMIT, 1);
            });
            let found = workers[0].note(&third, LIMIT, 1, 0, |_| true);
            assert_eq!(found, Some(server), "{at}, {number}");
        }
        killed
    });
}
