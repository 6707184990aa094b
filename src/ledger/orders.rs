//! Models of what workers write and read at the same time, for loom (`t/loom`). What is left when one of them is killed is
//! tested in `killed.rs` and `turns.rs`.
#![forbid(unsafe_code)]

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::*;
use crate::base::checked::{zeros, Model, Strength};
use crate::base::hash::hash_bytes;
use crate::handover::reading::Readers;

/// The models of the ledger.
pub const MODELS: &[Model] = &[
    Model {
        name: "a total is exact if it is repaired while a worker counts",
        run: repairs_while_one_counts,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "a total is exact if it is repaired while a worker counts up to a limit",
        run: repairs_while_one_counts_below,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "a total is exact if it is repaired while a connection is sent",
        run: repairs_while_one_gives,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "a total is exact if it is repaired while a connection is received",
        run: repairs_while_one_takes,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "a total is exact if it is repaired while a lost connection is settled",
        run: repairs_while_one_settles,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "two workers read one inbox, and no connection is lost",
        run: two_read,
        interruptions: 2,
        needs: &[],
    },
    Model {
        name: "a server is found as it was before or after it is noted",
        run: finds_whole_servers,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "two workers that note servers give each a place of its own",
        run: two_note,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
    Model {
        name: "a request that is parked sees the connection that is closed, or its worker is rung",
        run: parks_or_is_rung,
        interruptions: 2,
        needs: &[Strength::Total],
    },
    Model {
        name: "a request that is queued sees the request that ends, or its worker is rung",
        run: queues_or_is_rung,
        interruptions: 2,
        needs: &[Strength::Total],
    },
    Model {
        name: "a worker that answers its bell sees why it was rung, or is rung again",
        run: answers_or_is_rung,
        interruptions: 2,
        needs: &[Strength::Total],
    },
    Model {
        name: "a worker that is asked to close a connection does so, or finds that later",
        run: closes_or_finds_later,
        interruptions: 2,
        needs: &[Strength::Acquire, Strength::Release],
    },
];

const A: &[u8] = b"server a, 16 b..";

/// Memory for two workers and one server.
struct Memory(&'static [AtomicU64]);

const WORKERS: usize = 2;

impl Memory {
    fn new() -> Self {
        Self(zeros(Ledger::size(1, WORKERS)))
    }

    /// The ledger as a worker sees it.
    fn of(&self, worker: usize) -> Ledger {
        let ledger = Ledger::new(Table::shared(self.0, self.0), 1, WORKERS, true).unwrap();
        ledger.set_worker(worker);
        ledger
    }

    /// The workers have entered, and a server is noted.
    fn with_server(limit: u64) -> (Self, Server) {
        let memory = Self::new();
        for worker in 0..WORKERS {
            memory.of(worker).process(worker).store(100 + worker as u64, SeqCst);
        }
        let server = note(&memory.of(0), A, limit, 0).unwrap();
        (memory, server)
    }

    /// A killed worker has left one connection too many in the total.
    fn with_surplus(&self, server: Server) {
        self.of(0).word(server, OPEN).fetch_add(1, SeqCst);
    }
}

fn note(ledger: &Ledger, address: &[u8], limit: u64, generation: u64) -> Option<Server> {
    ledger.note(address, limit, generation, 0, |_| false)
}

fn total(ledger: &Ledger, server: Server) -> u64 {
    tally::number(ledger.word(server, OPEN))
}

/// Repairs the totals while another worker works. If that was found counting each time, they are repaired afterwards. Returns the
/// number of connections.
fn repaired_while(memory: &Memory, server: Server, work: impl FnOnce() + Send + 'static) -> u64 {
    memory.with_surplus(server);
    let ledger = memory.of(0);
    let other = thread::spawn(work);
    let is_repaired = ledger.repair();
    other.join().unwrap();
    assert!(is_repaired || ledger.repair());
    total(&ledger, server)
}

fn repairs_while_one_counts() {
    let (memory, server) = Memory::with_server(9);
    let worker = memory.of(1);
    worker.open_over_limit(server);
    let left = repaired_while(&memory, server, move || {
        worker.open_over_limit(server);
        worker.close(server);
    });
    assert_eq!(left, 1);
}

fn repairs_while_one_counts_below() {
    let (memory, server) = Memory::with_server(9);
    let worker = memory.of(1);
    let left = repaired_while(&memory, server, move || assert!(worker.open(server)));
    assert_eq!(left, 1);
}

fn repairs_while_one_gives() {
    let (memory, server) = Memory::with_server(9);
    let giver = memory.of(1);
    giver.open(server);
    let left = repaired_while(&memory, server, move || {
        let transfer = giver.announce(server, 0).unwrap();
        giver.sent(transfer);
    });
    assert_eq!(left, 1);
}

fn repairs_while_one_takes() {
    let (memory, server) = Memory::with_server(9);
    let (giver, taker) = (memory.of(0), memory.of(1));
    giver.open(server);
    let transfer = giver.announce(server, 1).unwrap();
    giver.sent(transfer);
    let left = repaired_while(&memory, server, move || assert_eq!(taker.receive(transfer), Some(server)));
    assert_eq!(left, 1);
}

fn repairs_while_one_settles() {
    let (memory, server) = Memory::with_server(9);
    let (giver, taker) = (memory.of(0), memory.of(1));
    giver.open(server);
    let transfer = giver.announce(server, 1).unwrap();
    giver.sent(transfer);
    let left = repaired_while(&memory, server, move || assert!(taker.settle_transfers(1, || true)));
    assert_eq!(left, 0);
}

/// A worker reads its inbox to find out what was lost, while another one reads it too. The kernel's lock of a socket is a mutex.
fn two_read() {
    let (memory, server) = Memory::with_server(9);
    let readers = Readers::new(zeros(Readers::size(WORKERS)), WORKERS).unwrap();
    let (own, other) = (memory.of(1), memory.of(0));
    other.open(server);
    let transfer = other.announce(server, 1).unwrap();
    other.sent(transfer);
    let inbox = Arc::new(Mutex::new(Some(transfer)));
    let same_inbox = inbox.clone();
    let guest = thread::spawn(move || {
        let _reading = readers.begin(1, 100, false, |_| false).unwrap();
        let message = inbox.lock().unwrap().take();
        assert!(message.is_none_or(|it| other.receive(it) == Some(server)));
    });
    own.settle_transfers(1, || {
        let reading = readers.begin(1, 101, true, |_| false).unwrap();
        let message = same_inbox.lock().unwrap().take();
        assert!(message.is_none_or(|it| own.receive(it) == Some(server)));
        reading.is_alone(|_| false)
    });
    guest.join().unwrap();
    assert_eq!((total(&own, server), own.in_transit(server)), (1, 0));
}

/// An address whose search begins at the same place as that of another one.
fn colliding(with: &[u8]) -> Vec<u8> {
    let start = |address: &[u8]| hash_bytes(0, address) as usize % capacity(1);
    let mut addresses = (0..100).map(|it| format!("server {it:02}, 9 b..").into_bytes());
    addresses.find(|address| start(address) == start(with)).unwrap()
}

fn finds_whole_servers() {
    let (memory, server) = Memory::with_server(0);
    let (looking, noting) = (memory.of(0), memory.of(1));
    let second = colliding(A);
    let address = second.clone();
    let other = thread::spawn(move || assert_eq!(note(&noting, &address, 7, 1), Some(server)));
    let (first, second) = (looking.find(A, 0), looking.find(&second, 1));
    assert!(first.is_none_or(|it| it == (server, false)));
    assert!(second.is_none_or(|it| it == (server, true)));
    other.join().unwrap();
}

fn two_note() {
    let memory = Memory::new();
    let (one, other) = (memory.of(0), memory.of(1));
    let second = colliding(A);
    let address = second.clone();
    let thread = thread::spawn(move || note(&other, &address, 5, 0));
    let first = note(&one, A, 3, 0);
    let places = (first, thread.join().unwrap());
    // A worker that does not get the lock in time notes nothing.
    assert!(places.0.is_none() || places.0 != places.1);
    let found = (one.find(A, 0), one.find(&second, 0));
    let noted = |place: Option<Server>| place.map(|it| (it, true));
    assert_eq!(found, (noted(places.0), noted(places.1)));
}

/// The worker 0 closes its connection, and rings the worker 1 if that has parked a request.
fn close_and_ring(ledger: &Ledger, server: Server) {
    ledger.close(server);
    ledger.parked(server).for_each(|worker| ledger.ring(worker, 1));
}

fn parks_or_is_rung() {
    let (memory, server) = Memory::with_server(1);
    let (closing, parking) = (memory.of(0), memory.of(1));
    closing.open(server);
    let other = thread::spawn(move || close_and_ring(&closing, server));
    parking.park(server, 0);
    let sees = !parking.is_full(server);
    other.join().unwrap();
    assert!(sees || parking.is_rung());
}

fn queues_or_is_rung() {
    let (memory, server) = Memory::with_server(1);
    let (ending, queueing) = (memory.of(0), memory.of(1));
    ending.begin_request(server);
    let other = thread::spawn(move || {
        ending.end_request(server);
        ending.another_waits_longest(1).into_iter().for_each(|worker| ending.ring(worker, 1));
    });
    queueing.publish(LineKind::Queue, Some(0));
    let sees = !queueing.any_is_busy();
    other.join().unwrap();
    assert!(sees || queueing.is_rung());
}

fn answers_or_is_rung() {
    let (memory, server) = Memory::with_server(1);
    let (closing, parking) = (memory.of(0), memory.of(1));
    closing.open(server);
    parking.park(server, 0);
    closing.ring(1, 0);
    let other = thread::spawn(move || close_and_ring(&closing, server));
    parking.answer();
    let sees = !parking.is_full(server);
    other.join().unwrap();
    assert!(sees || parking.is_rung());
}

fn closes_or_finds_later() {
    let (memory, server) = Memory::with_server(1);
    let (parking, asked) = (memory.of(0), memory.of(1));
    asked.open(server);
    asked.add_idle(server);
    let other = thread::spawn(move || assert_eq!(parking.park(server, 0), Some(1)));
    let close = || {
        let close = |server| {
            asked.remove_idle(server);
            asked.close(server);
        };
        asked.each_close_request(close, |_| {});
    };
    close();
    other.join().unwrap();
    // It is rung.
    close();
    assert_eq!(asked.own_count(server, Column::CloseRequests), 0);
    assert!(!asked.is_full(server));
}
