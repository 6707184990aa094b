//! The ledger of connections, written by several workers, of which some are killed. In any order of operations it agrees with
//! a table of plain numbers, no limit is exceeded, and in the end all counts are zero.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keepalive::ledger::{Entered, Ledger, LineKind, Server, Table};

use crate::input::Input;

mod killed;

static WORDS: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

/// How many servers the table is made for. Half of its places stay empty, so twice as many fit.
const SERVERS: usize = 2;

const ADDRESSES: [&[u8]; 6] =
    [b"server a, 16 b..", b"b", b"server c, 16 b..", b"dd", b"eee", b"server f, 16 b.."];

/// The number of workers, then the operations, each with a worker and a server.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut all = Model::new(1 + input.below(3));
    for address in 0..2 {
        all.note(0, address, input.below(4) as u64);
    }
    for _ in 0..500 {
        if input.is_empty() {
            break;
        }
        all.act(&mut input);
        all.compare();
    }
    all.finish();
}

/// What a worker counts at one server.
#[derive(Clone, Copy, Default)]
struct Cells {
    open: u64,
    idle: u64,
    requests: u64,
    lingering: u64,
    parked: u64,
    asked: u64,
}

impl Cells {
    /// Connections that requests use.
    fn active(&self) -> u64 {
        self.open - self.idle - self.lingering
    }
}

struct Worker {
    ledger: Ledger,
    /// 0 if it was killed.
    pid: u64,
    /// What the ledger knows of the process.
    known: u64,
    cells: BTreeMap<Server, Cells>,
    waits: [Option<usize>; 2],
    rung: Option<usize>,
    is_asked: bool,
}

/// The address of each server, and the requests there that a worker has left behind.
type Left = Vec<(Vec<u8>, u64)>;

#[derive(Clone, Copy)]
struct Place {
    address: usize,
    limit: u64,
    generation: u64,
    /// Whether it has more connections than its limit: the limit was ignored or lowered.
    exceeded: bool,
}

struct Model {
    workers: Vec<Worker>,
    places: BTreeMap<Server, Place>,
    generation: u64,
    now: usize,
    pids: u64,
}

impl Model {
    fn new(number: usize) -> Self {
        let words = &WORDS[..Ledger::size(SERVERS, number)];
        words.iter().for_each(|word| word.store(0, SeqCst));
        let worker = |me: usize| {
            // No process finds another one in its place that runs, so the second memory is not used.
            let ledger =
                Ledger::new(Table::shared(words, words), SERVERS, number, true).expect("enough memory");
            ledger.set_worker(me);
            let pid = me as u64 + 1;
            let entered = ledger.enter(pid, |_| false, |_| false, |_, _| panic!("nobody was there before"));
            assert_eq!(entered, Entered::Together);
            let cells = (0..Ledger::numbers(SERVERS) as Server).map(|server| (server, Cells::default()));
            Worker {
                ledger,
                pid,
                known: pid,
                cells: cells.collect(),
                waits: [None; 2],
                rung: None,
                is_asked: false,
            }
        };
        let workers = (0..number).map(worker).collect();
        Self { workers, places: BTreeMap::new(), generation: 0, now: 1000, pids: number as u64 }
    }

    fn sum(&self, server: Server, of: impl Fn(&Cells) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(&worker.cells[&server])).sum()
    }

    fn limit(&self, server: Server) -> u64 {
        self.places[&server].limit
    }

    fn is_full(&self, server: Server) -> bool {
        let limit = self.limit(server);
        limit > 0 && self.sum(server, |it| it.open) >= limit
    }

    fn answers(&self, me: usize, worker: usize) -> bool {
        me == worker || self.workers[worker].rung.is_none_or(|since| self.now - since <= 200)
    }

    fn lacks_room(&self, me: usize, server: Server) -> bool {
        let coming = |worker: &usize| {
            let cells = self.workers[*worker].cells[&server];
            cells.lingering + cells.asked.min(cells.idle)
        };
        let coming: u64 =
            (0..self.workers.len()).filter(|it| self.answers(me, *it)).map(|it| coming(&it)).sum();
        self.sum(server, |it| it.parked) > coming
    }

    fn others(&self, me: usize) -> impl Iterator<Item = usize> {
        (0..self.workers.len()).filter(move |worker| *worker != me)
    }

    fn is_parked_elsewhere(&self, me: usize, server: Server) -> bool {
        self.others(me).any(|worker| self.workers[worker].cells[&server].parked > 0)
    }

    fn note(&mut self, me: usize, address: usize, limit: u64) {
        let generation = self.generation;
        let noted = self.workers[me].ledger.note(ADDRESSES[address], limit, generation, self.now, |_| false);
        let before = self.places.iter().find(|(_, it)| it.address == address).map(|(server, _)| *server);
        let is_left_over = |server: Server, place: &Place| {
            place.generation != generation && self.sum(server, |it| it.open + it.requests) == 0
        };
        match (noted, before) {
            (Some(server), Some(before)) => assert_eq!(server, before),
            (Some(server), None) => {
                let other = self.places.get(&server);
                assert!(other.is_none_or(|place| is_left_over(server, place)));
            }
            (None, before) => {
                assert!(before.is_none() && self.places.len() == Ledger::numbers(SERVERS));
                assert!(!self.places.iter().any(|(server, place)| is_left_over(*server, place)));
            }
        }
        if let Some(server) = noted {
            let exceeded = self.sum(server, |it| it.open) > limit;
            self.places.insert(server, Place { address, limit, generation, exceeded });
        }
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let op = input.below(20);
        let me = input.below(self.workers.len());
        if self.workers[me].pid == 0 {
            self.enter(me);
        }
        let noted: Vec<Server> = self.places.keys().copied().collect();
        let server = noted[input.below(noted.len())];
        match op {
            0..=10 => self.act_on_server(op, me, server),
            11 => self.close_what_is_asked_for(me),
            12 => {
                let (line, since) = (input.flag(), input.flag().then_some(self.now - input.below(10)));
                let worker = &mut self.workers[me];
                worker.ledger.publish(if line { LineKind::Retries } else { LineKind::Queue }, since);
                worker.waits[usize::from(line)] = since;
            }
            13 => {
                let other = input.below(self.workers.len());
                self.workers[me].ledger.ring(other, self.now);
                let rung = &mut self.workers[other].rung;
                *rung = rung.or(Some(self.now));
            }
            14 => {
                self.workers[me].ledger.answer();
                self.workers[me].rung = None;
            }
            15 => self.now += usize::from(input.byte()),
            16 => self.workers[me].pid = 0,
            17 => self.recover(me),
            18 => self.generation += 1,
            19 => {
                let address = input.below(ADDRESSES.len());
                self.note(me, address, input.below(4) as u64);
            }
            _ => {}
        }
    }

    /// The operations of a worker that count at one server.
    fn act_on_server(&mut self, op: usize, me: usize, server: Server) {
        let limit = self.limit(server);
        let (open, requests) = (self.sum(server, |it| it.open), self.sum(server, |it| it.requests));
        let worker = &mut self.workers[me];
        let ledger = &worker.ledger;
        let cells = worker.cells.get_mut(&server).expect("each server has cells");
        match op {
            0 => {
                assert_eq!(ledger.begin_request(server), requests < limit);
                cells.requests += 1;
            }
            1 if cells.requests > cells.parked => {
                ledger.end_request(server);
                cells.requests -= 1;
            }
            2 => {
                assert_eq!(ledger.open(server), open < limit);
                cells.open += u64::from(open < limit);
            }
            3 => {
                ledger.open_over_limit(server);
                cells.open += 1;
                self.places.get_mut(&server).expect("noted").exceeded = true;
            }
            4 if cells.active() > 0 => {
                ledger.close(server);
                cells.open -= 1;
            }
            5 if cells.active() > 0 => {
                ledger.add_idle(server);
                cells.idle += 1;
            }
            6 if cells.idle > 0 => {
                ledger.remove_idle(server);
                cells.idle -= 1;
            }
            7 if cells.active() > 0 => {
                ledger.add_lingering(server);
                cells.lingering += 1;
            }
            8 if cells.lingering > 0 => {
                ledger.remove_lingering(server);
                ledger.close(server);
                cells.lingering -= 1;
                cells.open -= 1;
            }
            9 if cells.requests > cells.parked => self.park(me, server),
            10 if cells.parked > 0 => {
                ledger.unpark(server);
                cells.parked -= 1;
            }
            _ => {}
        }
    }

    fn park(&mut self, me: usize, server: Server) {
        let asked = self.workers[me].ledger.park(server, self.now);
        self.workers[me].cells.get_mut(&server).expect("each server has cells").parked += 1;
        let free = |worker: usize| {
            let cells = self.workers[worker].cells[&server];
            cells.idle.saturating_sub(cells.asked)
        };
        let most = self.others(me).filter(|it| self.answers(me, *it)).map(free).max().unwrap_or(0);
        match asked {
            None => assert!(!self.lacks_room(me, server) || most == 0),
            Some(worker) => {
                assert!(self.lacks_room(me, server) && self.answers(me, worker) && worker != me);
                assert!(most > 0 && free(worker) == most);
                self.workers[worker].cells.get_mut(&server).expect("each server has cells").asked += 1;
                self.workers[worker].is_asked = true;
            }
        }
    }

    fn close_what_is_asked_for(&mut self, me: usize) {
        let ledger = &self.workers[me].ledger;
        let (closed, in_vain) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let close = |server| {
            ledger.remove_idle(server);
            ledger.close(server);
            closed.borrow_mut().push(server);
        };
        ledger.each_close_request(close, |server| in_vain.borrow_mut().push(server));
        let (mut expected_closed, mut expected_in_vain) = (Vec::new(), Vec::new());
        if std::mem::take(&mut self.workers[me].is_asked) {
            let noted: Vec<Server> = self.places.keys().copied().collect();
            for server in noted {
                while self.workers[me].cells[&server].idle > 0 && self.workers[me].cells[&server].asked > 0 {
                    let is_needed = self.is_full(server) && self.is_parked_elsewhere(me, server);
                    let cells = self.workers[me].cells.get_mut(&server).expect("each server has cells");
                    if !is_needed {
                        cells.asked = 0;
                        break;
                    }
                    cells.asked -= 1;
                    cells.idle -= 1;
                    cells.open -= 1;
                    expected_closed.push(server);
                }
                let cells = self.workers[me].cells[&server];
                if cells.idle == 0 && cells.asked > 0 {
                    expected_in_vain.push(server);
                }
            }
        }
        assert_eq!((closed.into_inner(), in_vain.into_inner()), (expected_closed, expected_in_vain));
    }

    /// Removes what a worker has left behind at the servers, and returns it.
    fn alive(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.pid).filter(|pid| *pid != 0).collect()
    }

    /// Compares everything that the ledger tells, as each worker sees it.
    fn compare(&self) {
        let busy = self
            .places
            .iter()
            .any(|(server, place)| place.limit > 0 && self.sum(*server, |it| it.requests) >= place.limit);
        for (me, worker) in self.workers.iter().enumerate() {
            let (ledger, now) = (&worker.ledger, self.now);
            assert_eq!(ledger.any_is_busy(), busy);
            assert_eq!(ledger.is_rung(), worker.rung.is_some());
            let waits = (0..self.workers.len()).filter(|it| self.answers(me, *it));
            let waits = waits.filter_map(|it| Some((self.workers[it].waits[0]?, it)));
            let longest = waits.min().map(|(_, worker)| worker);
            assert_eq!(ledger.longest(now), longest);
            assert_eq!(ledger.another_waits_longest(now), longest.filter(|worker| *worker != me));
            let retries = self.others(me).filter(|it| self.workers[*it].waits[1].is_some());
            assert!(ledger.with_retries().eq(retries));
            for (server, place) in &self.places {
                let (server, cells) = (*server, worker.cells[server]);
                let found = (place.generation == self.generation).then_some((server, place.limit > 0));
                assert_eq!(ledger.find(ADDRESSES[place.address], self.generation), found);
                assert_eq!(ledger.is_full(server), self.is_full(server));
                assert_eq!(ledger.has_parked(server), cells.parked > 0);
                assert_eq!(ledger.room_is_coming(server), cells.lingering > cells.parked);
                assert_eq!(ledger.lacks_room(server, now), self.lacks_room(me, server));
                assert_eq!(ledger.parked(server).next().is_some(), self.is_parked_elsewhere(me, server));
                let is_out_of_reach =
                    |it: usize| !self.answers(me, it) && self.workers[it].cells[&server].idle > 0;
                let out_of_reach = self.others(me).any(is_out_of_reach);
                assert_eq!(ledger.is_out_of_reach(server, now), out_of_reach);
                assert!(place.exceeded || self.sum(server, |it| it.open) <= place.limit);
            }
        }
    }

    /// Ends everything. Then each server can have as many connections as its limit allows.
    fn finish(&mut self) {
        for me in 0..self.workers.len() {
            if self.workers[me].pid == 0 {
                self.enter(me);
            }
            let Worker { ledger, cells, .. } = &mut self.workers[me];
            for (server, cells) in cells {
                let active = cells.active();
                (0..cells.parked).for_each(|_| ledger.unpark(*server));
                (0..cells.idle).for_each(|_| ledger.remove_idle(*server));
                (0..cells.lingering).for_each(|_| ledger.remove_lingering(*server));
                (0..cells.idle + cells.lingering + active).for_each(|_| ledger.close(*server));
                (0..cells.requests).for_each(|_| ledger.end_request(*server));
                *cells = Cells { asked: cells.asked, ..Cells::default() };
            }
        }
        self.compare();
        for (server, place) in &self.places {
            let opened = (0..100).filter(|_| self.workers[0].ledger.open(*server)).count();
            assert_eq!(opened as u64, place.limit);
        }
        for (server, place) in &self.places {
            (0..place.limit).for_each(|_| self.workers[0].ledger.close(*server));
            assert!(self.workers[0].ledger.begin_request(*server) == (place.limit > 0));
        }
    }
}
