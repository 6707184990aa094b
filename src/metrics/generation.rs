//! The counters of one configuration, and of the configurations before it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use crate::base::atomic::AtomicU64;
use crate::base::memory::{collect, is_spare, push};

use super::hint::Cause;
use super::index::Index;
use super::plan::{Plan, Spot, HANDOVER, HTTP2, QUEUE};
use super::rows::{self, Rows};
use super::servers::ServerView;
use super::snapshot::{
    add_auth, add_handover, add_http2, add_queue, each_server, Describe, Snapshot, Target,
};
use super::worker_counters::{settle, WorkerCounters};
use super::{add, AuthMeter, AUTH_CELLS, HANDOVER_CELLS, HTTP2_CELLS, QUEUE_CELLS, SERVER_CELLS};

/// The counters of one configuration, and of the configurations before it. The master makes it, its workers inherit it.
pub struct Generation {
    pub(super) own: Arc<Memory>,
    /// Former generations whose workers may still run.
    pub(super) past: Vec<Past>,
}

/// The number of the warning that is about the first cause of a hint.
const FIRST_CAUSE: u32 = 32;
/// How many hints about an upstream are logged in an hour.
const TOLD_AN_HOUR: u64 = 4;
/// More than [`TOLD_AN_HOUR`].
const MANY: u64 = 8;

/// The memory of one configuration.
pub(super) struct Memory {
    pub(super) plan: Plan,
    /// See [`Plan::spots`].
    pub(super) spots: Vec<Spot>,
    /// One index for each upstream.
    pub(super) indexes: Vec<Index>,
    pub(super) workers: usize,
    /// How many columns processes write: one for each worker, or two. The second one is for a process that becomes the worker
    /// while the process in the first one still runs, as when a binary upgrade is taken back.
    columns: usize,
    words: &'static [AtomicU64],
    /// The owner of the words.
    _owner: Box<dyn Send + Sync>,
}

/// The memory of a former configuration, and where its counters go in a later one.
pub(super) struct Past {
    pub(super) memory: Arc<Memory>,
    /// For each upstream of the later one, its former number, and the targets of its former servers.
    pub(super) upstreams: Vec<Option<(usize, Vec<Target>)>>,
    /// For each URI of the later one, its former number.
    pub(super) auth: Vec<Option<usize>>,
}

/// The counters that one worker writes.
pub struct Worker {
    /// In the order of the plan's upstreams.
    pub upstreams: Vec<WorkerCounters>,
    /// In the order of the plan's `auth`.
    pub auth: Vec<AuthMeter>,
}

/// Why a process counts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no memory, or no worker with this number.
    NoMemory,
    /// The columns of the worker belong to processes that still run.
    Taken,
}

impl Generation {
    /// A generation that follows `last`. `words` are [`Plan::memory`] zeros, or [`Plan::memory_for_two_each`]; they belong to
    /// `owner` and are valid as long as it exists. `is_alive` tells whether a process runs. `None` if there are too few words, or no
    /// memory.
    pub fn new(
        plan: Plan,
        workers: usize,
        words: &'static [AtomicU64],
        owner: Box<dyn Send + Sync>,
        last: Option<&Self>,
        is_alive: impl Fn(u64) -> bool,
    ) -> Option<Self> {
        let workers = workers.max(1);
        if words.len() < plan.memory(workers) {
            return None;
        }
        let columns = if words.len() < plan.memory_for_two_each(workers) { workers } else { 2 * workers };
        let spots = plan.spots()?;
        let mut indexes = Vec::new();
        for upstream in &plan.upstreams {
            push(&mut indexes, Index::new(&upstream.servers)?)?;
        }
        // The spare memory that the caller found may be used up by now.
        if !is_spare() {
            return None;
        }
        let own = Arc::new(Memory { plan, spots, indexes, workers, columns, words, _owner: owner });
        let mut past = Vec::new();
        let before = last.into_iter().flat_map(|last| last.past.iter().map(|past| (&past.memory, false)));
        for (memory, is_last) in last.map(|last| (&last.own, true)).into_iter().chain(before) {
            let former = Past::new(memory, &own)?;
            if is_last {
                own.inherit_told(&former);
            }
            // A worker of the last generation that has not entered yet may still do so. It takes its second column only if the
            // process in the first one is alive.
            let is_over = |(column, process)| match process {
                0 => !is_last || column >= memory.workers,
                _ => !is_alive(process),
            };
            if (0..).zip(memory.processes()).all(is_over) {
                own.fold(&former);
            } else {
                push(&mut past, former)?;
            }
        }
        Some(Self { own, past })
    }

    /// The process `process` becomes a worker, perhaps in place of one that was killed. `is_alive` tells whether a process runs:
    /// what such a one counts is not touched.
    ///
    /// # Errors
    /// The reason why the process counts nothing.
    pub fn enter(
        &self,
        worker: usize,
        process: u64,
        is_alive: impl Fn(u64) -> bool,
    ) -> Result<Worker, Refused> {
        let own = &self.own;
        if worker >= own.workers {
            return Err(Refused::NoMemory);
        }
        let (mut counters, mut auth) = (Vec::new(), Vec::new());
        counters.try_reserve_exact(own.spots.len()).map_err(|_| Refused::NoMemory)?;
        auth.try_reserve_exact(own.plan.auth.len()).map_err(|_| Refused::NoMemory)?;
        let (column, before) = own.claim(worker, process, is_alive).ok_or(Refused::Taken)?;
        counters.extend(own.spots.iter().enumerate().map(|(number, spot)| {
            // Memory that was never touched costs nothing, so it stays untouched.
            if before != 0 {
                settle(own, column, spot);
            }
            WorkerCounters::new(own.clone(), number, column)
        }));
        let words =
            own.column(column)[own.plan.first_auth()..].chunks_exact(AUTH_CELLS).take(own.plan.auth.len());
        auth.extend(words.filter_map(|words| words.first_chunk().map(AuthMeter)));
        Ok(Worker { upstreams: counters, auth })
    }

    /// Whether a warning about an upstream is to be written: `true` once for each number in all workers together.
    /// `warning` is below 64.
    pub fn warns(&self, upstream: usize, warning: u32) -> bool {
        self.own.warns(upstream, warning)
    }

    /// The counters now. `is_alive` tells whether a process runs. `None` if there is no memory.
    pub fn snapshot(
        self: &Arc<Self>,
        is_alive: impl Fn(u64) -> bool,
        describe: &'static Describe,
    ) -> Option<Snapshot> {
        Snapshot::new(self.clone(), is_alive, describe)
    }
}

impl Memory {
    /// The processes that write the columns; 0 for a column that nobody has written yet. The first columns are those of the
    /// workers, then there may be a second one of each worker.
    pub(super) fn processes(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        (0..self.columns).map(|column| self.words[self.plan.process(column)].load(SeqCst))
    }

    /// A column; behind those of processes is the column of folded generations.
    pub(super) fn column(&self, column: usize) -> &'static [AtomicU64] {
        let [begin, end] = [column, column + 1].map(|column| self.plan.column_at(column, self.columns));
        &self.words[begin..end]
    }

    /// The rows of a column.
    pub(super) fn rows(&self, column: usize) -> Rows {
        let (front, rows) = self.column(column).split_at(self.plan.first_row());
        Rows::new(&front[..self.plan.notes()], rows)
    }

    /// See [`Generation::warns`].
    fn warns(&self, upstream: usize, warning: u32) -> bool {
        let written = &self.words[self.plan.warnings(self.columns, upstream)];
        let bit = 1 << (warning % 64);
        written.load(Relaxed) & bit == 0 && written.fetch_or(bit, Relaxed) & bit == 0
    }

    /// Whether a hint about an upstream is to be logged at `now`, in milliseconds: once for each cause, and not more than a few times
    /// an hour, as there may be reloads all the time.
    pub(super) fn tells(&self, upstream: usize, cause: Cause, now: u64) -> bool {
        if !self.warns(upstream, FIRST_CAUSE + cause as u32) {
            return false;
        }
        let told = &self.words[self.plan.told(self.columns, upstream)];
        let (since, number) = (told.load(Relaxed) / MANY, told.load(Relaxed) % MANY);
        // The time may begin anew with the machine.
        let is_over = number == 0 || now / 1000 < since || now / 1000 - since >= 3600;
        let (since, number) = if is_over { (now / 1000, 0) } else { (since, number) };
        if number >= TOLD_AN_HOUR {
            return false;
        }
        told.store(since * MANY + number + 1, Relaxed);
        true
    }

    /// How often hints were logged goes on.
    fn inherit_told(&self, last: &Past) {
        for (this, former) in last.upstreams.iter().enumerate() {
            let Some((number, _)) = former else { continue };
            let before = last.memory.words[last.memory.plan.told(last.memory.columns, *number)].load(Relaxed);
            if before != 0 {
                self.words[self.plan.told(self.columns, this)].store(before, Relaxed);
            }
        }
    }

    /// The numbers of the columns that processes have written.
    pub(super) fn entered(&self) -> impl Iterator<Item = usize> + '_ {
        let entered = self.processes().enumerate().filter(|(_, process)| *process != 0);
        entered.map(|(column, _)| column)
    }

    /// The numbers of the columns that were written. The others are not read: memory that was never touched costs nothing.
    pub(super) fn written(&self) -> impl Iterator<Item = usize> + '_ {
        self.entered().chain([self.columns])
    }

    /// Takes a column of a worker for a process. Returns its number, and the process that wrote it before. `None` if each one
    /// belongs to another process that is alive.
    fn claim(&self, worker: usize, process: u64, is_alive: impl Fn(u64) -> bool) -> Option<(usize, u64)> {
        (worker..self.columns).step_by(self.workers).find_map(|column| {
            let place = &self.words[self.plan.process(column)];
            loop {
                let before = place.load(SeqCst);
                if before != 0 && before != process && is_alive(before) {
                    return None;
                }
                // From here on the column belongs to a live process, so readers count its gauges.
                if place.compare_exchange(before, process, SeqCst, SeqCst).is_ok() {
                    return Some((column, before));
                }
            }
        })
    }

    /// The number of a configured server.
    pub(super) fn find(&self, upstream: usize, address: &[u8]) -> Option<usize> {
        self.indexes.get(upstream)?.find(&self.plan.upstreams.get(upstream)?.servers, address)
    }

    /// Where the counters of a server go in this generation's upstream.
    pub(super) fn target(&self, upstream: usize, address: &[u8]) -> Target {
        match self.find(upstream, address) {
            Some(at) => Target::Server(at),
            None if self.plan.upstreams.get(upstream).is_some_and(|it| it.changing) => Target::Changing,
            None => Target::Gone,
        }
    }

    /// Adds the counters of a former generation, whose workers have all ended, to this one's.
    fn fold(self: &Arc<Self>, past: &Past) {
        let column = self.column(self.columns);
        let rows = self.rows(self.columns);
        for (this, (spot, former)) in self.spots.iter().zip(&past.upstreams).enumerate() {
            let Some((number, targets)) = former else { continue };
            let words = &column[spot.cells..];
            let counters = WorkerCounters::new(self.clone(), this, self.columns);
            let mut each = |target: &Target, address: &[u8], numbers: &[u64; SERVER_CELLS]| {
                let to = match target {
                    Target::Server(at) => rows.write(spot.servers + at),
                    Target::Changing => counters.meter(address).map(|meter| meter.0),
                    Target::Other => rows.write(spot.other),
                    Target::Gone => rows.write(spot.gone),
                };
                if let Some(to) = to {
                    rows::add_all(to, numbers);
                }
            };
            each_server(&past.memory, &[], *number, targets, (self, this), &mut each);
            let mut queue = [0; QUEUE_CELLS];
            add_queue(&past.memory, &[], *number, &mut queue);
            add_all(&words[QUEUE..], &queue);
            let mut handover = [0; HANDOVER_CELLS];
            add_handover(&past.memory, *number, &mut handover);
            add_all(&words[HANDOVER..], &handover);
            let mut http2 = [0; HTTP2_CELLS];
            add_http2(&past.memory, &[], *number, &mut http2);
            add_all(&words[HTTP2..], &http2);
        }
        let auth = column[self.plan.first_auth()..].chunks_exact(AUTH_CELLS);
        for (words, number) in auth.zip(&past.auth) {
            let mut counts = [0; AUTH_CELLS];
            number.iter().for_each(|number| add_auth(&past.memory, *number, &mut counts));
            add_all(words, &counts);
        }
    }
}

/// Adds the numbers that are not zero: memory that was never touched costs nothing, so it stays untouched.
fn add_all(to: &[AtomicU64], numbers: &[u64]) {
    let numbers = to.iter().zip(numbers).filter(|(_, from)| **from != 0);
    numbers.for_each(|(to, from)| add(to, *from));
}

impl Past {
    /// `None` if there is no memory.
    fn new(memory: &Arc<Memory>, own: &Memory) -> Option<Self> {
        let old = &memory.plan;
        let mut names = HashMap::<&str, usize>::new();
        names.try_reserve(old.upstreams.len()).ok()?;
        names.extend(old.upstreams.iter().map(|it| it.name.as_str()).zip(0..));
        let mut upstreams = Vec::new();
        for (this, upstream) in own.plan.upstreams.iter().enumerate() {
            let target = |server: ServerView<'_>| own.target(this, server.address);
            let former = match names.get(upstream.name.as_str()) {
                Some(&number) => Some((number, collect(old.upstreams[number].servers.iter().map(target))?)),
                None => None,
            };
            push(&mut upstreams, former)?;
        }
        let auth = own.plan.auth.iter().map(|uri| old.auth.iter().position(|old| old == uri));
        Some(Self { memory: memory.clone(), upstreams, auth: collect(auth)? })
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("plan", &self.own.plan).finish_non_exhaustive()
    }
}
