//! The numbers of one configuration, and of those before it.

use std::fmt;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::Arc;

use super::plan::{Plan, OTHER, QUEUE, SERVERS};
use super::records::{clear_phases, Records};
use super::view::{Target, View};
use super::{add, AuthMeter, FIRST_END, OF_AUTH, OF_QUEUE, OF_SERVER};

/// The memory of one configuration. The master makes it, its workers inherit it.
pub struct Generation {
    pub(super) plan: Plan,
    pub(super) places: Vec<(usize, usize)>,
    pub(super) workers: usize,
    pub(super) words: &'static [AtomicU64],
    /// Those before, whose workers may still run.
    pub(super) past: Vec<Past>,
    /// Owns the words.
    _memory: Box<dyn Send + Sync>,
}

/// A generation before another one.
pub(super) struct Past {
    pub(super) generation: Arc<Generation>,
    /// For each upstream of the later generation which one it was, and what has become of its servers.
    pub(super) upstreams: Vec<Option<(usize, Vec<Target>)>>,
    pub(super) auth: Vec<Option<usize>>,
}

/// One worker's way to what it writes.
pub struct Worker {
    /// In the order of the plan's upstreams.
    pub upstreams: Vec<Records>,
    /// In the order of the plan's `auth`.
    pub auth: Vec<AuthMeter>,
}

impl Generation {
    /// A generation behind `last`. The words, as many zeros as [`Plan::size`] says, are the `memory`'s, and
    /// readable as long as it. `None` if there are too few.
    pub fn new(
        plan: Plan,
        workers: usize,
        words: &'static [AtomicU64],
        memory: Box<dyn Send + Sync>,
        last: Option<&Arc<Self>>,
        is_alive: impl Fn(u64) -> bool,
    ) -> Option<Self> {
        let workers = workers.max(1);
        if words.len() < plan.size(workers) {
            return None;
        }
        let places = plan.places();
        let mut this = Self { plan, places, workers, words, past: Vec::new(), _memory: memory };
        let before = last.map_or(&[][..], |last| &last.past[..]).iter().map(|past| &past.generation);
        for generation in last.into_iter().chain(before) {
            let past = Past::new(generation, &this.plan);
            // A process that was not there yet may come.
            let is_over = |process: u64| process != 0 && !is_alive(process);
            if generation.processes().all(is_over) {
                this.fold(&past);
            } else {
                this.past.push(past);
            }
        }
        Some(this)
    }

    /// This process is a worker now, perhaps in place of one that was killed.
    pub fn enter(&self, worker: usize, process: u64) -> Option<Worker> {
        if worker >= self.workers {
            return None;
        }
        self.words[self.plan.process(worker)].store(process, SeqCst);
        let column = self.column(worker);
        let upstreams = self.plan.upstreams.iter().zip(&self.places).map(|(upstream, (at, size))| {
            let words = &column[*at..at + size];
            clear_phases(upstream, words);
            Records::new(upstream, words)
        });
        let auth = column[self.plan.first_auth()..].chunks_exact(OF_AUTH).take(self.plan.auth.len());
        let auth = auth.filter_map(|words| words.first_chunk().map(AuthMeter));
        Some(Worker { upstreams: upstreams.collect(), auth: auth.collect() })
    }

    /// Whether a warning about an upstream, one of 64, was not written before, in any worker.
    pub fn warns(&self, upstream: usize, warning: u32) -> bool {
        let written = &self.words[self.plan.warnings(self.workers, upstream)];
        let bit = 1 << (warning % 64);
        written.load(Relaxed) & bit == 0 && written.fetch_or(bit, Relaxed) & bit == 0
    }

    /// What the numbers are now. `text` makes an address readable.
    pub fn view(
        self: &Arc<Self>,
        is_alive: impl Fn(u64) -> bool,
        text: impl Fn(&[u8]) -> String + 'static,
    ) -> View {
        View::new(self.clone(), is_alive, text)
    }

    /// The processes of the workers; 0 is none yet.
    pub(super) fn processes(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.workers).map(|worker| self.words[self.plan.process(worker)].load(SeqCst))
    }

    /// The column of a worker, or the one behind them.
    pub(super) fn column(&self, worker: usize) -> &'static [AtomicU64] {
        &self.words[self.plan.column_of(worker, self.workers)..self.plan.column_of(worker + 1, self.workers)]
    }

    /// What the workers of a past generation have counted is counted here from now on.
    fn fold(&self, past: &Past) {
        let view = |from: &Arc<Self>| View::of_past(from.clone());
        let folded = self.column(self.workers);
        let old = view(&past.generation);
        for (number, upstream) in past.upstreams.iter().enumerate() {
            let Some((from, targets)) = upstream else { continue };
            let (at, size) = self.places[number];
            let words = &folded[at..at + size];
            let records = Records::new(&self.plan.upstreams[number], words);
            let add_counts = |to: &[AtomicU64], from: &[u64]| {
                to.iter().zip(from).for_each(|(to, from)| add(to, *from));
            };
            let mut add_to = |target: &Target, address: &[u8], numbers: &[u64; OF_SERVER]| {
                let mut counts = *numbers;
                counts[..3].fill(0);
                let other = &words[OTHER..SERVERS];
                match target {
                    Target::Server(at) => {
                        add_counts(&words[SERVERS + at * OF_SERVER..][..OF_SERVER], &counts)
                    }
                    Target::Changing => match records.meter(address) {
                        Some(meter) => add_counts(meter.0, &counts),
                        None => add_counts(other, &counts),
                    },
                    Target::Other => add_counts(other, &counts),
                }
            };
            old.each_server(*from, targets, &self.plan.upstreams[number], &mut add_to);
            let mut queue = old.queue_cells(*from);
            queue[0] = 0;
            add_counts(&words[QUEUE..OF_QUEUE], &queue);
        }
        let auth = &folded[self.plan.first_auth()..];
        for (words, from) in auth.chunks_exact(OF_AUTH).zip(&past.auth) {
            let counts = from.map_or([0; OF_AUTH], |from| old.auth_cells(from));
            words.iter().zip(counts).for_each(|(to, from)| add(to, from));
        }
    }
}

impl Past {
    fn new(generation: &Arc<Generation>, plan: &Plan) -> Self {
        let old = &generation.plan;
        let upstreams = plan.upstreams.iter().map(|upstream| {
            let number = old.upstreams.iter().position(|old| old.name == upstream.name)?;
            let at = |address: &[u8]| upstream.servers.iter().position(|server| server.address == address);
            let target = |server: &super::plan::Server| match at(&server.address) {
                Some(at) => Target::Server(at),
                None if upstream.changing => Target::Changing,
                None => Target::Other,
            };
            Some((number, old.upstreams[number].servers.iter().map(target).collect()))
        });
        let auth = plan.auth.iter().map(|uri| old.auth.iter().position(|old| old == uri));
        Self { generation: generation.clone(), upstreams: upstreams.collect(), auth: auth.collect() }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("workers", &self.workers)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

const _: () = assert!(FIRST_END > 3);
