//! What has become of the last connections of an upstream.
//!
//! ```text
//!   in each worker:    .. | the window before | this window |     a window ends with its 64th event, or a later one if there
//!                                             ^             ^     are many servers: its end looks at each of them
//!                                        the base      counters now
//! ```
//!
//! An event is a connection that has ended before a second request, or that was opened although others were idle; [`Cause`] says
//! why. How many connections were opened and reused in a window is the difference of counters that exist anyway. So a pool that
//! works pays nothing, and one that has been mended is known as such after few requests.
//!
//! A reader may see a part before a window has ended, and the rest after it. What it sees then lies between the two.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use crate::base::atomic::AtomicU64;

use super::generation::Memory;
use super::hint::{Cause, Hint, CAUSES};
use super::plan::{Spot, LATELY};
use super::rows::{word, Rows};
use super::Count;

/// Two cache lines.
pub(super) const LATELY_CELLS: usize = 16;

// The cells: the counters at the base; those of the window before; the events of each cause in this window, and in the one before, 16
// bits each.
const BASE: usize = 0;
const BEFORE: usize = 2;
const EVENTS: usize = 4;
const EVENTS_BEFORE: usize = 8;

/// The least and the most events after which a window ends.
const WINDOW: u64 = 64;
const MAX_WINDOW: u64 = 1 << 15;
/// A window ends after one event for so many rows of the upstream in all workers. So an event costs the same with any number of servers.
const ROWS: u64 = 8;
/// A worker looks for a hint so often in a window.
const LOOKS: u64 = 4;
/// The least events that make a hint.
const ENOUGH: u64 = WINDOW / LOOKS;

/// The causes whose events are in one cell.
const IN_CELL: usize = 4;
const BITS: usize = 64 / IN_CELL;
const _: () = assert!(CAUSES.len() == IN_CELL * (EVENTS_BEFORE - EVENTS));
const _: () = assert!(EVENTS_BEFORE + CAUSES.len() / IN_CELL <= LATELY_CELLS && MAX_WINDOW < 1 << BITS);

/// What has become of the last connections of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lately {
    /// Connections opened.
    pub(super) opened: u64,
    /// Requests that got a connection from the pool which was open.
    pub(super) reused: u64,
    /// The events, by their causes.
    pub(super) counts: [u64; CAUSES.len()],
}

impl Lately {
    /// How many events had the cause.
    pub(super) fn count(&self, cause: Cause) -> u64 {
        self.counts[cause as usize]
    }
}

/// Notes an event in the column of a worker, which is its only writer. Returns whether it is time to look for a hint. There are so
/// many workers.
pub(super) fn note(column: &[AtomicU64], rows: Rows, spot: &Spot, workers: usize, cause: Cause) -> bool {
    let Some(cells) = column.get(spot.cells + LATELY..).and_then(|cells| cells.first_chunk()) else {
        return false;
    };
    let cells: &[AtomicU64; LATELY_CELLS] = cells;
    let cell = &cells[EVENTS + cause as usize / IN_CELL];
    cell.store(cell.load(Relaxed).wrapping_add(1 << place(cause as usize)), Relaxed);
    let number: u64 = events(cells, EVENTS).iter().sum();
    let all_rows = (spot.number_of_rows() * workers) as u64;
    let window = (all_rows / ROWS).clamp(WINDOW, MAX_WINDOW);
    if number >= window {
        end_window(cells, sums(rows, spot));
    }
    number % (window / LOOKS) == 0
}

/// This window becomes the one before.
fn end_window(cells: &[AtomicU64; LATELY_CELLS], now: [u64; 2]) {
    for (nth, now) in now.into_iter().enumerate() {
        let base = cells[BASE + nth].swap(now, Relaxed);
        cells[BEFORE + nth].store(now.wrapping_sub(base), Relaxed);
    }
    for nth in 0..EVENTS_BEFORE - EVENTS {
        let number = cells[EVENTS + nth].swap(0, Relaxed);
        cells[EVENTS_BEFORE + nth].store(number, Relaxed);
    }
}

/// The hint for an upstream, from the last connections of all workers of a configuration. Those of former ones say nothing about it.
pub(super) fn hint(memory: &Memory, upstream: usize) -> Option<Hint> {
    let spot = memory.spots.get(upstream)?;
    // With carriers, a connection is no measure.
    if memory.plan.upstreams.get(upstream)?.http2 {
        return None;
    }
    let mut lately = Lately::default();
    let of = |column: usize| memory.column(column).get(spot.cells + LATELY..)?.first_chunk();
    for column in memory.entered() {
        let cells: &[AtomicU64; LATELY_CELLS] = of(column)?;
        for first in [EVENTS, EVENTS_BEFORE] {
            lately.counts.iter_mut().zip(events(cells, first)).for_each(|(to, number)| *to += number);
        }
    }
    // Most pools work: then their servers are not looked at.
    if lately.counts.iter().sum::<u64>() < ENOUGH {
        return None;
    }
    for column in memory.entered() {
        let cells: &[AtomicU64; LATELY_CELLS] = of(column)?;
        let [opened, reused] = sums(memory.rows(column), spot);
        let of_both = |nth: usize, now: u64| {
            let of_this = now.saturating_sub(cells[BASE + nth].load(Relaxed));
            of_this.saturating_add(cells[BEFORE + nth].load(Relaxed))
        };
        lately.opened = lately.opened.saturating_add(of_both(0, opened));
        lately.reused = lately.reused.saturating_add(of_both(1, reused));
    }
    Hint::of(&lately)
}

/// How many connections a worker has opened, and reused with success, to all servers of an upstream.
fn sums(rows: Rows, spot: &Spot) -> [u64; 2] {
    let servers = spot.rows().filter_map(|row| rows.read(row));
    servers.fold([0, 0], |[opened, reused], row| {
        let number = |count: Count| row[word(count as usize)].load(Relaxed);
        let of_use = number(Count::Reused).saturating_sub(number(Count::Stale));
        [opened.wrapping_add(number(Count::Opened)), reused.wrapping_add(of_use)]
    })
}

fn place(cause: usize) -> usize {
    cause % IN_CELL * BITS
}

/// The events by their causes, in the cells from `first` on.
fn events(cells: &[AtomicU64; LATELY_CELLS], first: usize) -> [u64; CAUSES.len()] {
    std::array::from_fn(|cause| {
        (cells[first + cause / IN_CELL].load(Relaxed) >> place(cause)) & ((1 << BITS) - 1)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Generation, Meter, Phase, Plan, ServerInfo, UpstreamInfo, Worker};
    use super::*;

    fn generation(last: Option<&Generation>) -> Arc<Generation> {
        let server = |number: u8| ServerInfo { address: vec![number], ..ServerInfo::default() };
        let upstream = |name: &str| UpstreamInfo {
            name: name.into(),
            servers: [server(1), server(2)].into_iter().collect(),
            is_wanted: true,
            ..UpstreamInfo::default()
        };
        let plan = Plan::new(vec![upstream("a"), upstream("b")], Vec::new());
        let words: Vec<AtomicU64> = (0..plan.memory_for_two_each(2)).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Generation::new(plan, 2, words.leak(), Box::new(()), last, |_| true).unwrap())
    }

    fn hint_of(it: &Arc<Generation>, upstream: usize) -> Option<Hint> {
        it.snapshot(|_| true, &|_, _| None).unwrap().hint(upstream)
    }

    fn meter(worker: &Worker, server: u8) -> Meter {
        worker.upstreams[0].meter(&[server]).unwrap()
    }

    /// So many connections are opened and end after one request. Returns the hints that are to be logged.
    fn in_vain(worker: &Worker, number: usize, cause: Cause, now: u64) -> Vec<Cause> {
        let end = |nth: usize| {
            meter(worker, 1 + (nth % 2) as u8).open();
            worker.upstreams[0].note(cause, now).map(|hint| hint.cause)
        };
        (0..number).filter_map(end).collect()
    }

    fn reuse(worker: &Worker, number: usize) {
        (0..number).for_each(|_| meter(worker, 1).reuse());
    }

    #[test]
    fn two_workers_are_enough_together_and_one_tells() {
        let it = generation(None);
        let [one, two] = [10, 11].map(|process| it.enter(process - 10, process as u64, |_| true).unwrap());
        assert_eq!(in_vain(&one, 32, Cause::ServerClose, 0), []);
        assert_eq!(hint_of(&it, 0), None);
        assert_eq!(in_vain(&two, 18, Cause::ServerClose, 0), []);
        assert_eq!(hint_of(&it, 0), Some(Hint { cause: Cause::ServerClose, requests: 50, reused: 0 }));
        assert_eq!(hint_of(&it, 1), None);
        assert_eq!(in_vain(&two, 14, Cause::ServerClose, 0), [Cause::ServerClose]);
        // In one configuration it is told once, by one of the workers.
        assert_eq!(in_vain(&one, 1000, Cause::ServerClose, 0), []);
        assert_eq!(in_vain(&two, 1000, Cause::ServerClose, 0), []);
        // There is something else.
        assert_eq!(in_vain(&one, 300, Cause::RequestClose, 0), []);
        assert_eq!(in_vain(&two, 300, Cause::RequestClose, 0), [Cause::RequestClose]);
    }

    #[test]
    fn a_connection_that_turned_out_to_be_closed_was_of_no_use() {
        let it = generation(None);
        let one = it.enter(0, 10, |_| true).unwrap();
        for _ in 0..50 {
            in_vain(&one, 1, Cause::ServerCloses, 0);
            reuse(&one, 1);
            meter(&one, 1).count(Count::Stale);
        }
        assert_eq!(hint_of(&it, 0), Some(Hint { cause: Cause::ServerCloses, requests: 50, reused: 0 }));
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let it = generation(None);
        let one = it.enter(0, 10, |_| true).unwrap();
        reuse(&one, 1_000_000);
        // Something is wrong from now on.
        in_vain(&one, 63, Cause::ServerClose, 0);
        assert_eq!(hint_of(&it, 0), None);
        in_vain(&one, 2 * 64, Cause::ServerClose, 0);
        let Some(Hint { cause: Cause::ServerClose, requests, reused: 0 }) = hint_of(&it, 0) else { panic!() };
        assert!((64..=128).contains(&requests));
        in_vain(&one, 1_000_000, Cause::ServerClose, 0);
        assert!(hint_of(&it, 0).unwrap().requests <= 128);
        // It is mended.
        reuse(&one, 7);
        assert_eq!(hint_of(&it, 0), None);
    }

    #[test]
    fn the_connections_of_another_worker_count() {
        let it = generation(None);
        let [one, two] = [10, 11].map(|process| it.enter(process - 10, process as u64, |_| true).unwrap());
        reuse(&two, 100);
        assert_eq!(in_vain(&one, 1000, Cause::ServerClose, 0), []);
        assert_eq!(hint_of(&it, 0), None);
    }

    #[test]
    fn a_configuration_begins_anew_and_tells_at_most_four_times_an_hour() {
        let mut last = generation(None);
        let told = |it: &Arc<Generation>, now| {
            let worker = it.enter(0, 10, |_| true).unwrap();
            assert_eq!(hint_of(it, 0), None);
            in_vain(&worker, 64, Cause::ServerClose, now).len()
        };
        assert_eq!(told(&last, 5_000), 1);
        for (minute, expected) in [(1, 1), (2, 1), (3, 1), (4, 0), (59, 0), (61, 1), (62, 1), (300, 1)] {
            last = generation(Some(&last));
            assert_eq!(told(&last, 5_000 + minute * 60_000), expected, "after {minute} minutes");
        }
    }

    #[test]
    fn nobody_is_told_of_a_pool_that_nobody_wanted() {
        let upstream = UpstreamInfo { name: "a".into(), ..UpstreamInfo::default() };
        let plan = Plan::new(vec![upstream], Vec::new());
        let words: Vec<AtomicU64> = (0..plan.memory(1)).map(|_| AtomicU64::new(0)).collect();
        let it = Arc::new(Generation::new(plan, 1, words.leak(), Box::new(()), None, |_| true).unwrap());
        let worker = it.enter(0, 10, |_| true).unwrap();
        assert_eq!(in_vain(&worker, 100, Cause::FastcgiClose, 0), []);
        assert_eq!(hint_of(&it, 0).map(|hint| hint.cause), Some(Cause::FastcgiClose));
    }

    #[test]
    fn many_servers_are_looked_at_rarely() {
        let servers = |many: usize| {
            (0..many).map(|nth| ServerInfo { address: nth.to_be_bytes().to_vec(), ..ServerInfo::default() })
        };
        for (many, expected) in [(10, 64), (6_000, 187), (600_000, 8_192)] {
            let upstream = UpstreamInfo {
                name: "a".into(),
                servers: servers(many).collect(),
                is_wanted: true,
                ..UpstreamInfo::default()
            };
            let plan = Plan::new(vec![upstream], Vec::new());
            let words: Vec<AtomicU64> = (0..plan.memory(4)).map(|_| AtomicU64::new(0)).collect();
            let it = Arc::new(Generation::new(plan, 4, words.leak(), Box::new(()), None, |_| true).unwrap());
            let worker = it.enter(0, 10, |_| true).unwrap();
            let server = worker.upstreams[0].meter(&0usize.to_be_bytes()).unwrap();
            let mut events = 1u64..;
            // A hint needs 50 requests.
            let told = events.find(|_| {
                server.open();
                worker.upstreams[0].note(Cause::ServerClose, 0).is_some()
            });
            let told = told.unwrap();
            assert_eq!(told, expected, "{many} servers");
        }
    }

    #[test]
    fn a_successor_of_a_worker_goes_on() {
        let it = generation(None);
        in_vain(&it.enter(0, 10, |_| true).unwrap(), 40, Cause::Identity, 0);
        let next = it.enter(0, 11, |_| false).unwrap();
        meter(&next, 1).pass(Phase::Active, Phase::Idle);
        in_vain(&next, 10, Cause::Identity, 0);
        assert_eq!(hint_of(&it, 0), Some(Hint { cause: Cause::Identity, requests: 50, reused: 0 }));
    }
}
