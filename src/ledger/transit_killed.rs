//! Tests in which the giver or the taker of a connection, or a worker that recovers them, is killed before each step, or is
//! interrupted by the others. At every moment at least as many connections are counted as there are. In the end it is as many.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::killed::{before_each_step, killed_before, three, NOBODY};
use super::*;

/// How many connections to a server are counted.
pub(super) fn total(ledger: &Ledger, server: Server) -> u64 {
    tally::number(ledger.word(server, OPEN))
}

/// The connections that there are, and the inboxes of all workers, which stay when a worker is killed.
pub(super) struct Post {
    inboxes: Vec<Mutex<Inbox>>,
    /// How many connections each worker holds.
    held: Vec<AtomicU64>,
    /// How many messages were read whose transfer did not exist any more.
    missed: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    messages: VecDeque<u64>,
    reader: Option<usize>,
}

impl Post {
    /// For a number of workers that have two connections each.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            inboxes: (0..workers).map(|_| Mutex::default()).collect(),
            held: (0..workers).map(|_| AtomicU64::new(2)).collect(),
            missed: AtomicU64::new(0),
        }
    }

    pub(super) fn open(&self, ledger: &Ledger, server: Server) {
        if ledger.open(server) {
            self.held[ledger.me.get()].fetch_add(1, SeqCst);
        }
    }

    pub(super) fn close(&self, ledger: &Ledger, server: Server) {
        self.held[ledger.me.get()].fetch_sub(1, SeqCst);
        ledger.close(server);
    }

    /// How many connections a worker holds.
    pub(super) fn held(&self, worker: usize) -> u64 {
        self.held[worker].load(SeqCst)
    }

    pub(super) fn missed(&self) -> u64 {
        self.missed.load(SeqCst)
    }

    /// Sends a message. The connection is in the inbox from then on.
    pub(super) fn send(&self, ledger: &Ledger, to: usize, transfer: Transfer) {
        step();
        self.inboxes[to].lock().unwrap().messages.push_back(transfer.to_bits());
        self.held[ledger.me.get()].fetch_sub(1, SeqCst);
    }

    pub(super) fn hand_over(&self, ledger: &Ledger, server: Server, to: usize) {
        let transfer = ledger.announce(server, to).expect("a free ticket");
        self.send(ledger, to, transfer);
        ledger.sent(transfer);
    }

    /// Reads an inbox to its end. `false` if another worker is reading it.
    pub(super) fn read(&self, ledger: &Ledger, of: usize) -> bool {
        let (me, inbox) = (ledger.me.get(), || self.inboxes[of].lock().unwrap());
        step();
        if *inbox().reader.get_or_insert(me) != me {
            return false;
        }
        loop {
            step();
            let Some(bits) = inbox().messages.pop_front() else { break };
            self.held[me].fetch_add(1, SeqCst);
            if ledger.receive(Transfer::from_bits(bits)).is_none() {
                self.missed.fetch_add(1, SeqCst);
            }
        }
        step();
        inbox().reader = None;
        true
    }

    /// A worker was killed: its connections are closed, and it does not read any more.
    pub(super) fn killed(&self, worker: usize) {
        for inbox in &self.inboxes {
            let mut inbox = inbox.lock().unwrap();
            inbox.reader = inbox.reader.filter(|reader| *reader != worker);
        }
        self.held[worker].store(0, SeqCst);
    }

    pub(super) fn settle(&self, ledger: &Ledger) -> bool {
        let me = ledger.me.get();
        ledger.settle_transfers(me, || self.read(ledger, me))
    }

    /// A new process comes in the place of a worker.
    pub(super) fn replace(&self, ledger: &Ledger, pid: u64, gone: &[u64]) -> bool {
        let entered = ledger.enter(pid, |pid| gone.contains(&pid), |_| false, NOBODY);
        assert_eq!(entered, Entered::Together);
        self.settle(ledger)
    }

    pub(super) fn recover(&self, ledger: &Ledger, gone: &[u64]) {
        ledger.recover(0, |_, pid, _| gone.contains(&pid), NOBODY, |of| self.read(ledger, of));
    }

    /// A worker is rung, or a second has passed.
    pub(super) fn ring(&self, ledger: &Ledger) {
        self.read(ledger, ledger.me.get());
        if ledger.transfers_due() {
            self.settle(ledger);
        }
    }

    /// Whether at least as many connections are counted as there are.
    pub(super) fn is_enough(&self, ledger: &Ledger, server: Server) -> bool {
        let waiting: usize = self.inboxes.iter().map(|it| it.lock().unwrap().messages.len()).sum();
        let held: u64 = self.held.iter().map(|it| it.load(SeqCst)).sum();
        total(ledger, server) >= held + waiting as u64
    }

    /// Asserts that each connection is counted for the worker that holds it, and nothing else, after the workers that are
    /// alive were rung.
    pub(super) fn is_exact(&self, alive: &[&Ledger], server: Server, case: &str) {
        alive.iter().for_each(|ledger| self.ring(ledger));
        assert!(alive.iter().all(|ledger| !ledger.transfers_due()), "{case}");
        assert!(self.inboxes.iter().all(|it| it.lock().unwrap().messages.is_empty()), "{case}");
        assert_eq!((alive[0].in_transit(server), self.missed()), (0, 0), "{case}");
        let held: Vec<u64> = self.held.iter().map(|it| it.load(SeqCst)).collect();
        assert_eq!(alive[0].parts(server), held, "{case}");
        assert_eq!(total(alive[0], server), held.iter().sum::<u64>(), "{case}");
    }
}

/// As [`three`], and all have settled.
pub(super) fn three_with_post() -> (Vec<Ledger>, Server, Arc<Post>) {
    let ((workers, server), post) = (three(), Arc::new(Post::new(3)));
    workers.iter().for_each(|worker| assert!(worker.transfers_due() && post.settle(worker)));
    (workers, server, post)
}

/// Runs `work`, kills it before a step, and says so to the others. Returns whether it was killed.
fn kills(number: usize, post: &Post, ledger: &Ledger, server: Server, work: impl FnOnce()) -> bool {
    let killed = killed_before(number, work);
    assert!(post.is_enough(ledger, server), "before step {number}");
    if killed {
        post.killed(ledger.me.get());
    }
    killed
}

/// A worker is recovered: by a new process, or by another worker.
#[derive(Clone, Copy, PartialEq, Debug)]
enum By {
    Replacement,
    Sibling,
}
const BOTH: [By; 2] = [By::Replacement, By::Sibling];

/// What a giver or a taker does that takes several steps. Worker 1 gives to 2, and takes from 0.
type Work = (&'static str, fn(&Post, &Ledger, Server));
const WORKS: [Work; 4] = [
    ("give", |post, worker, server| post.hand_over(worker, server, 2)),
    ("give two", |post, worker, server| {
        post.hand_over(worker, server, 2);
        post.hand_over(worker, server, 0);
    }),
    ("take back", |_, worker, server| {
        let transfer = worker.announce(server, 2).unwrap();
        worker.take_back(transfer);
    }),
    ("take", |post, worker, _| {
        post.read(worker, 1);
    }),
];

#[test]
fn exact_if_a_worker_is_killed() {
    for ((name, work), by, early) in WORKS
        .iter()
        .flat_map(|it| BOTH.map(|by| (it, by)))
        .flat_map(|(it, by)| [(*it, by, false), (*it, by, true)])
    {
        before_each_step(|number| {
            let (workers, server, post) = three_with_post();
            post.hand_over(&workers[0], server, 1);
            let killed = kills(number, &post, &workers[1], server, || work(&post, &workers[1], server));
            if early {
                post.ring(&workers[2]);
            }
            match by {
                _ if !killed => {}
                By::Replacement => assert!(post.replace(&workers[1], 103, &[101])),
                By::Sibling => post.recover(&workers[0], &[101]),
            }
            assert!(post.is_enough(&workers[0], server));
            let alive = [&workers[0], &workers[2], &workers[1]];
            let alive = if killed && by == By::Sibling { &alive[..2] } else { &alive };
            post.is_exact(alive, server, &format!("{name} {by:?} {early} {number}"));
            killed
        });
    }
}

/// So too if those who come after it are killed: another worker, and the process that replaces it.
#[test]
fn exact_if_those_who_come_after_it_are_killed() {
    for ((name, work), by) in WORKS.iter().flat_map(|it| BOTH.map(|by| (*it, by))) {
        before_each_step(|number| {
            let mut killed = false;
            before_each_step(|second| {
                let (workers, server, post) = three_with_post();
                post.hand_over(&workers[0], server, 1);
                killed = kills(number, &post, &workers[1], server, || work(&post, &workers[1], server));
                // If it was not killed in between, it is killed now.
                post.killed(1);
                let case = format!("{name} {by:?} {number} {second}");
                match by {
                    By::Replacement => {
                        let gone = [101, 103];
                        let replace = || assert!(post.replace(&workers[1], 103, &gone), "{case}");
                        let also = kills(second, &post, &workers[1], server, replace);
                        post.killed(1);
                        assert!(post.replace(&workers[1], 104, &gone), "{case}");
                        post.is_exact(&[&workers[2], &workers[0], &workers[1]], server, &case);
                        also
                    }
                    By::Sibling => {
                        let recover = || post.recover(&workers[0], &[101]);
                        let also = kills(second, &post, &workers[0], server, recover);
                        let gone: &[u64] = if also { &[100, 101] } else { &[101] };
                        // What was to be sent to one that is recovered earlier is found the second time.
                        (0..2).for_each(|_| post.recover(&workers[2], gone));
                        let is_alive = |it: &&Ledger| it.has_process(it.me.get());
                        let alive: Vec<&Ledger> = workers.iter().filter(is_alive).collect();
                        post.is_exact(&alive, server, &case);
                        also
                    }
                }
            });
            killed
        });
    }
}

/// So too if the giver says only later that it has sent: after the taker was killed, or after that was recovered.
#[test]
fn exact_if_the_giver_is_slow() {
    for (by, late) in BOTH.iter().flat_map(|by| [(*by, false), (*by, true)]) {
        before_each_step(|number| {
            let (workers, server, post) = three_with_post();
            let transfer = workers[0].announce(server, 1).unwrap();
            post.send(&workers[0], 1, transfer);
            let killed = kills(number, &post, &workers[1], server, || assert!(post.read(&workers[1], 1)));
            let gone = [101];
            for (round, say) in [!late, late].into_iter().enumerate() {
                if say {
                    workers[0].sent(transfer);
                }
                match by {
                    _ if !killed => {}
                    By::Replacement if round == 0 => {
                        let is_settled = post.replace(&workers[1], 103, &gone);
                        assert_eq!(is_settled, !workers[1].transfers_due());
                    }
                    By::Replacement => post.ring(&workers[1]),
                    By::Sibling => post.recover(&workers[2], &gone),
                }
                assert!(post.is_enough(&workers[0], server));
            }
            let alive = [&workers[0], &workers[2], &workers[1]];
            let alive = if killed && by == By::Sibling { &alive[..2] } else { &alive };
            post.is_exact(alive, server, &format!("{by:?} {late} {number}"));
            killed
        });
    }
}
