//! The counters of all workers, added up.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crate::base::memory::{collect, copy, owned, push};

use super::generation::{Generation, Memory, Past};
use super::handover::Handover;
use super::hint::Hint;
use super::histogram::Histogram;
use super::http2::{is_gauge, Http2};
use super::lately;
use super::plan::{Plan, HANDOVER, HTTP2, QUEUE};
use super::rows;
use super::servers::{ServerInfo, ServerView};
use super::worker_counters::{read, settled};
use super::{
    QueueCount, ServerCounters, AUTH_CELLS, AUTH_TIMES, DECISIONS, HANDOVER_CELLS, HTTP2_CELLS, QUEUE_CELLS,
    QUEUE_TIMES, SERVER_CELLS,
};

/// Where the counters of a server go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// To the configured server with this number.
    Server(usize),
    /// To a server that is found by its address.
    Changing,
    /// To the servers that have no counters of their own.
    Other,
    /// To the servers that have left the upstream.
    Gone,
}

/// Reads the counters of all workers. Which workers are alive is determined once, when it is made.
pub struct Snapshot {
    generation: Arc<Generation>,
    /// Whether the process of each column is alive: first of this generation, then of each former one.
    alive: Vec<Vec<bool>>,
    describe: &'static Describe,
}

/// Describes a server that is not configured, without its address. It gets the number of the upstream, and the server's address.
/// `None` if there is no memory.
pub type Describe = dyn Fn(usize, &[u8]) -> Option<ServerInfo>;

/// The counters of one server.
#[derive(Clone, Debug)]
pub struct Row {
    which: Which,
    /// Its counters.
    pub counters: ServerCounters,
}

#[derive(Clone, Debug)]
enum Which {
    /// A configured server, by its number.
    Configured(usize),
    /// Another server, or several under one label.
    Other(ServerInfo),
}

/// The label of the servers that have no counters of their own.
const OTHER_LABEL: &str = "other";

/// The label of the servers that have left the upstream.
pub const GONE_LABEL: &str = "gone";

/// Gets the target, the address and the counters of a server.
type Each<'a> = &'a mut dyn FnMut(&Target, &[u8], &[u64; SERVER_CELLS]);

impl Snapshot {
    pub(super) fn new(
        generation: Arc<Generation>,
        is_alive: impl Fn(u64) -> bool,
        describe: &'static Describe,
    ) -> Option<Self> {
        let is_alive = |process| process != 0 && is_alive(process);
        let mut alive = Vec::new();
        push(&mut alive, collect(generation.own.processes().map(is_alive))?)?;
        for past in &generation.past {
            push(&mut alive, collect(past.memory.processes().map(is_alive))?)?;
        }
        Some(Self { generation, alive, describe })
    }

    /// What is counted.
    pub fn plan(&self) -> &Plan {
        &self.generation.own.plan
    }

    /// How many workers are alive.
    pub fn workers(&self) -> usize {
        self.alive.iter().flatten().filter(|alive| **alive).count()
    }

    /// The servers of an upstream, the configured ones first. `None` if there is no memory.
    pub fn rows(&self, upstream: usize) -> Option<Vec<Row>> {
        let Some(plan) = self.plan().upstreams.get(upstream) else { return Some(Vec::new()) };
        let mut fixed = collect(plan.servers.iter().map(|_| ServerCounters::default()))?;
        let (mut other, mut gone) = (ServerCounters::default(), ServerCounters::default());
        let mut changing = HashMap::<Vec<u8>, ServerCounters>::new();
        let mut is_complete = true;
        let mut each = |target: &Target, address: &[u8], numbers: &[u64; SERVER_CELLS]| {
            let to = match target {
                Target::Server(at) => fixed.get_mut(*at),
                Target::Changing => {
                    let found = numbers_of(&mut changing, address);
                    is_complete &= found.is_some();
                    found
                }
                Target::Other => None,
                Target::Gone => Some(&mut gone),
            };
            to.unwrap_or(&mut other).add(&ServerCounters(*numbers));
        };
        let own = collect((0..plan.servers.len()).map(Target::Server))?;
        let to = (&*self.generation.own, upstream);
        each_server(&self.generation.own, self.alive(), upstream, &own, to, &mut each);
        for (past, alive) in self.past() {
            if let Some(Some((number, targets))) = past.upstreams.get(upstream) {
                each_server(&past.memory, alive, *number, targets, to, &mut each);
            }
        }
        if !is_complete {
            return None;
        }
        let mut changing = collect(changing.into_iter())?;
        changing.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut rows = Vec::new();
        rows.try_reserve_exact(fixed.len() + changing.len() + 2).ok()?;
        let configured = fixed.into_iter().enumerate();
        rows.extend(configured.map(|(at, numbers)| Row { which: Which::Configured(at), counters: numbers }));
        for (address, numbers) in changing {
            let described = (self.describe)(upstream, &address)?;
            let server = ServerInfo { address, ..described };
            push(&mut rows, Row { which: Which::Other(server), counters: numbers })?;
        }
        for (text, numbers) in [(OTHER_LABEL, other), (GONE_LABEL, gone)] {
            if numbers != ServerCounters::default() {
                let server = ServerInfo { text: owned(text)?, ..ServerInfo::default() };
                push(&mut rows, Row { which: Which::Other(server), counters: numbers })?;
            }
        }
        Some(rows)
    }

    /// The server of a row. Its text is `other` or [`GONE_LABEL`] if the row is a sum of several servers.
    pub fn server<'a>(&'a self, upstream: usize, row: &'a Row) -> Option<ServerView<'a>> {
        match &row.which {
            Which::Configured(at) => self.plan().upstreams.get(upstream)?.servers.get(*at),
            Which::Other(server) => Some(server.view()),
        }
    }

    /// The counters of a queue, and the waiting times.
    pub fn queue(&self, upstream: usize) -> (impl Fn(QueueCount) -> u64, Histogram) {
        let mut cells = [0; QUEUE_CELLS];
        add_queue(&self.generation.own, self.alive(), upstream, &mut cells);
        for (past, alive) in self.past() {
            if let Some(Some((number, _))) = past.upstreams.get(upstream) {
                add_queue(&past.memory, alive, *number, &mut cells);
            }
        }
        let times = Histogram::of(&cells[QUEUE_TIMES..]);
        (move |what| cells[what as usize], times)
    }

    /// The counters of the handover in an upstream.
    pub fn handover(&self, upstream: usize) -> Handover {
        let mut cells = [0; HANDOVER_CELLS];
        add_handover(&self.generation.own, upstream, &mut cells);
        for (past, _) in self.past() {
            if let Some(Some((number, _))) = past.upstreams.get(upstream) {
                add_handover(&past.memory, *number, &mut cells);
            }
        }
        Handover(cells)
    }

    /// The counters of the carriers of an upstream.
    pub fn http2(&self, upstream: usize) -> Http2 {
        let mut cells = [0; HTTP2_CELLS];
        add_http2(&self.generation.own, self.alive(), upstream, &mut cells);
        for (past, alive) in self.past() {
            if let Some(Some((number, _))) = past.upstreams.get(upstream) {
                add_http2(&past.memory, alive, *number, &mut cells);
            }
        }
        Http2(cells)
    }

    /// Why the pool of an upstream has little effect, if that is certain.
    pub fn hint(&self, upstream: usize) -> Option<Hint> {
        lately::hint(&self.generation.own, upstream)
    }

    /// The numbers of decisions, by their names, and the durations.
    pub fn auth(&self, uri: usize) -> (impl Iterator<Item = (&'static str, u64)>, Histogram) {
        let mut cells = [0; AUTH_CELLS];
        add_auth(&self.generation.own, uri, &mut cells);
        for (past, _) in self.past() {
            if let Some(Some(number)) = past.auth.get(uri) {
                add_auth(&past.memory, *number, &mut cells);
            }
        }
        let times = Histogram::of(&cells[AUTH_TIMES..]);
        (DECISIONS.into_iter().zip(cells), times)
    }

    /// Whether the process of each column of this generation is alive.
    fn alive(&self) -> &[bool] {
        self.alive.first().map_or(&[], Vec::as_slice)
    }

    /// The former generations, and whether the process of each of their columns is alive.
    fn past(&self) -> impl Iterator<Item = (&Past, &Vec<bool>)> {
        self.generation.past.iter().zip(self.alive.iter().skip(1))
    }
}

/// The counters of the server at an address. `None` if there is no memory.
fn numbers_of<'a>(
    all: &'a mut HashMap<Vec<u8>, ServerCounters>,
    address: &[u8],
) -> Option<&'a mut ServerCounters> {
    if !all.contains_key(address) {
        all.try_reserve(1).ok()?;
        all.insert(copy(address)?, ServerCounters::default());
    }
    all.get_mut(address)
}

/// Calls `each` with the counters of each server in each column, of those that were ever counted. `alive` says which processes still run, `targets` are the
/// targets of the configured servers, and `to` is the memory and the upstream in which the target of other servers is
/// looked up.
pub(super) fn each_server(
    from: &Memory,
    alive: &[bool],
    upstream: usize,
    targets: &[Target],
    (to, this): (&Memory, usize),
    each: Each<'_>,
) {
    let (Some(spot), Some(plan)) = (from.spots.get(upstream), from.plan.upstreams.get(upstream)) else {
        return;
    };
    for column in from.written() {
        let rows = from.rows(column);
        let is_alive = alive.get(column).copied().unwrap_or(false);
        let counts = |numbers| if is_alive { numbers } else { settled(numbers) };
        let numbers = |row| rows.read(row).map(|row| counts(rows::numbers(row)));
        for (target, row) in [(Target::Other, spot.other), (Target::Gone, spot.gone)] {
            numbers(row).iter().for_each(|numbers| each(&target, &[], numbers));
        }
        for ((server, target), row) in plan.servers.iter().zip(targets).zip(spot.servers..) {
            numbers(row).iter().for_each(|numbers| each(target, server.address, numbers));
        }
        read(from, column, spot, |address, numbers| {
            each(&to.target(this, address), address, &counts(numbers))
        });
    }
}

/// Adds the cells of a queue in all columns to `cells`. The size counts only for live processes.
pub(super) fn add_queue(from: &Memory, alive: &[bool], upstream: usize, cells: &mut [u64; QUEUE_CELLS]) {
    let Some(spot) = from.spots.get(upstream) else { return };
    for column in from.written() {
        let is_alive = alive.get(column).copied().unwrap_or(false);
        let words = &from.column(column)[spot.cells + QUEUE..];
        for (number, (to, word)) in cells.iter_mut().zip(words).enumerate() {
            if number != QueueCount::Size as usize || is_alive {
                *to = to.wrapping_add(word.load(Relaxed));
            }
        }
    }
}

/// Adds the cells of the handover in all columns to `cells`.
pub(super) fn add_handover(from: &Memory, upstream: usize, cells: &mut [u64; HANDOVER_CELLS]) {
    let Some(spot) = from.spots.get(upstream) else { return };
    for column in from.written() {
        let words = &from.column(column)[spot.cells + HANDOVER..];
        for (to, word) in cells.iter_mut().zip(words) {
            *to = to.wrapping_add(word.load(Relaxed));
        }
    }
}

/// Adds the cells of the carriers in all columns to `cells`. The gauges count only for live processes.
pub(super) fn add_http2(from: &Memory, alive: &[bool], upstream: usize, cells: &mut [u64; HTTP2_CELLS]) {
    let Some(spot) = from.spots.get(upstream) else { return };
    for column in from.written() {
        let is_alive = alive.get(column).copied().unwrap_or(false);
        let words = &from.column(column)[spot.cells + HTTP2..];
        for (cell, (to, word)) in cells.iter_mut().zip(words).enumerate() {
            if is_alive || !is_gauge(cell) {
                *to = to.wrapping_add(word.load(Relaxed));
            }
        }
    }
}

/// Adds the cells of an `auth_subrequest` URI in all columns to `cells`.
pub(super) fn add_auth(from: &Memory, uri: usize, cells: &mut [u64; AUTH_CELLS]) {
    for column in from.written() {
        let words = &from.column(column)[from.plan.first_auth() + uri * AUTH_CELLS..];
        for (to, word) in cells.iter_mut().zip(words) {
            *to = to.wrapping_add(word.load(Relaxed));
        }
    }
}
