//! The counters of all workers: their sums are exact over reloads and killed workers, a connection is in one phase or in
//! transit or has one end, and gauges count only for live workers.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use keepalive::metrics::{
    AuthMeter, Count, Decision, End, Generation, Meter, Phase, Plan, QueueCount, ServerCounters,
    WorkerCounters, CLOSED, DECISIONS, NOT_STORED,
};

use crate::input::Input;

mod configuration;
mod handover;
mod http2;
mod times;

use configuration::{configuration, server, Configuration, ADDRESSES, AUTH, UPSTREAMS};
use handover::HandedOver;
use times::{wait, Times};

const MEMORY: usize = 1 << 16;
static WORDS: [AtomicU64; MEMORY] = [const { AtomicU64::new(0) }; MEMORY];

const PHASES: [Phase; 3] = [Phase::Idle, Phase::Active, Phase::Draining];
const COUNTS: [Count; 6] =
    [Count::Opened, Count::Reused, Count::Stale, Count::Repeats, Count::Given, Count::Taken];

const ENDS: [End; 26] = [
    End::Timeout,
    End::Time,
    End::Requests,
    End::Hint,
    End::Learned,
    End::Evicted,
    End::ServerClosed,
    End::UnexpectedData,
    End::Error,
    End::Check,
    End::DrainLimit,
    End::Exiting,
    End::Removed,
    End::ClientClosed,
    End::Http10,
    End::ConnectionClose,
    End::RequestClose,
    End::BodyUnread,
    End::BodyUnsent,
    End::Failed,
    End::Disabled,
    End::Connect,
    End::Upgraded,
    End::Identity,
    End::Protocol,
    End::StatefulAuth,
];

const DECIDED: [Decision; 5] =
    [Decision::Allowed, Decision::Denied, Decision::Failed, Decision::TimedOut, Decision::FailedOpen];

/// The first configuration, then the operations.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut memory = &WORDS[..];
    memory.iter().for_each(|word| word.store(0, Relaxed));
    let Some(mut model) = Model::new(&mut input, &mut memory) else { return };
    for _ in 0..300 {
        if input.is_empty() {
            break;
        }
        model.act(&mut input, &mut memory);
    }
    model.compare();
}

/// What was counted for connections.
#[derive(Default)]
struct Counted {
    counts: [u64; COUNTS.len()],
    ends: [u64; ENDS.len()],
}

struct Connection {
    upstream: usize,
    address: usize,
    meter: Meter,
    phase: Phase,
}

struct Process {
    pid: u64,
    /// Its place among the workers of the configuration that it was started with.
    number: usize,
    generation: Arc<Generation>,
    /// By the numbers in [`UPSTREAMS`] and [`AUTH`].
    counters: Vec<WorkerCounters>,
    auth: Vec<AuthMeter>,
    connections: Vec<Connection>,
    waiting: [u64; 2],
    carried: [http2::Carried; 2],
}

struct Model {
    generation: Arc<Generation>,
    workers: usize,
    /// The servers of each upstream in the current configuration.
    servers: [BTreeSet<usize>; 2],
    processes: Vec<Process>,
    pids: u64,
    /// By upstream and address.
    counted: BTreeMap<(usize, usize), Counted>,
    /// Requests, overflows and timeouts, and waiting times.
    queues: [([u64; 3], Times); 2],
    handed_over: [HandedOver; 2],
    http2: [http2::Counted; 2],
    decisions: [([u64; DECIDED.len()], Times); 2],
    warned: BTreeSet<(usize, u32)>,
}

/// `None` if there is no memory left.
fn generation(
    plan: Plan,
    workers: usize,
    memory: &mut &'static [AtomicU64],
    last: Option<&Generation>,
    alive: &[u64],
) -> Option<Arc<Generation>> {
    let (words, rest) = memory.split_at_checked(plan.memory_for_two_each(workers))?;
    *memory = rest;
    let is_alive = |pid| alive.contains(&pid);
    let generation = Generation::new(plan, workers, words, Box::new(()), last, is_alive);
    Some(Arc::new(generation.expect("enough memory")))
}

impl Model {
    fn new(input: &mut Input<'_>, memory: &mut &'static [AtomicU64]) -> Option<Self> {
        let workers = 1 + input.below(3);
        let Configuration { plan, servers } = configuration(input);
        let mut model = Self {
            generation: generation(plan, workers, memory, None, &[])?,
            workers,
            servers,
            processes: Vec::new(),
            pids: 0,
            counted: BTreeMap::new(),
            queues: Default::default(),
            handed_over: Default::default(),
            http2: Default::default(),
            decisions: Default::default(),
            warned: BTreeSet::new(),
        };
        (0..workers).for_each(|number| model.start(number));
        Some(model)
    }

    fn start(&mut self, number: usize) {
        self.pids += 1;
        let generation = self.generation.clone();
        let alive = self.alive();
        let is_alive = |pid| alive.contains(&pid);
        let worker = generation.enter(number, self.pids, is_alive).expect("there is such a worker");
        let (mut counters, mut auth) = (worker.upstreams, worker.auth);
        let plan = self.generation.snapshot(|_| true, &|_, it| Some(server(it))).expect("enough memory");
        if plan.plan().upstreams[0].name != UPSTREAMS[0] {
            counters.reverse();
            auth.reverse();
        }
        self.processes.push(Process {
            pid: self.pids,
            number,
            generation,
            counters,
            auth,
            connections: Vec::new(),
            waiting: [0; 2],
            carried: Default::default(),
        });
    }

    fn alive(&self) -> Vec<u64> {
        self.processes.iter().map(|process| process.pid).collect()
    }

    fn act(&mut self, input: &mut Input<'_>, memory: &mut &'static [AtomicU64]) {
        let op = input.below(16);
        match op {
            9 => return self.reload(input, memory),
            10 => return self.compare(),
            _ if self.processes.is_empty() => return self.start(0),
            _ => {}
        }
        let at = input.below(self.processes.len());
        if op == 8 {
            return self.kill(at, input.flag());
        }
        let process = &mut self.processes[at];
        let which = input.below(2);
        match op {
            0 | 1 => {
                let address = input.below(ADDRESSES.len());
                let meter = process.counters[which].meter(ADDRESSES[address]).expect("some place");
                meter.open();
                self.counted.entry((which, address)).or_default().counts[0] += 1;
                process.connections.push(Connection {
                    upstream: which,
                    address,
                    meter,
                    phase: Phase::Active,
                });
            }
            2..=5 | 12 if !process.connections.is_empty() => self.act_on_connection(op, at, input),
            // A second process becomes the worker while the first one still runs.
            12 if Arc::ptr_eq(&process.generation, &self.generation) => {
                let number = process.number;
                let is_same =
                    |it: &&Process| it.number == number && Arc::ptr_eq(&it.generation, &self.generation);
                if self.processes.iter().filter(is_same).count() == 1 {
                    self.start(number);
                }
            }
            6 => {
                let queue = process.counters[which].queue().expect("each has the place");
                let waited = usize::from(input.byte()) * 300;
                wait(queue, input.below(4), waited, &mut process.waiting[which], &mut self.queues[which]);
            }
            7 => {
                let (decision, took) = (input.below(DECIDED.len()), usize::from(input.byte()) * 300);
                process.auth[which].decide(DECIDED[decision], took);
                self.decisions[which].0[decision] += 1;
                self.decisions[which].1.observe(took);
            }
            11 => {
                let warning = u32::from(input.byte()) % 64;
                assert_eq!(self.generation.warns(which, warning), self.warned.insert((which, warning)));
            }
            13 => {
                let counters = &process.counters[which];
                let handover = counters.handover().expect("each has the place");
                if let Some(address) = self.handed_over[which].arrive(handover, input) {
                    let meter = counters.meter(ADDRESSES[address]).expect("some place");
                    meter.take();
                    self.counted.entry((which, address)).or_default().counts[5] += 1;
                    let phase = Phase::Idle;
                    process.connections.push(Connection { upstream: which, address, meter, phase });
                }
            }
            14 => {
                let handover = process.counters[which].handover().expect("each has the place");
                self.handed_over[which].ask(handover, input.flag());
            }
            15 => self.http2[which].act(&process.counters[which], &mut process.carried[which], input),
            _ => {}
        }
    }

    /// An operation on one of the connections of a process: it has at least one.
    fn act_on_connection(&mut self, op: usize, at: usize, input: &mut Input<'_>) {
        let process = &mut self.processes[at];
        let nth = input.below(process.connections.len());
        match op {
            2 | 3 => {
                let connection = &mut process.connections[nth];
                let to = input.one_of(&PHASES);
                if (connection.phase, to) == (Phase::Idle, Phase::Active) {
                    connection.meter.reuse();
                    let of = (connection.upstream, connection.address);
                    self.counted.entry(of).or_default().counts[1] += 1;
                } else {
                    connection.meter.pass(connection.phase, to);
                }
                connection.phase = to;
            }
            4 => {
                let Connection { upstream, address, meter, phase } = process.connections.swap_remove(nth);
                let end = input.below(ENDS.len());
                meter.end(phase, ENDS[end]);
                self.counted.entry((upstream, address)).or_default().ends[end] += 1;
            }
            12 => {
                if process.connections[nth].phase == Phase::Idle {
                    let Connection { upstream, address, meter, .. } = process.connections.swap_remove(nth);
                    meter.give();
                    self.counted.entry((upstream, address)).or_default().counts[4] += 1;
                    self.handed_over[upstream].in_transit.push(address);
                }
            }
            _ => {
                let Connection { upstream, address, meter, .. } = process.connections[nth];
                let count = 2 + input.below(2);
                meter.count(COUNTS[count]);
                self.counted.entry((upstream, address)).or_default().counts[count] += 1;
            }
        }
    }

    /// Kills a process, whose connections end with it. Another process may replace it.
    fn kill(&mut self, at: usize, starts_again: bool) {
        let process = self.processes.swap_remove(at);
        let exiting = ENDS.iter().position(|end| *end == End::Exiting).expect("it is among them");
        for connection in &process.connections {
            let of = (connection.upstream, connection.address);
            self.counted.entry(of).or_default().ends[exiting] += 1;
        }
        if starts_again && Arc::ptr_eq(&process.generation, &self.generation) {
            self.start(process.number);
        }
    }

    fn reload(&mut self, input: &mut Input<'_>, memory: &mut &'static [AtomicU64]) {
        let workers = 1 + input.below(3);
        let Configuration { plan, servers } = configuration(input);
        let Some(next) = generation(plan, workers, memory, Some(&self.generation), &self.alive()) else {
            return;
        };
        self.generation = next;
        self.workers = workers;
        self.servers = servers;
        self.warned.clear();
        (0..workers).for_each(|number| self.start(number));
    }

    fn compare(&self) {
        let alive = self.alive();
        let view = self.generation.snapshot(move |pid| alive.contains(&pid), &|_, it| Some(server(it)));
        let view = view.expect("enough memory");
        assert_eq!(view.workers(), self.processes.len());
        for (which, name) in UPSTREAMS.iter().enumerate() {
            let at = view.plan().upstreams.iter().position(|it| it.name == *name).expect("it is there");
            let rows = view.rows(at).expect("enough memory");
            let mut sum = ServerCounters::default();
            rows.iter().for_each(|row| sum.add(&row.counters));
            self.compare_numbers(&sum, |of, _| of == which);
            self.handed_over[which].compare(&view.handover(at), &sum);
            // No counter has become negative to compensate for another one.
            for row in &rows {
                assert!(PHASES.iter().all(|phase| row.counters.phase(*phase) < 1 << 32));
                assert!(connections(&row.counters) < 1 << 32);
            }
            let first =
                rows.iter().find(|row| view.server(at, row).is_some_and(|it| it.address == ADDRESSES[0]));
            self.compare_numbers(&first.expect("always there").counters, |of, address| {
                (of, address) == (which, 0)
            });
            let carried = self.processes.iter().map(|process| process.carried[which]);
            self.http2[which].compare(&view.http2(at), carried);
            let (queue, times) = view.queue(at);
            let size: u64 = self.processes.iter().map(|process| process.waiting[which]).sum();
            let ([requests, overflows, timeouts], expected) = &self.queues[which];
            assert_eq!(queue(QueueCount::Size), size);
            assert_eq!(queue(QueueCount::Requests), *requests);
            assert_eq!(queue(QueueCount::Overflows), *overflows);
            assert_eq!(queue(QueueCount::Timeouts), *timeouts);
            expected.compare(&times);
            let uri = view.plan().auth.iter().position(|uri| uri == AUTH[which]).expect("it is there");
            let (decisions, times) = view.auth(uri);
            assert!(decisions.eq(DECISIONS.into_iter().zip(self.decisions[which].0)));
            self.decisions[which].1.compare(&times);
        }
    }

    /// Compares counters with what has happened to servers, by upstream and address.
    fn compare_numbers(&self, numbers: &ServerCounters, is_of: impl Fn(usize, usize) -> bool) {
        let counted: Vec<&Counted> =
            self.counted.iter().filter(|((of, address), _)| is_of(*of, *address)).map(|(_, it)| it).collect();
        for (at, count) in COUNTS.into_iter().enumerate() {
            assert_eq!(
                numbers.count(count),
                counted.iter().map(|it| it.counts[at]).sum::<u64>(),
                "{count:?}"
            );
        }
        let names = CLOSED.iter().chain(&NOT_STORED);
        for (at, (name, (shown, number))) in
            names.zip(numbers.closed().chain(numbers.not_stored())).enumerate()
        {
            assert_eq!(*name, shown);
            assert_eq!(number, counted.iter().map(|it| it.ends[at]).sum::<u64>(), "{name}");
        }
        let all = self.processes.iter().flat_map(|process| &process.connections);
        let all: Vec<Phase> =
            all.filter(|it| is_of(it.upstream, it.address)).map(|connection| connection.phase).collect();
        for phase in PHASES {
            let expected = all.iter().filter(|it| **it == phase).count();
            assert_eq!(numbers.phase(phase), expected as u64, "{phase:?}");
        }
        let held = numbers.count(Count::Opened) + numbers.count(Count::Taken) - numbers.count(Count::Given);
        assert_eq!(connections(numbers), held);
        assert_eq!(numbers.requests(), numbers.count(Count::Opened) + numbers.count(Count::Reused));
    }
}

/// The connections that are in a phase, or have ended.
fn connections(numbers: &ServerCounters) -> u64 {
    let ends = numbers.closed().chain(numbers.not_stored()).map(|(_, number)| number);
    ends.chain(PHASES.map(|phase| numbers.phase(phase))).fold(0, u64::wrapping_add)
}
