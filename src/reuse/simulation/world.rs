//! The simulation: clients, the workers of nginx with their pools, a network, a server. Events happen in the order of their
//! times, which are in microseconds.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::load::{Load, Random};
use super::proxy::Place;
use super::server::Server;
use crate::base::clock::Msec;
use crate::http1::keep_alive::Margin;
use crate::lessons::{Lesson, Lessons};

/// Who decides which connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mind {
    /// The pool as it is.
    Learns,
    /// It knows the limit of the server and the round trip.
    Knows,
    /// It takes any connection.
    Hopes,
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    pub server: Server,
    pub load: Load,
    /// How long it lasts, in milliseconds.
    pub end: u64,
    pub workers: usize,
    /// The share of requests that cannot be repeated.
    pub posts: f64,
    /// The time of the way to the server or back, and how much longer it may take at most, in microseconds.
    pub way: u64,
    pub more: u64,
    /// What the clock of nginx shows at the beginning.
    pub clock: Msec,
    /// `keepalive_timeout`.
    pub timeout: Msec,
    pub margin: Margin,
}

impl Setup {
    pub fn new(server: Server, load: Load, end: u64) -> Self {
        Self {
            server,
            load,
            end,
            workers: 1,
            posts: 0.2,
            way: 500,
            more: 200,
            clock: 1_000_000,
            timeout: 60_000,
            margin: Margin::Share,
        }
    }
}

/// What has happened to a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A request got a new connection.
    Opened,
    /// A request got one that was used before.
    Reused,
    /// A request that was sent then met a stale connection.
    Stale { is_post: bool, sent: u64 },
    /// A request has arrived when the server closed.
    Lost { is_post: bool },
    /// The pool has noticed that the server has closed a connection.
    Closed,
    /// A limit was learned or forgotten.
    Learned(Option<u32>),
}

pub enum Event {
    Request(usize),
    /// The request on a connection reaches the server.
    Arrives(usize),
    /// The answer reaches nginx.
    Answered(usize),
    /// The end of the connection reaches nginx.
    Ended(usize),
    /// The timer of an idle connection, and which one it is.
    Timer(usize, u32),
    /// The server closes a connection, if it is idle since the same answer.
    Closes(usize, u32),
    Phase(usize),
    Fault,
    Shortage,
}

/// A connection, as both sides see it.
pub struct Conn {
    pub worker: usize,
    pub process: usize,
    pub place: Place,
    pub since: Msec,
    /// Counts the timers.
    pub timer: u32,
    pub is_hinted: bool,
    /// Requests that nginx has sent.
    pub requests: usize,
    pub is_post: bool,
    /// When the request was sent, in milliseconds.
    pub sent: u64,
    /// The server has it open.
    pub is_open: bool,
    /// Requests that the server has answered.
    pub answered: u32,
    pub closes_after: Option<(u32, u32)>,
    /// The server waits for a request since then.
    pub idle_since: Option<u64>,
    /// When the server closes it, and the earliest moment at which it might.
    pub closes: Option<(u64, u64)>,
    /// The server has received a request that it never answers.
    pub is_lost: bool,
    /// The server closes it behind the next answer.
    pub is_last: bool,
    /// When the last packet reaches nginx: none overtakes another.
    pub last_packet: u64,
    pub end: Option<u64>,
}

pub struct World {
    pub setup: Setup,
    pub mind: Mind,
    pub random: Random,
    pub now: u64,
    pub conns: Vec<Conn>,
    /// The idle connections of each worker, the newest last.
    pub pools: Vec<Vec<usize>>,
    pub lesson: Lesson,
    pub happened: Vec<(u64, Happening)>,
    requests: Vec<super::load::Request>,
    events: BinaryHeap<Reverse<(u64, usize)>>,
    details: Vec<Option<Event>>,
}

impl World {
    /// Runs it. Returns what has happened, with the times in milliseconds.
    pub fn run(setup: &Setup, mind: Mind, seed: u64) -> Vec<(u64, Happening)> {
        let words = (0..Lessons::size(1)).map(|_| crate::base::atomic::AtomicU64::new(0)).collect::<Vec<_>>();
        let lessons = Lessons::new(Vec::leak(words), Box::new(()));
        let mut random = Random(seed);
        let requests = setup.load.requests(setup.end, setup.workers, setup.posts, &mut random);
        let mut world = Self {
            setup: setup.clone(),
            mind,
            random,
            now: 0,
            conns: Vec::new(),
            pools: vec![Vec::new(); setup.workers],
            lesson: lessons.of(b"server", setup.clock),
            happened: Vec::new(),
            requests,
            events: BinaryHeap::new(),
            details: Vec::new(),
        };
        world.begin();
        while let Some(Reverse((at, number))) = world.events.pop() {
            world.now = at;
            let event = world.details[number].take().expect("an event happens once");
            world.happens(event);
        }
        world.happened
    }

    fn begin(&mut self) {
        for phase in 1..self.setup.server.phases.len() {
            self.at(self.setup.server.phases[phase].from * 1000, Event::Phase(phase));
        }
        if self.setup.server.faults.is_some() {
            self.at(0, Event::Fault);
        }
        if self.setup.server.short.is_some() {
            self.at(0, Event::Shortage);
        }
        if let Some(first) = self.requests.first() {
            self.at(first.at, Event::Request(0));
        }
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.events.push(Reverse((time, self.details.len())));
        self.details.push(Some(event));
    }

    pub fn note(&mut self, what: Happening) {
        self.happened.push((self.now / 1000, what));
    }

    /// The time by the clock of nginx.
    pub fn clock(&self) -> Msec {
        self.setup.clock.wrapping_add((self.now / 1000) as Msec)
    }

    /// When something that is sent now arrives.
    pub fn arrival(&mut self) -> u64 {
        self.now + self.setup.way + self.random.between(0, self.setup.more)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Request(number) => {
                let request = self.requests[number];
                if let Some(next) = self.requests.get(number + 1) {
                    self.at(next.at, Event::Request(number + 1));
                }
                self.request(request.worker, request.is_post);
            }
            Event::Arrives(conn) => self.arrives(conn),
            Event::Answered(conn) => self.release(conn),
            Event::Ended(conn) => self.ended(conn),
            Event::Timer(conn, timer) => self.on_timer(conn, timer),
            Event::Closes(conn, answered) => {
                let state = &self.conns[conn];
                if state.answered == answered && (state.idle_since.is_some() || state.is_lost) {
                    self.server_closes(conn);
                }
            }
            Event::Phase(number) => self.restart(number),
            Event::Fault => self.fault(),
            Event::Shortage => self.make_room(),
        }
    }

    /// A request has reached the server.
    fn arrives(&mut self, conn: usize) {
        // The server has looked for requests this long before it closes a connection.
        const UNAWARE: u64 = 100;
        if self.conns[conn].place != Place::Busy {
            return;
        }
        let state = &mut self.conns[conn];
        if !state.is_open {
            let end = state.end.unwrap_or(self.now).max(self.now);
            return self.at(end, Event::Ended(conn));
        }
        if state.idle_since.take().is_some()
            && state.closes.is_some_and(|(closes, _)| closes < self.now + UNAWARE)
        {
            state.is_lost = true;
            return;
        }
        state.answered += 1;
        self.now += self.setup.server.service;
        self.answers(conn);
    }

    fn answers(&mut self, conn: usize) {
        let arrival = self.arrival();
        let process = self.conns[conn].process;
        let phase = self.setup.server.phase(self.now);
        let idle = phase.idle[process % phase.idle.len()];
        let closes = idle.close(self.now, &mut self.random);
        // Nobody knows which process has a connection.
        let lowest = phase.idle.iter().filter_map(|idle| idle.close(self.now, &mut Random(0))).map(|it| it.1);
        let closes = closes.map(|(at, _)| (at, lowest.min().unwrap_or(u64::MAX)));
        let late = self.random.between(0, self.setup.server.late);
        let state = &mut self.conns[conn];
        state.last_packet = arrival.max(state.last_packet + 1);
        state.idle_since = Some(self.now);
        state.closes = closes.map(|(at, earliest)| (at + late, earliest));
        let has_served_all = state.closes_after.is_some_and(|(number, _)| state.answered >= number);
        if has_served_all || state.is_last {
            state.closes = Some((self.now + late / 4, self.now));
        }
        let (arrival, answered, closes) = (state.last_packet, state.answered, state.closes);
        self.at(arrival, Event::Answered(conn));
        if let Some((closes, _)) = closes {
            self.at(closes, Event::Closes(conn, answered));
        }
    }

    /// The server closes a connection.
    fn server_closes(&mut self, conn: usize) {
        let arrival = self.arrival();
        let state = &mut self.conns[conn];
        if !std::mem::take(&mut state.is_open) {
            return;
        }
        let arrival = arrival.max(state.last_packet + 1);
        state.idle_since = None;
        state.end = Some(arrival);
        self.at(arrival, Event::Ended(conn));
    }

    /// nginx has closed a connection.
    pub fn closed_by_us(&mut self, conn: usize) {
        let state = &mut self.conns[conn];
        state.place = Place::Gone;
        state.idle_since = None;
        state.is_open = false;
    }

    /// nginx opens a connection.
    pub fn open(&mut self, worker: usize) -> usize {
        let phase = self.setup.server.phase(self.now);
        let (number, processes) = (phase.number, phase.idle.len());
        self.conns.push(Conn {
            worker,
            process: self.random.below(processes),
            place: Place::Busy,
            since: 0,
            timer: 0,
            is_hinted: false,
            requests: 0,
            is_post: false,
            sent: 0,
            is_open: true,
            answered: 0,
            closes_after: number.close(&mut self.random),
            idle_since: None,
            closes: None,
            is_lost: false,
            is_last: false,
            last_packet: 0,
            end: None,
        });
        self.conns.len() - 1
    }

    fn idle_at_server(&self) -> Vec<usize> {
        let mut idle: Vec<_> =
            (0..self.conns.len()).filter(|conn| self.conns[*conn].idle_since.is_some()).collect();
        idle.sort_by_key(|conn| self.conns[*conn].idle_since);
        idle
    }

    /// The server needs room for other clients.
    fn make_room(&mut self) {
        if let Some(mean) = self.setup.server.short {
            if let Some(oldest) = self.idle_at_server().first() {
                self.server_closes(*oldest);
            }
            self.again(mean, Event::Shortage);
        }
    }

    /// Something happens again, on average after `mean` milliseconds.
    fn again(&mut self, mean: u64, event: Event) {
        let next = self.now + 1 + self.random.exponential(mean * 1000);
        if next < self.setup.end * 1000 {
            self.at(next, event);
        }
    }

    fn fault(&mut self) {
        if let Some(mean) = self.setup.server.faults {
            let idle = self.idle_at_server();
            if !idle.is_empty() {
                let conn = idle[self.random.below(idle.len())];
                self.server_closes(conn);
            }
            self.again(mean, Event::Fault);
        }
    }

    fn restart(&mut self, phase: usize) {
        let Some(within) = self.setup.server.phases[phase].restart else { return };
        for conn in 0..self.conns.len() {
            let state = &mut self.conns[conn];
            if !state.is_open {
                continue;
            }
            if state.idle_since.is_none() {
                state.is_last = true;
                continue;
            }
            let (answered, at) = (state.answered, self.now + self.random.between(0, within));
            self.conns[conn].closes = Some((at, at));
            self.at(at, Event::Closes(conn, answered));
        }
    }
}
