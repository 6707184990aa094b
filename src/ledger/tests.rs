//! Tests of each rule of the ledger.
#![forbid(unsafe_code)]

use super::killed::EMPTY;
use super::*;

pub(super) const A: &[u8] = b"server a, 16 b..";
pub(super) const B: &[u8] = b"another";

impl Ledger {
    /// Notes a server while no other worker does.
    pub(super) fn noted(&self, address: &[u8], limit: u64, generation: u64) -> Option<Server> {
        self.note(address, limit, generation, 0, |_| false)
    }
}

/// One table as several workers see it.
pub(super) fn workers(number: usize, servers: usize, changing: bool) -> Vec<Ledger> {
    let words = zeros(Ledger::size(servers, number));
    (0..number).map(|me| process(words, me, number, servers, changing)).collect()
}

fn zeros(number: usize) -> &'static [AtomicU64] {
    (0..number).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
}

/// A table as another process with the number `me` sees it.
fn process(words: &'static [AtomicU64], me: usize, workers: usize, servers: usize, changing: bool) -> Ledger {
    let table = Table::shared(words, zeros(words.len()));
    let ledger = Ledger::new(table, servers, workers, changing).unwrap();
    ledger.set_worker(me);
    ledger
}

fn alone() -> Ledger {
    Ledger::new(Table::own(2).unwrap(), 2, 1, false).unwrap()
}

/// Closes what a worker is asked to close. Returns it, and the servers for which it was asked in vain.
fn asked(worker: &Ledger) -> (Vec<Server>, Vec<Server>) {
    let (mut closed, mut in_vain) = (Vec::new(), Vec::new());
    let close = |server| {
        worker.remove_idle(server);
        worker.close(server);
        closed.push(server);
    };
    worker.each_close_request(close, |server| in_vain.push(server));
    (closed, in_vain)
}

#[test]
fn finds_what_was_noted() {
    let ledger = alone();
    let a = ledger.noted(A, 4, 0).unwrap();
    let b = ledger.noted(B, 0, 0).unwrap();
    assert_eq!(ledger.find(A, 0), Some((a, true)));
    assert_eq!(ledger.find(B, 0), Some((b, false)));
    assert_eq!(ledger.find(b"unknown", 0), None);
    assert_eq!(ledger.find(A, 1), None, "the servers have changed since");
    assert_eq!(ledger.noted(&[1; 113], 1, 0), None);
}

#[test]
fn refuses_a_table_that_is_too_small() {
    assert!(Ledger::new(Table::own(1).unwrap(), 100, 1, false).is_none());
    for (shared, alone) in [(0, 1), (1, 0)] {
        let [shared, alone] = [shared, alone].map(|more| zeros(Ledger::size(2, 3) - 1 + more));
        assert!(Ledger::new(Table::shared(shared, alone), 2, 3, false).is_none());
    }
}

#[test]
fn opens_as_many_as_the_limit_allows() {
    let ledger = alone();
    let a = ledger.noted(A, 2, 0).unwrap();
    assert!(ledger.open(a) && ledger.open(a) && !ledger.open(a));
    assert!(ledger.is_full(a));
    ledger.close(a);
    assert!(!ledger.is_full(a) && ledger.open(a));
    ledger.open_over_limit(a);
    ledger.close(a);
    assert!(ledger.is_full(a));
}

#[test]
fn tells_whether_the_balancer_keeps_to_the_limit() {
    let ledger = alone();
    let a = ledger.noted(A, 1, 0).unwrap();
    assert!(!ledger.any_is_busy());
    assert!(ledger.begin_request(a));
    assert!(ledger.any_is_busy());
    assert!(!ledger.begin_request(a));
    ledger.end_request(a);
    ledger.end_request(a);
    assert!(!ledger.any_is_busy() && ledger.begin_request(a));
}

#[test]
fn the_limit_holds_over_all_workers() {
    let workers = workers(3, 1, false);
    let a = workers[0].noted(A, 2, 0).unwrap();
    assert!(workers[1].open(a) && workers[2].open(a));
    assert!(workers.iter().all(|worker| !worker.open(a)));
    workers[2].close(a);
    assert!(workers[0].open(a));
}

#[test]
fn asks_the_worker_with_the_most_idle_connections() {
    let workers = workers(3, 1, false);
    let a = workers[0].noted(A, 3, 0).unwrap();
    for (worker, idle) in [(1, 1), (2, 2)] {
        for _ in 0..idle {
            assert!(workers[worker].open(a));
            workers[worker].add_idle(a);
        }
    }
    assert_eq!(workers[0].park(a, 0), Some(2));
    assert!(workers[0].park(a, 0).is_some());
    assert!(workers[0].park(a, 0).is_some());
    assert_eq!(workers[0].park(a, 0), None, "each idle connection is asked for once");

    assert_eq!(asked(&workers[2]), (vec![a], vec![]), "one, as there is room then");
    assert_eq!(workers[2].parked(a).collect::<Vec<_>>(), [0]);
    assert_eq!(asked(&workers[2]), (vec![], vec![]));
    assert_eq!(asked(&workers[0]), (vec![], vec![]));
}

#[test]
fn one_that_has_no_idle_connection_any_more_lets_others_be_asked() {
    let workers = workers(3, 1, false);
    let a = workers[0].noted(A, 2, 0).unwrap();
    for worker in &workers[1..] {
        assert!(worker.open(a));
        worker.add_idle(a);
    }
    let first = workers[0].park(a, 0).unwrap();
    workers[first].remove_idle(a);
    assert_eq!(asked(&workers[first]), (vec![], vec![a]));
    workers[0].unpark(a);
    assert_eq!(workers[0].park(a, 0), Some(3 - first));
    assert!(
        workers[first].take_close_request(a),
        "when it is not in use any more, it is closed all the same"
    );
}

#[test]
fn is_not_asked_in_vain() {
    let workers = workers(2, 1, false);
    let a = workers[0].noted(A, 1, 0).unwrap();
    assert!(workers[1].open(a));
    workers[1].add_idle(a);
    assert_eq!(workers[0].park(a, 0), Some(1));
    workers[0].unpark(a);
    assert!(!workers[1].take_close_request(a));
    assert_eq!(workers[0].park(a, 0), Some(1));
    assert!(workers[1].take_close_request(a));
    assert!(!workers[1].take_close_request(a));
}

#[test]
fn the_longest_wait_of_all_workers_comes_first() {
    let workers = workers(3, 1, false);
    assert_eq!(workers[0].longest(30), None);
    workers[1].publish(LineKind::Queue, Some(20));
    workers[2].publish(LineKind::Queue, Some(0));
    assert_eq!(workers[0].another_waits_longest(30), Some(2));
    assert_eq!(workers[2].another_waits_longest(30), None);
    workers[2].publish(LineKind::Queue, None);
    assert_eq!(workers[2].longest(30), Some(1));
}

#[test]
fn a_worker_that_does_not_answer_is_not_waited_for() {
    let workers = workers(2, 1, false);
    workers[1].publish(LineKind::Queue, Some(0));
    workers[0].ring(1, 100);
    workers[0].ring(1, 250);
    assert!(workers[1].is_rung());
    assert_eq!(workers[0].longest(300), Some(1));
    assert_eq!(workers[0].longest(301), None);
    assert_eq!(workers[1].longest(301), Some(1), "of itself it knows that it answers");
    workers[1].answer();
    assert!(!workers[1].is_rung());
    assert_eq!(workers[0].longest(301), Some(1));
}

#[test]
fn closes_one_connection_for_each_that_waits() {
    let workers = workers(2, 1, false);
    let a = workers[0].noted(A, 3, 0).unwrap();
    for _ in 0..3 {
        assert!(workers[1].open(a));
        workers[1].add_idle(a);
    }
    assert_eq!(workers[0].park(a, 0), Some(1));
    workers[0].unpark(a);
    assert_eq!(workers[0].park(a, 0), None, "asked for already");
    assert!(workers[1].take_close_request(a));
    workers[1].remove_idle(a);
    workers[1].add_lingering(a);
    workers[0].unpark(a);
    assert_eq!(workers[0].park(a, 0), None, "being closed");
    assert!(workers[1].room_is_coming(a) && !workers[0].room_is_coming(a));
    assert!(workers[0].has_parked(a) && !workers[1].has_parked(a));
    assert_eq!(workers[0].park(a, 0), Some(1), "for another request");
}

/// What a worker has left behind: the addresses of servers, and the number of requests there.
type Left = Vec<(Vec<u8>, u64)>;

fn entered(ledger: &Ledger, pid: u64, is_alive: impl Fn(u64) -> bool) -> Left {
    let mut left = Left::new();
    let is_gone = |pid| !is_alive(pid);
    let entered =
        ledger.enter(pid, is_gone, |_| false, |address, requests| left.push((address.to_vec(), requests)));
    assert_eq!(entered, Entered::Together);
    left
}

fn recovered(ledger: &Ledger, is_alive: impl Fn(u64) -> bool) -> Left {
    let mut left = Left::new();
    let is_gone = |_, pid, _| !is_alive(pid);
    ledger.recover(0, is_gone, |address, requests| left.push((address.to_vec(), requests)), EMPTY);
    left
}

#[test]
fn takes_back_what_a_killed_worker_held() {
    let workers = workers(2, 2, true);
    assert_eq!(entered(&workers[0], 100, |_| true), []);
    assert_eq!(entered(&workers[1], 101, |_| true), []);
    let a = workers[0].noted(A, 2, 0).unwrap();
    workers[1].begin_request(a);
    workers[1].begin_request(a);
    workers[1].open(a);
    workers[1].open(a);
    workers[1].add_idle(a);
    workers[1].publish(LineKind::Queue, Some(1));
    workers[1].table.words()[0].store(101, SeqCst);

    assert_eq!(recovered(&workers[0], |_| true), []);
    assert_eq!(recovered(&workers[0], |pid| pid == 100), [(A.to_vec(), 2)]);
    assert_eq!(workers[0].longest(0), None);
    assert!(!workers[0].any_is_busy());
    assert!(workers[0].open(a) && workers[0].open(a) && !workers[0].open(a));
    assert_eq!(workers[0].park(a, 0), None);
    assert_eq!(recovered(&workers[0], |pid| pid == 100), []);
    assert_eq!(workers[0].note(B, 1, 0, 0, |_| false), None, "the lock is held");
    assert_eq!(workers[0].note(B, 1, 0, 0, |pid| pid == 101), None, "nobody asks again so soon");
    assert!(workers[0].note(B, 1, 0, 1000, |pid| pid == 101).is_some());
    assert_eq!(entered(&workers[1], 102, |pid| pid == 100), []);
}

#[test]
fn takes_back_what_the_process_before_held() {
    let workers = workers(2, 2, true);
    let a = workers[0].noted(A, 2, 0).unwrap();
    assert_eq!(entered(&workers[1], 101, |_| true), []);
    workers[1].begin_request(a);
    workers[1].open(a);
    assert_eq!(entered(&workers[1], 102, |_| false), [(A.to_vec(), 1)]);
    assert!(workers[0].open(a) && workers[0].open(a) && !workers[0].open(a));
    workers[1].begin_request(a);
    // The worker that was recovering what it left was killed too.
    workers[1].process(1).store((1 << 63) | 100, SeqCst);
    assert_eq!(entered(&workers[1], 103, |_| false), [(A.to_vec(), 1)]);
}

/// A worker that does not answer may be gone. A worker that holds nothing, was rung, or will be, need not be rung to find out.
#[test]
fn rings_for_those_who_have_something() {
    let workers = workers(4, 1, false);
    let a = workers[0].noted(A, 4, 0).unwrap();
    let unrung_holders = || workers[0].unrung_holders().collect::<Vec<usize>>();
    for (worker, pid) in workers.iter().zip(100..) {
        entered(worker, pid, |_| true);
    }
    assert!(unrung_holders().is_empty());
    workers[0].open(a);
    workers[1].open(a);
    workers[2].begin_request(a);
    workers[3].open(a);
    assert_eq!(unrung_holders(), [1, 2, 3]);
    workers[0].ring(1, 10);
    workers[3].publish(LineKind::Retries, Some(5));
    assert_eq!(unrung_holders(), [2]);
    let told = std::cell::RefCell::new(Vec::new());
    let is_gone = |worker, pid, answers| {
        told.borrow_mut().push((worker, pid, answers));
        false
    };
    workers[0].recover(300, is_gone, |_, _| {}, EMPTY);
    assert_eq!(*told.borrow(), [(1, 101, false), (2, 102, true), (3, 103, true)]);
}

/// A process waits for the worker that recovers what its predecessor left, but not for ever.
#[test]
fn a_worker_begins_even_if_another_one_is_stopped() {
    let workers = workers(2, 1, false);
    let a = workers[0].noted(A, 1, 0).unwrap();
    entered(&workers[0], 100, |_| true);
    entered(&workers[1], 101, |_| true);
    workers[1].open(a);
    workers[1].process(1).store((1 << 63) | 100, SeqCst);
    let waited = Cell::new(0);
    let waits = |times| {
        waited.set(waited.get() + 1);
        times < 7
    };
    assert_eq!(workers[1].enter(102, |pid| pid != 100, waits, |_, _| {}), Entered::Together);
    assert_eq!(waited.get(), 8);
    assert!(workers[1].open(a) && !workers[1].open(a));
}

/// As when a binary upgrade is taken back while the old workers still finish requests.
#[test]
fn a_process_counts_alone_while_another_one_is_the_same_worker() {
    for changing in [false, true] {
        let words = zeros(Ledger::size(2, 2));
        let [first, sibling, second, third] = [0, 1, 0, 0].map(|me| process(words, me, 2, 2, changing));
        let a = first.noted(A, 2, 0).unwrap();
        for (worker, pid) in [(&first, 100), (&sibling, 101)] {
            assert_eq!(entered(worker, pid, |_| true), []);
        }
        first.begin_request(a);
        assert!(first.open(a) && first.open(a));
        first.publish(LineKind::Queue, Some(1));
        sibling.ring(0, 5);
        let before: Vec<u64> = words.iter().map(|word| word.load(SeqCst)).collect();

        let untouched = |_: &[u8], _| panic!("the process still runs");
        assert_eq!(
            second.enter(102, |_| false, |_| panic!("nothing to wait for"), untouched),
            Entered::Alone
        );
        assert!(!second.is_shared() && sibling.is_shared());
        assert_eq!(second.find(A, 0), (!changing).then_some((a, true)));
        let own = second.noted(A, 2, 0).unwrap();
        assert!(second.begin_request(own) && second.open(own) && second.open(own) && !second.open(own));
        assert_eq!((second.longest(10), second.is_rung(), second.transfers_due()), (None, false, false));
        assert_eq!((second.park(own, 10), second.announce(own, 1)), (None, None));
        assert_eq!(recovered(&second, |_| false), []);
        let after: Vec<u64> = words.iter().map(|word| word.load(SeqCst)).collect();
        assert_eq!(before, after);

        // The next process finds the first one gone.
        assert_eq!(entered(&third, 103, |pid| pid != 100), [(A.to_vec(), 1)]);
        assert!(sibling.open(a) && third.open(a) && !third.open(a));
        assert!(!second.open(own));
        // A process that enters again is the same.
        assert_eq!(entered(&third, 103, |_| true), [(A.to_vec(), 0)][..0]);
    }
}

#[test]
fn a_server_of_another_generation_makes_room_if_it_has_nothing() {
    let workers = workers(1, 1, true);
    let addresses: Vec<[u8; 16]> = (0..40).map(|n| [n; 16]).collect();
    let kept = workers[0].noted(&addresses[0], 1, 0).unwrap();
    workers[0].open(kept);
    for (generation, address) in (1u64..).zip(&addresses[1..]) {
        let server = workers[0].noted(address, 1, generation).unwrap();
        assert_ne!(server, kept);
        assert_eq!(workers[0].find(address, generation), Some((server, true)));
        assert_eq!(workers[0].find(&addresses[0], 0), Some((kept, true)));
    }
    // Both places are taken, one by a server with connections, one by a server of the same generation.
    assert_eq!(workers[0].noted(&addresses[1], 1, 39), None);
}

#[test]
fn servers_of_one_generation_do_not_push_each_other_out() {
    let ledger = Ledger::new(Table::own(1000).unwrap(), 1000, 1, false).unwrap();
    let addresses: Vec<[u8; 16]> = (0..1000u64).map(|n| u128::from(n * 0x1_0001).to_ne_bytes()).collect();
    for (limit, address) in (1..).zip(&addresses) {
        ledger.noted(address, limit, 0).unwrap();
    }
    for address in &addresses {
        assert!(ledger.find(address, 0).is_some());
    }
}
