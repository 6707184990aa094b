//! Tests of each rule of the counters.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::*;

const A: &[u8] = b"server a, 16 b..";
const B: &[u8] = b"server b, 16 b..";
const C: &[u8] = b"another";

/// No process is alive.
const GONE: fn(u64) -> bool = |_| false;

fn server(address: &[u8]) -> ServerInfo {
    ServerInfo {
        address: address.to_vec(),
        text: String::from_utf8_lossy(address).into(),
        ..ServerInfo::default()
    }
}

fn upstream(name: &str, servers: &[&[u8]], changing: bool) -> UpstreamInfo {
    let servers = servers.iter().map(|address| server(address)).collect();
    UpstreamInfo { name: name.into(), servers, changing, queue: Some(1), ..UpstreamInfo::default() }
}

fn generation(
    upstreams: Vec<UpstreamInfo>,
    workers: usize,
    last: Option<&Arc<Generation>>,
    alive: &[u64],
) -> Arc<Generation> {
    let mut plan = Plan::new(upstreams, vec!["/auth".into()]);
    plan.room = 2;
    let words: Vec<AtomicU64> = (0..plan.memory_for_two_each(workers)).map(|_| AtomicU64::new(0)).collect();
    let is_alive = |process| alive.contains(&process);
    Arc::new(
        Generation::new(plan, workers, words.leak(), Box::new(()), last.map(Arc::as_ref), is_alive).unwrap(),
    )
}

/// The numbers of opened, idle and timed-out connections of each server.
fn seen(generation: &Arc<Generation>, upstream: usize, alive: &[u64]) -> Vec<(String, u64, u64, u64)> {
    let alive = alive.to_vec();
    let snapshot = generation
        .snapshot(move |process| alive.contains(&process), &|_, address| Some(server(address)))
        .unwrap();
    let row = |row: Row| {
        let timeouts = row.counters.closed().find(|(name, _)| *name == "timeout").unwrap().1;
        let text = snapshot.server(upstream, &row).unwrap().text.to_owned();
        (text, row.counters.count(Count::Opened), row.counters.phase(Phase::Idle), timeouts)
    };
    snapshot.rows(upstream).unwrap().into_iter().map(row).collect()
}

/// Counts a connection that was opened and used, and is idle.
fn keep(meter: Meter) {
    meter.open();
    meter.pass(Phase::Active, Phase::Idle);
}

fn text(address: &[u8]) -> String {
    String::from_utf8_lossy(address).into()
}

#[test]
fn adds_up_what_each_worker_has_counted() {
    let it = generation(vec![upstream("u", &[A, B], false), upstream("v", &[A], false)], 2, None, &[]);
    let workers = [it.enter(0, 10, GONE).unwrap(), it.enter(1, 11, GONE).unwrap()];
    assert_eq!(it.enter(2, 12, GONE).err(), Some(Refused::NoMemory));
    keep(workers[0].upstreams[0].meter(A).unwrap());
    keep(workers[1].upstreams[0].meter(A).unwrap());
    keep(workers[1].upstreams[0].meter(B).unwrap());
    workers[1].upstreams[0].meter(B).unwrap().end(Phase::Idle, End::Timeout);
    keep(workers[1].upstreams[1].meter(A).unwrap());
    assert_eq!(seen(&it, 0, &[10, 11]), [(text(A), 2, 2, 0), (text(B), 1, 0, 1)]);
    assert_eq!(seen(&it, 1, &[10, 11]), [(text(A), 1, 1, 0)]);
}

#[test]
fn a_connection_is_in_one_phase_or_has_one_end() {
    let it = generation(vec![upstream("u", &[A], false)], 1, None, &[]);
    let meter = it.enter(0, 10, GONE).unwrap().upstreams[0].meter(A).unwrap();
    for end in 0..5 {
        meter.open();
        if end > 0 {
            meter.pass(Phase::Active, Phase::Draining);
        }
        if end > 1 {
            meter.pass(Phase::Draining, Phase::Idle);
        }
        if end > 2 {
            meter.reuse();
        }
    }
    meter.end(Phase::Draining, End::DrainLimit);
    meter.end(Phase::Active, End::Protocol);
    let numbers = &it.snapshot(|_| true, &|_, it| Some(server(it))).unwrap().rows(0).unwrap()[0].counters;
    let phases = [Phase::Idle, Phase::Active, Phase::Draining].map(|phase| numbers.phase(phase));
    assert_eq!(phases, [1, 2, 0]);
    let ends = |ends: Vec<(&'static str, u64)>| ends.into_iter().filter(|end| end.1 > 0).collect::<Vec<_>>();
    assert_eq!(ends(numbers.closed().collect()), [("drain_limit", 1)]);
    assert_eq!(ends(numbers.not_stored().collect()), [("protocol", 1)]);
    assert_eq!((numbers.count(Count::Opened), numbers.requests()), (5, 7));
}

/// The sum of all rows of the first upstream, and its handover.
fn handed_over(generation: &Arc<Generation>, alive: &'static [u64]) -> (ServerCounters, Handover) {
    let is_alive = |process| alive.contains(&process);
    let snapshot = generation.snapshot(is_alive, &|_, address| Some(server(address))).unwrap();
    let mut sum = ServerCounters::default();
    for row in snapshot.rows(0).unwrap() {
        let it = &row.counters;
        let ends = it.closed().chain(it.not_stored()).map(|(_, number)| number).sum::<u64>();
        let phases = [Phase::Idle, Phase::Active, Phase::Draining].map(|phase| it.phase(phase));
        let held = it.count(Count::Opened) + it.count(Count::Taken) - it.count(Count::Given);
        assert_eq!(held, phases.iter().sum::<u64>() + ends);
        sum.add(it);
    }
    (sum, snapshot.handover(0))
}

#[test]
fn a_connection_that_is_handed_over_is_neither_closed_nor_opened() {
    let it = generation(vec![upstream("u", &[A], true)], 2, None, &[]);
    let workers = [it.enter(0, 10, GONE).unwrap(), it.enter(1, 11, GONE).unwrap()];
    let [from, to] = [&workers[0].upstreams[0], &workers[1].upstreams[0]];
    for address in [A, A, A, B, B] {
        keep(from.meter(address).unwrap());
        from.meter(address).unwrap().give();
    }
    let (sum, handover) = handed_over(&it, &[10, 11]);
    assert_eq!((sum.count(Count::Given), sum.count(Count::Taken), sum.phase(Phase::Idle)), (5, 0, 0));
    assert_eq!(handover.in_transit(&sum), 5);
    [A, A, B].into_iter().for_each(|address| to.meter(address).unwrap().take());
    to.handover().unwrap().drop(Dropped::Limit);
    to.meter(A).unwrap().reuse();
    to.meter(A).unwrap().end(Phase::Active, End::Failed);
    let (sum, handover) = handed_over(&it, &[10, 11]);
    assert_eq!((sum.count(Count::Opened), sum.requests()), (5, 6));
    assert_eq!((sum.count(Count::Given), sum.count(Count::Taken), sum.phase(Phase::Idle)), (5, 3, 2));
    assert_eq!(handover.in_transit(&sum), 1);
    // What was handed over to a worker ends with it; what was on its way to it does not arrive.
    let (sum, handover) = handed_over(&it, &[10]);
    assert_eq!((sum.phase(Phase::Idle), sum.closed().map(|end| end.1).sum::<u64>()), (0, 2));
    assert_eq!(handover.in_transit(&sum), 1);
    // Readers may see that a connection has arrived before they see that it was given.
    to.handover().unwrap().drop(Dropped::Expired);
    to.handover().unwrap().drop(Dropped::Expired);
    let (sum, handover) = handed_over(&it, &[10, 11]);
    assert_eq!(handover.in_transit(&sum), 0);
}

#[test]
fn counts_of_the_handover_survive_workers_and_reloads() {
    let first = generation(vec![upstream("gone", &[A], false), upstream("u", &[A, B], false)], 2, None, &[]);
    for process in 0..2 {
        let counters = &first.enter(process, 10 + process as u64, GONE).unwrap().upstreams[1];
        let handover = counters.handover().unwrap();
        handover.ask();
        handover.ask();
        handover.answer();
        handover.drop(Dropped::Disabled);
        handover.drop(Dropped::Invalid);
        keep(counters.meter(B).unwrap());
        counters.meter(B).unwrap().give();
    }
    // In place of the first one, which was killed.
    first.enter(0, 12, GONE).unwrap().upstreams[1].handover().unwrap().drop(Dropped::Invalid);
    let dropped = |handover: &Handover| handover.dropped().filter(|it| it.1 > 0).collect::<Vec<_>>();
    // B has left the upstream. The old workers run, or have ended.
    for alive in [&[11, 12][..], &[]] {
        let second = generation(vec![upstream("u", &[A], false)], 1, Some(&first), alive);
        let worker = second.enter(0, 20, GONE).unwrap();
        worker.upstreams[0].meter(A).unwrap().take();
        worker.upstreams[0].handover().unwrap().ask();
        let (sum, handover) = handed_over(&second, &[20]);
        assert_eq!((handover.count(HandoverCount::Asked), handover.count(HandoverCount::Answered)), (5, 2));
        assert_eq!(dropped(&handover), [("disabled", 2), ("invalid", 3)]);
        assert_eq!((sum.count(Count::Given), sum.count(Count::Taken)), (2, 1));
    }
}

#[test]
fn tells_which_servers_are_configured() {
    let it = generation(vec![upstream("u", &[A, B], true), upstream("v", &[C], false)], 1, None, &[]);
    let worker = it.enter(0, 10, GONE).unwrap();
    let [first, second] = [&worker.upstreams[0], &worker.upstreams[1]];
    keep(first.meter(C).unwrap());
    assert_eq!([A, B, C, b""].map(|address| first.is_configured(address)), [true, true, false, false]);
    assert_eq!([A, B, C].map(|address| second.is_configured(address)), [false, false, true]);
}

#[test]
fn the_phases_of_a_dead_worker_vanish_but_not_its_counts() {
    let it = generation(vec![upstream("u", &[A], true)], 2, None, &[]);
    let workers = [it.enter(0, 10, GONE).unwrap(), it.enter(1, 11, GONE).unwrap()];
    for worker in &workers {
        keep(worker.upstreams[0].meter(A).unwrap());
        keep(worker.upstreams[0].meter(C).unwrap());
        worker.upstreams[0].queue().unwrap().begin();
    }
    assert_eq!(seen(&it, 0, &[11]), [(text(A), 2, 1, 0), (text(C), 2, 1, 0)]);
    let snapshot = it.snapshot(|process| process == 11, &|_, it| Some(server(it))).unwrap();
    assert_eq!((snapshot.queue(0).0(QueueCount::Size), snapshot.queue(0).0(QueueCount::Requests)), (1, 2));
    // A new process in its place begins with the counts only.
    it.enter(0, 12, GONE).unwrap();
    assert_eq!(seen(&it, 0, &[11, 12]), [(text(A), 2, 1, 0), (text(C), 2, 1, 0)]);
    assert_eq!(it.snapshot(|_| true, &|_, it| Some(server(it))).unwrap().queue(0).0(QueueCount::Size), 1);
}

/// As when a binary upgrade is taken back while the old workers still finish requests.
#[test]
fn a_process_counts_beside_another_one_that_is_the_same_worker() {
    let it = generation(vec![upstream("u", &[A], true)], 2, None, &[]);
    let first = it.enter(0, 10, GONE).unwrap();
    let second = it.enter(0, 11, |_| true).unwrap();
    assert_eq!(it.enter(0, 12, |_| true).err(), Some(Refused::Taken));
    for worker in [&first, &second] {
        keep(worker.upstreams[0].meter(A).unwrap());
        keep(worker.upstreams[0].meter(C).unwrap());
        worker.upstreams[0].queue().unwrap().begin();
        worker.upstreams[0].handover().unwrap().ask();
        worker.auth[0].decide(Decision::Denied, 3);
    }
    first.upstreams[0].meter(A).unwrap().end(Phase::Idle, End::Timeout);
    let snapshot = |alive: &'static [u64]| {
        it.snapshot(|process| alive.contains(&process), &|_, address| Some(server(address))).unwrap()
    };
    assert_eq!(seen(&it, 0, &[10, 11]), [(text(A), 2, 1, 1), (text(C), 2, 2, 0)]);
    assert_eq!((snapshot(&[10, 11]).workers(), snapshot(&[11]).workers()), (2, 1));
    assert_eq!(snapshot(&[10, 11]).queue(0).0(QueueCount::Size), 2);
    assert_eq!(snapshot(&[11]).queue(0).0(QueueCount::Size), 1);
    assert_eq!(snapshot(&[]).handover(0).count(HandoverCount::Asked), 2);
    assert_eq!(snapshot(&[]).auth(0).0.collect::<Vec<_>>()[1], ("denied", 2));
    // The first one is gone.
    assert_eq!(seen(&it, 0, &[11]), [(text(A), 2, 1, 1), (text(C), 2, 1, 0)]);
    let third = it.enter(0, 13, |process| process == 11).unwrap();
    keep(third.upstreams[0].meter(A).unwrap());
    assert_eq!(seen(&it, 0, &[11, 13]), [(text(A), 3, 2, 1), (text(C), 2, 1, 0)]);
    // After a reload the counts go on, while the second one runs and when it is gone.
    for alive in [&[11][..], &[]] {
        let next = generation(vec![upstream("u", &[A], true)], 1, Some(&it), alive);
        assert_eq!(
            seen(&next, 0, alive),
            [(text(A), 3, alive.len() as u64, 1), (text(C), 2, alive.len() as u64, 0)]
        );
    }
}

#[test]
fn a_second_process_counts_nothing_if_there_is_no_memory_for_it() {
    let plan = Plan::new(vec![upstream("u", &[A], false)], Vec::new());
    let words: Vec<AtomicU64> = (0..plan.memory_for_two_each(3) - 1).map(|_| AtomicU64::new(0)).collect();
    let it = Arc::new(Generation::new(plan, 3, words.leak(), Box::new(()), None, GONE).unwrap());
    keep(it.enter(2, 10, GONE).unwrap().upstreams[0].meter(A).unwrap());
    assert_eq!(it.enter(2, 11, |_| true).err(), Some(Refused::Taken));
    assert_eq!(seen(&it, 0, &[10]), [(text(A), 1, 1, 0)]);
    assert!(it.enter(2, 10, |_| true).is_ok(), "it is the same");
}

#[test]
fn servers_that_come_and_go_get_places_as_long_as_there_are_some() {
    let it = generation(vec![upstream("u", &[A], true)], 1, None, &[]);
    let counters = &it.enter(0, 10, GONE).unwrap().upstreams[0];
    keep(counters.meter(b"x").unwrap());
    keep(counters.meter(b"y").unwrap());
    keep(counters.meter(b"z").unwrap());
    keep(counters.meter(b"x").unwrap());
    let expected = [("x".into(), 2, 2, 0), ("y".into(), 1, 1, 0), ("other".into(), 1, 1, 0)];
    assert_eq!(seen(&it, 0, &[10])[1..], expected);
    // A server that has no connection, and was not looked up for a while, gives up its place. Its counts are not lost.
    counters.meter(b"y").unwrap().end(Phase::Idle, End::Timeout);
    for _ in 0..4 {
        keep(counters.meter(b"new").unwrap());
    }
    let expected = [("x".into(), 2, 2, 0), ("y".into(), 1, 0, 1), ("other".into(), 5, 5, 0)];
    assert_eq!(seen(&it, 0, &[10])[1..], expected);
    keep(counters.meter(b"new").unwrap());
    let expected =
        [("new".into(), 1, 1, 0), ("x".into(), 2, 2, 0), ("other".into(), 5, 5, 0), ("gone".into(), 1, 0, 1)];
    assert_eq!(seen(&it, 0, &[10])[1..], expected);
    keep(counters.meter(&[1; 113]).unwrap());
    assert_eq!(seen(&it, 0, &[10])[3], ("other".into(), 6, 6, 0));
}

#[test]
fn a_worker_that_is_killed_while_a_place_changes_hands_leaves_it_readable() {
    let it = generation(vec![upstream("u", &[A], true)], 1, None, &[]);
    keep(it.enter(0, 10, GONE).unwrap().upstreams[0].meter(b"x").unwrap());
    it.own.column(0)[it.own.spots[0].headers].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let counters = &it.enter(0, 11, GONE).unwrap().upstreams[0];
    assert_eq!(seen(&it, 0, &[11])[1], ("x".into(), 1, 0, 0));
    keep(counters.meter(b"y").unwrap());
    for _ in 0..5 {
        keep(counters.meter(b"z").unwrap());
    }
    assert_eq!(seen(&it, 0, &[11]).iter().map(|row| row.1).sum::<u64>(), 7);
}

#[test]
fn connections_of_a_killed_worker_have_ended() {
    let it = generation(vec![upstream("u", &[A], true)], 1, None, &[]);
    let counters = &it.enter(0, 10, GONE).unwrap().upstreams[0];
    [A, b"x"].into_iter().for_each(|address| keep(counters.meter(address).unwrap()));
    counters.meter(A).unwrap().open();
    let exited = |alive: bool| {
        let rows = it.snapshot(move |_| alive, &|_, it| Some(server(it))).unwrap().rows(0).unwrap();
        let exiting = |row: &Row| row.counters.closed().find(|end| end.0 == "exiting").unwrap().1;
        rows.iter().map(exiting).collect::<Vec<_>>()
    };
    assert_eq!(exited(true), [0, 0]);
    assert_eq!(exited(false), [2, 1]);
    it.enter(0, 11, GONE).unwrap();
    assert_eq!(exited(true), [2, 1]);
}

#[test]
fn a_former_generation_is_given_up_when_nobody_writes_it_any_more() {
    let first = generation(vec![upstream("u", &[A], false)], 1, None, &[]);
    first.enter(0, 10, GONE).unwrap();
    let memory = Arc::downgrade(&first.own);
    let second = generation(vec![upstream("u", &[A], false)], 1, Some(&first), &[10]);
    second.enter(0, 20, GONE).unwrap();
    drop(first);
    assert!(memory.upgrade().is_some());
    let third = generation(vec![upstream("u", &[A], false)], 1, Some(&second), &[20]);
    drop(second);
    assert_eq!(third.past.len(), 1);
    assert!(memory.upgrade().is_none());
}

#[test]
fn unknown_servers_of_a_fixed_upstream_are_others() {
    let it = generation(vec![upstream("u", &[A], false)], 1, None, &[]);
    keep(it.enter(0, 10, GONE).unwrap().upstreams[0].meter(B).unwrap());
    assert_eq!(seen(&it, 0, &[10]), [(text(A), 0, 0, 0), ("other".into(), 1, 1, 0)]);
}

#[test]
fn counts_go_on_after_a_reload_while_old_workers_run_and_when_they_are_gone() {
    let first = generation(vec![upstream("gone", &[A], false), upstream("u", &[A, B], false)], 2, None, &[]);
    let old = [first.enter(0, 10, GONE).unwrap(), first.enter(1, 11, GONE).unwrap()];
    old.iter().for_each(|worker| {
        keep(worker.upstreams[1].meter(A).unwrap());
        keep(worker.upstreams[1].meter(B).unwrap());
        worker.auth[0].decide(Decision::Denied, 3);
        worker.upstreams[1].queue().unwrap().begin();
        worker.upstreams[1].queue().unwrap().end(7);
    });
    // B has left the upstream.
    let second = generation(
        vec![upstream("u", &[C, A], false), upstream("new", &[A], false)],
        1,
        Some(&first),
        &[10, 11],
    );
    let new = second.enter(0, 20, GONE).unwrap();
    keep(new.upstreams[0].meter(A).unwrap());
    // An old worker continues to count.
    old[1].upstreams[1].meter(A).unwrap().end(Phase::Idle, End::Timeout);
    let expected = |idle, others_idle| {
        [(text(C), 0, 0, 0), (text(A), 3, idle, 1), ("gone".to_owned(), 2, others_idle, 0)]
    };
    assert_eq!(seen(&second, 0, &[10, 11, 20]), expected(2, 2));
    assert_eq!(seen(&second, 0, &[20]), expected(1, 0));
    assert_eq!(seen(&second, 1, &[10, 11, 20]), [(text(A), 0, 0, 0)]);
    // At the next reload the old workers are gone, or one of them is not.
    for alive in [&[20][..], &[11, 20], &[]] {
        let third = generation(second.own.plan.upstreams.clone(), 3, Some(&second), alive);
        let alive: Vec<u64> = alive.iter().copied().filter(|process| *process == 20).collect();
        assert_eq!(seen(&third, 0, &alive), expected(u64::from(!alive.is_empty()), 0));
        let snapshot = third.snapshot(|_| false, &|_, it| Some(server(it))).unwrap();
        assert_eq!(snapshot.auth(0).0.collect::<Vec<_>>()[1], ("denied", 2));
        assert_eq!((snapshot.auth(0).1.count, snapshot.auth(0).1.sum), (2, 6));
        let (queue, times) = snapshot.queue(0);
        assert_eq!((queue(QueueCount::Size), queue(QueueCount::Requests)), (0, 2));
        assert_eq!((times.count, times.sum, times.at_most[1], times.at_most[2]), (2, 14, 0, 2));
    }
}

#[test]
fn a_generation_whose_workers_have_not_begun_yet_is_not_given_up() {
    let first = generation(vec![upstream("u", &[A], false)], 1, None, &[]);
    let second = generation(vec![upstream("u", &[A], false)], 1, Some(&first), &[]);
    keep(first.enter(0, 10, GONE).unwrap().upstreams[0].meter(A).unwrap());
    assert_eq!(seen(&second, 0, &[10]), [(text(A), 1, 1, 0)]);
}

#[test]
fn names_stay_different() {
    assert_eq!(readable("a.é:80".as_bytes()).as_deref(), Some("a.é:80"));
    assert_eq!(readable(b"a\xff\xfeb").as_deref(), Some("a\\xff\\xfeb"));
    // A name that looks as if it were escaped.
    assert_eq!(readable(b"a\\xffb\\c\\").as_deref(), Some("a\\x5cxffb\\c\\"));
}

#[test]
fn warns_once_in_all_workers() {
    let it = generation(vec![upstream("u", &[A], false), upstream("v", &[A], false)], 2, None, &[]);
    assert!(it.warns(0, 1) && it.warns(0, 2) && it.warns(1, 1));
    assert!(!it.warns(0, 1) && !it.warns(1, 1));
}

#[test]
fn memory_is_as_large_as_said_and_more_of_it_is_room() {
    let mut plan = Plan::new(vec![upstream("u", &[A], true)], Vec::new());
    let needed = plan.size(4);
    assert_eq!(plan.use_all(needed - 1, 4), Err(needed));
    let room = plan.room;
    assert_eq!(plan.use_all(2 * needed, 4), Ok(()));
    assert!(plan.room > room && plan.size(4) <= 2 * needed);
    let mut fixed = Plan::new(vec![upstream("u", &[A], false)], Vec::new());
    assert_eq!(fixed.use_all(1 << 20, 4), Ok(()));
    let words: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
    assert!(Generation::new(fixed, 1, words.leak(), Box::new(()), None, |_| true).is_none());
}
