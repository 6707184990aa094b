//! The numbers of all workers, added up.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::generation::{Generation, Past};
use super::histogram::Histogram;
use super::plan::{Plan, Server, Upstream, OTHER, QUEUE, SERVERS};
use super::records::read;
use super::{Numbers, OfQueue, AUTH_TIMES, DECISIONS, OF_AUTH, OF_QUEUE, OF_SERVER, QUEUE_TIMES};

/// Where a server's numbers go that a past generation has counted.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To this server.
    Server(usize),
    /// To one that is found by its address.
    Changing,
    /// To the others.
    Other,
}

/// Reads the numbers. Who is alive is asked once, when it is made.
pub struct View {
    generation: Arc<Generation>,
    /// For each worker, first of this generation and then of each before.
    alive: Vec<Vec<bool>>,
    text: Box<Text>,
}

/// Makes an address readable.
type Text = dyn Fn(&[u8]) -> String;

/// The numbers of one server.
#[derive(Clone, Debug)]
pub struct Row {
    /// As the configuration has it, if it does.
    pub server: Option<usize>,
    /// Its address; `other` for the servers that have no numbers of their own.
    pub text: String,
    /// Its numbers.
    pub numbers: Numbers,
}

/// What the servers without numbers of their own are called.
const OTHERS: &str = "other";

/// Gets the target, the address and the numbers of a server.
type Each<'a> = &'a mut dyn FnMut(&Target, &[u8], &[u64; OF_SERVER]);

impl View {
    pub(super) fn new(
        generation: Arc<Generation>,
        is_alive: impl Fn(u64) -> bool,
        text: impl Fn(&[u8]) -> String + 'static,
    ) -> Self {
        let alive = |generation: &Generation| {
            generation.processes().map(|process| process != 0 && is_alive(process)).collect()
        };
        let past = generation.past.iter().map(|past| alive(&past.generation));
        let alive = [alive(&generation)].into_iter().chain(past).collect();
        Self { generation, alive, text: Box::new(text) }
    }

    /// Of a generation alone, whose workers are gone.
    pub(super) fn of_past(generation: Arc<Generation>) -> Self {
        let alive = vec![vec![false; generation.workers]];
        Self { generation, alive, text: Box::new(|_| String::new()) }
    }

    /// What there is.
    pub fn plan(&self) -> &Plan {
        &self.generation.plan
    }

    /// How many workers are alive.
    pub fn workers(&self) -> usize {
        self.alive.iter().flatten().filter(|alive| **alive).count()
    }

    /// The servers of an upstream, those of the configuration first.
    pub fn rows(&self, upstream: usize) -> Vec<Row> {
        let Some(plan) = self.plan().upstreams.get(upstream) else { return Vec::new() };
        let mut fixed = vec![Numbers::default(); plan.servers.len()];
        let mut other = Numbers::default();
        let mut changing = BTreeMap::<Vec<u8>, Numbers>::new();
        let mut each = |target: &Target, address: &[u8], numbers: &[u64; OF_SERVER]| {
            let to = match target {
                Target::Server(at) => fixed.get_mut(*at),
                Target::Changing => Some(changing.entry(address.to_vec()).or_default()),
                Target::Other => None,
            };
            to.unwrap_or(&mut other).add(&Numbers(*numbers));
        };
        let own: Vec<Target> = (0..plan.servers.len()).map(Target::Server).collect();
        self.each_server(upstream, &own, plan, &mut each);
        for (past, alive) in self.generation.past.iter().zip(self.alive.iter().skip(1)) {
            if let Some(Some((number, targets))) = past.upstreams.get(upstream) {
                each_server(&past.generation, alive, *number, targets, plan, &mut each);
            }
        }
        let configured = plan.servers.iter().zip(fixed).enumerate();
        let mut rows: Vec<Row> = configured
            .map(|(at, (server, numbers))| Row { server: Some(at), text: server.text.clone(), numbers })
            .collect();
        let met = changing.into_iter();
        rows.extend(met.map(|(address, numbers)| Row { server: None, text: (self.text)(&address), numbers }));
        if other != Numbers::default() {
            rows.push(Row { server: None, text: OTHERS.to_owned(), numbers: other });
        }
        rows
    }

    /// The configuration of a row.
    pub fn server(&self, upstream: usize, row: &Row) -> Option<&Server> {
        self.plan().upstreams.get(upstream)?.servers.get(row.server?)
    }

    /// What was counted of a queue, and how long requests have waited.
    pub fn queue(&self, upstream: usize) -> (impl Fn(OfQueue) -> u64, Histogram) {
        let mut cells = self.queue_cells(upstream);
        for (past, alive) in self.past() {
            if let Some(Some((number, _))) = past.upstreams.get(upstream) {
                add_queue(&past.generation, alive, *number, &mut cells);
            }
        }
        let times = Histogram::of(&cells[QUEUE_TIMES..]);
        (move |what| cells[what as usize], times)
    }

    /// What was decided, by the names of the decisions, and how long it took.
    pub fn auth(&self, uri: usize) -> (impl Iterator<Item = (&'static str, u64)>, Histogram) {
        let mut cells = self.auth_cells(uri);
        for (past, _) in self.past() {
            if let Some(Some(number)) = past.auth.get(uri) {
                add_auth(&past.generation, *number, &mut cells);
            }
        }
        let times = Histogram::of(&cells[AUTH_TIMES..]);
        (DECISIONS.into_iter().zip(cells), times)
    }

    fn past(&self) -> impl Iterator<Item = (&Past, &Vec<bool>)> {
        self.generation.past.iter().zip(self.alive.iter().skip(1))
    }

    /// Of this generation alone.
    pub(super) fn each_server(&self, upstream: usize, targets: &[Target], to: &Upstream, each: Each<'_>) {
        each_server(&self.generation, &self.alive[0], upstream, targets, to, each);
    }

    /// Of this generation alone.
    pub(super) fn queue_cells(&self, upstream: usize) -> [u64; OF_QUEUE] {
        let mut cells = [0; OF_QUEUE];
        add_queue(&self.generation, &self.alive[0], upstream, &mut cells);
        cells
    }

    /// Of this generation alone.
    pub(super) fn auth_cells(&self, uri: usize) -> [u64; OF_AUTH] {
        let mut cells = [0; OF_AUTH];
        add_auth(&self.generation, uri, &mut cells);
        cells
    }
}

/// Passes on what each column of a generation has; `targets` are those of its servers, and `to` is the upstream to which
/// others may belong.
fn each_server(
    from: &Generation,
    alive: &[bool],
    upstream: usize,
    targets: &[Target],
    to: &Upstream,
    each: Each<'_>,
) {
    let (Some((at, size)), Some(plan)) = (from.places.get(upstream), from.plan.upstreams.get(upstream))
    else {
        return;
    };
    for worker in 0..=from.workers {
        let is_alive = alive.get(worker).copied().unwrap_or(false);
        let words = &from.column(worker)[*at..at + size];
        let counts = |mut numbers: [u64; OF_SERVER]| {
            if !is_alive {
                numbers[..3].fill(0);
            }
            numbers
        };
        let numbers = |words: &[std::sync::atomic::AtomicU64]| {
            let mut numbers = [0; OF_SERVER];
            numbers.iter_mut().zip(words).for_each(|(to, from)| *to = from.load(Relaxed));
            counts(numbers)
        };
        each(&Target::Other, &[], &numbers(&words[OTHER..SERVERS]));
        let places = SERVERS + plan.servers.len() * OF_SERVER;
        let servers = words[SERVERS..places].chunks_exact(OF_SERVER);
        for ((server, target), words) in plan.servers.iter().zip(targets).zip(servers) {
            each(target, &server.address, &numbers(words));
        }
        read(&words[places..], |address, numbers| {
            let target = match to.servers.iter().position(|server| server.address == address) {
                Some(at) => Target::Server(at),
                None if to.changing => Target::Changing,
                None => Target::Other,
            };
            each(&target, address, &counts(*numbers));
        });
    }
}

fn add_queue(from: &Generation, alive: &[bool], upstream: usize, cells: &mut [u64; OF_QUEUE]) {
    let Some((at, _)) = from.places.get(upstream) else { return };
    for worker in 0..=from.workers {
        let is_alive = alive.get(worker).copied().unwrap_or(false);
        let words = &from.column(worker)[at + QUEUE..];
        for (number, (to, word)) in cells.iter_mut().zip(words).enumerate() {
            if number != OfQueue::Size as usize || is_alive {
                *to = to.wrapping_add(word.load(Relaxed));
            }
        }
    }
}

fn add_auth(from: &Generation, uri: usize, cells: &mut [u64; OF_AUTH]) {
    for worker in 0..=from.workers {
        let words = &from.column(worker)[from.plan.first_auth() + uri * OF_AUTH..];
        for (to, word) in cells.iter_mut().zip(words) {
            *to = to.wrapping_add(word.load(Relaxed));
        }
    }
}
