//! The numbers of all workers, added up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use super::generation::{Generation, Memory, Past};
use super::histogram::Histogram;
use super::plan::{Plan, Server, GONE, OTHER, QUEUE, SERVERS};
use super::records::{read, settled};
use super::{Numbers, OfQueue, AUTH_TIMES, DECISIONS, OF_AUTH, OF_QUEUE, OF_SERVER, QUEUE_TIMES};

/// Where the numbers of a server go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// To this server.
    Server(usize),
    /// To one that is found by its address.
    Changing,
    /// To those that have no numbers of their own.
    Other,
    /// To those that have left the upstream.
    Gone,
}

/// Reads the numbers. Who is alive is asked once, when it is made.
pub struct View {
    generation: Arc<Generation>,
    /// For each worker, first of this generation and then of each before.
    alive: Vec<Vec<bool>>,
    describe: Box<Describe>,
}

/// Tells of a server that is not of the configuration: of which upstream it is, and its address.
type Describe = dyn Fn(usize, &[u8]) -> Server;

/// The numbers of one server.
#[derive(Clone, Debug)]
pub struct Row {
    which: Which,
    /// Its numbers.
    pub numbers: Numbers,
}

#[derive(Clone, Debug)]
enum Which {
    /// Of the configuration.
    Configured(usize),
    Met(Server),
}

/// What the servers that have no numbers of their own are called.
const OTHERS: &str = "other";

/// What the servers are called that have left the upstream.
pub const LEFT: &str = "gone";

/// Gets the target, the address and the numbers of a server.
type Each<'a> = &'a mut dyn FnMut(&Target, &[u8], &[u64; OF_SERVER]);

impl View {
    pub(super) fn new(
        generation: Arc<Generation>,
        is_alive: impl Fn(u64) -> bool,
        describe: impl Fn(usize, &[u8]) -> Server + 'static,
    ) -> Self {
        let alive =
            |memory: &Memory| memory.processes().map(|process| process != 0 && is_alive(process)).collect();
        let past = generation.past.iter().map(|past| alive(&past.memory));
        let alive = [alive(&generation.own)].into_iter().chain(past).collect();
        Self { generation, alive, describe: Box::new(describe) }
    }

    /// What there is.
    pub fn plan(&self) -> &Plan {
        &self.generation.own.plan
    }

    /// How many workers are alive.
    pub fn workers(&self) -> usize {
        self.alive.iter().flatten().filter(|alive| **alive).count()
    }

    /// The servers of an upstream, those of the configuration first.
    pub fn rows(&self, upstream: usize) -> Vec<Row> {
        let Some(plan) = self.plan().upstreams.get(upstream) else { return Vec::new() };
        let mut fixed = vec![Numbers::default(); plan.servers.len()];
        let (mut other, mut gone) = (Numbers::default(), Numbers::default());
        let mut changing = BTreeMap::<Vec<u8>, Numbers>::new();
        let mut each = |target: &Target, address: &[u8], numbers: &[u64; OF_SERVER]| {
            let to = match target {
                Target::Server(at) => fixed.get_mut(*at),
                Target::Changing => Some(changing.entry(address.to_vec()).or_default()),
                Target::Other => None,
                Target::Gone => Some(&mut gone),
            };
            to.unwrap_or(&mut other).add(&Numbers(*numbers));
        };
        let own: Vec<Target> = (0..plan.servers.len()).map(Target::Server).collect();
        let to = (&*self.generation.own, upstream);
        each_server(&self.generation.own, self.alive(), upstream, &own, to, &mut each);
        for (past, alive) in self.past() {
            if let Some(Some((number, targets))) = past.upstreams.get(upstream) {
                each_server(&past.memory, alive, *number, targets, to, &mut each);
            }
        }
        let configured = fixed.into_iter().enumerate();
        let configured = configured.map(|(at, numbers)| Row { which: Which::Configured(at), numbers });
        let met = |server, numbers| Row { which: Which::Met(server), numbers };
        let changing = changing.into_iter();
        let changing = changing.map(|(address, numbers)| met((self.describe)(upstream, &address), numbers));
        let rest = [(OTHERS, other), (LEFT, gone)].into_iter().filter(|(_, it)| *it != Numbers::default());
        let named = |text: &str| Server { text: text.to_owned(), ..Server::default() };
        configured.chain(changing).chain(rest.map(|(text, numbers)| met(named(text), numbers))).collect()
    }

    /// The server of a row: one of the configuration, or what is to be told of another one. `other` and [`LEFT`] are
    /// the addresses of several ones.
    pub fn server<'a>(&'a self, upstream: usize, row: &'a Row) -> Option<&'a Server> {
        match &row.which {
            Which::Configured(at) => self.plan().upstreams.get(upstream)?.servers.get(*at),
            Which::Met(server) => Some(server),
        }
    }

    /// What was counted of a queue, and how long requests have waited.
    pub fn queue(&self, upstream: usize) -> (impl Fn(OfQueue) -> u64, Histogram) {
        let mut cells = [0; OF_QUEUE];
        add_queue(&self.generation.own, self.alive(), upstream, &mut cells);
        for (past, alive) in self.past() {
            if let Some(Some((number, _))) = past.upstreams.get(upstream) {
                add_queue(&past.memory, alive, *number, &mut cells);
            }
        }
        let times = Histogram::of(&cells[QUEUE_TIMES..]);
        (move |what| cells[what as usize], times)
    }

    /// What was decided, by the names of the decisions, and how long it took.
    pub fn auth(&self, uri: usize) -> (impl Iterator<Item = (&'static str, u64)>, Histogram) {
        let mut cells = [0; OF_AUTH];
        add_auth(&self.generation.own, uri, &mut cells);
        for (past, _) in self.past() {
            if let Some(Some(number)) = past.auth.get(uri) {
                add_auth(&past.memory, *number, &mut cells);
            }
        }
        let times = Histogram::of(&cells[AUTH_TIMES..]);
        (DECISIONS.into_iter().zip(cells), times)
    }

    fn alive(&self) -> &[bool] {
        self.alive.first().map_or(&[], Vec::as_slice)
    }

    fn past(&self) -> impl Iterator<Item = (&Past, &Vec<bool>)> {
        self.generation.past.iter().zip(self.alive.iter().skip(1))
    }
}

/// Passes on what each column has; `alive` says which workers still run, `targets` are those of the servers, and `to` has
/// the upstream to which others may belong.
pub(super) fn each_server(
    from: &Memory,
    alive: &[bool],
    upstream: usize,
    targets: &[Target],
    (to, this): (&Memory, usize),
    each: Each<'_>,
) {
    let (Some((at, size)), Some(plan)) = (from.places.get(upstream), from.plan.upstreams.get(upstream))
    else {
        return;
    };
    for worker in 0..=from.workers {
        let words = &from.column(worker)[*at..at + size];
        let is_alive = alive.get(worker).copied().unwrap_or(false);
        let counts = |numbers| if is_alive { numbers } else { settled(numbers) };
        let numbers = |words: &[AtomicU64]| {
            let mut numbers = [0; OF_SERVER];
            numbers.iter_mut().zip(words).for_each(|(to, from)| *to = from.load(Relaxed));
            counts(numbers)
        };
        each(&Target::Other, &[], &numbers(&words[OTHER..]));
        each(&Target::Gone, &[], &numbers(&words[GONE..]));
        let places = SERVERS + plan.servers.len() * OF_SERVER;
        let servers = words[SERVERS..places].chunks_exact(OF_SERVER);
        for ((server, target), words) in plan.servers.iter().zip(targets).zip(servers) {
            each(target, &server.address, &numbers(words));
        }
        read(&words[places..], |address, numbers| {
            each(&to.target(this, address), address, &counts(*numbers))
        });
    }
}

pub(super) fn add_queue(from: &Memory, alive: &[bool], upstream: usize, cells: &mut [u64; OF_QUEUE]) {
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

pub(super) fn add_auth(from: &Memory, uri: usize, cells: &mut [u64; OF_AUTH]) {
    for worker in 0..=from.workers {
        let words = &from.column(worker)[from.plan.first_auth() + uri * OF_AUTH..];
        for (to, word) in cells.iter_mut().zip(words) {
            *to = to.wrapping_add(word.load(Relaxed));
        }
    }
}
