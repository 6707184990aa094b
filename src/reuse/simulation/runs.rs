//! What the simulation has to show. The bounds are those of what is promised, or have some room to what was measured.
#![forbid(unsafe_code)]

use super::load::Load;
use super::server::{Idle, Number, Phase, Server};
use super::tally::{Compared, Tally};
use super::world::{Happening, Mind, Setup, World};

/// The time of the way to the server, in microseconds: for round trips of 1, 10 and 50 milliseconds.
const WAYS: [u64; 3] = [500, 5000, 25_000];

fn clients(number: usize, around: u64) -> Load {
    Load::Clients { number, least: around / 2, most: around * 3 / 2 }
}

fn far(server: Server, load: Load, end: u64) -> Setup {
    Setup { way: 5000, ..Setup::new(server, load, end) }
}

#[test]
fn a_fixed_limit_is_met_by_no_request_and_costs_hardly_a_connection() {
    let server = Server::new(Idle::At(1000));
    for way in WAYS {
        let loads = [
            (1, 300_000, Load::Clients { number: 1, least: 900, most: 1100 }),
            (4, 60_000, Load::Clients { number: 4, least: 900, most: 1100 }),
            (4, 30_000, Load::Clients { number: 50, least: 900, most: 1100 }),
            (1, 60_000, Load::Together { number: 50, least: 900, most: 1100 }),
        ];
        for (workers, end, load) in loads {
            let setup = Setup { way, workers, ..Setup::new(server.clone(), load, end) };
            let all = Compared::run(&format!("1 s, way {way}, {load:?}"), 10, &setup);
            assert_eq!(all.learns.late_stale, 0);
            assert_eq!(all.learns.lost_posts, 0);
            assert!(all.opened() <= 1.1);
            assert!(all.reuse() >= 0.95);
        }
    }
}

#[test]
fn without_learning_requests_meet_stale_connections() {
    let load = Load::Clients { number: 4, least: 900, most: 1100 };
    let setup = Setup { way: 25_000, workers: 4, ..Setup::new(Server::new(Idle::At(1000)), load, 60_000) };
    let all = Compared::run("1 s, way 25000", 10, &setup);
    assert!(all.hopes.late_stale > 50);
    assert_eq!(all.knows.stale, 0);
}

/// The limits that the log tells between two moments, and how many closes the pool has seen before each; and all closes.
fn told(all: &[(u64, Happening)], from: u64, to: u64) -> (Vec<(u32, usize)>, usize) {
    let mut closes = 0;
    let mut told = Vec::new();
    for (_, what) in all.iter().filter(|(at, _)| (from..to).contains(at)) {
        match what {
            Happening::Closed => closes += 1,
            Happening::Learned(Some(limit)) => told.push((*limit, closes)),
            _ => {}
        }
    }
    (told, closes)
}

#[test]
fn another_limit_after_a_restart_is_learned_within_twenty_closes() {
    const CHANGES: [(u64, u32); 3] = [(0, 1000), (100_000, 5000), (400_000, 500)];
    let at = |change: usize| Idle::At(CHANGES[change].1.into());
    let server = Server::new(at(0)).then(CHANGES[1].0, at(1)).then(CHANGES[2].0, at(2));
    for (number, around) in [(1, 2500), (4, 2500), (10, 3000)] {
        let setup = far(server.clone(), clients(number, around), 500_000);
        let all = Compared::run(&format!("1 s, 5 s, 0.5 s, {number} clients"), 10, &setup);
        assert!(all.reuse() >= 0.95);
        for seed in 0..10 {
            let all = World::run(&setup, Mind::Learns, seed);
            for (from, limit) in CHANGES {
                let near = |told: &&(u32, usize)| told.0.abs_diff(limit) <= limit / 8;
                let to = CHANGES.iter().map(|change| change.0).find(|at| *at > from).unwrap_or(u64::MAX);
                let (told, closes) = told(&all, from, to);
                // If hardly any connection is idle for so long, nothing is there to be learned.
                let learned = told.iter().find(near).map_or(closes, |learned| learned.1);
                assert!(learned <= 20, "{limit}: {told:?}, {closes}");
            }
        }
    }
}

#[test]
fn a_limit_that_is_no_more_is_forgotten() {
    for (number, around) in [(1, 1000), (1, 3000), (10, 3000)] {
        let server = Server::new(Idle::At(1000)).then(100_000, Idle::Never);
        let all = Compared::run("1 s, none", 10, &far(server, clients(number, around), 400_000));
        assert!(all.reuse() >= 0.95);
    }
}

#[test]
fn a_limit_that_differs_each_time_is_learned() {
    let limits = [
        (Idle::Between(1000, 1050), 1000, 0.95),
        (Idle::Between(1000, 1200), 1000, 0.95),
        (Idle::Between(1000, 1500), 1000, 0.93),
        (Idle::Looks(2000), 2000, 0.93),
        (Idle::Looks(5000), 5000, 0.95),
        (Idle::Looks(60_000), 60_000, 0.95),
    ];
    for (idle, around, least) in limits {
        for number in [1, 10] {
            let setup = far(Server::new(idle), clients(number, around), around * 200);
            let setup = Setup { timeout: 100_000, ..setup };
            let all = Compared::run(&format!("{idle:?}, {number} clients"), 10, &setup);
            assert!(all.reuse() >= least);
            assert!(all.learns.changes >= 10 || all.learns.closes < 200);
            // A connection that lives somewhat longer than it must can end at any moment.
            assert!(all.learns.late_stale * 3 <= all.hopes.late_stale + 3);
        }
    }
}

#[test]
fn what_is_no_limit_costs_little() {
    let never = Server::new(Idle::Never);
    let servers = [
        ("none", never.clone(), 0.999),
        ("any age", Server::new(Idle::Any(10_000)), 0.95),
        ("any age to 10 s", Server::new(Idle::Between(1, 10_000)), 0.9),
        ("faults", Server { faults: Some(10_000), ..never.clone() }, 0.97),
        ("short", Server { short: Some(200), ..never.clone() }, 0.8),
        ("short of a few", Server { short: Some(1000), ..never }, 0.97),
    ];
    for (name, server, least) in servers {
        for number in [1, 10] {
            if number == 1 && server.short.is_some() {
                // Hardly any connection lives until it is needed.
                continue;
            }
            let all = Compared::run(name, 10, &far(server.clone(), clients(number, 2000), 300_000));
            // Whoever takes any connection is the one who knows that there is no limit.
            assert!(all.learns.served_again() >= least * all.hopes.served_again());
        }
    }
}

/// From when to when limits were believed.
fn lessons(all: &[(u64, Happening)]) -> Vec<(u64, u64)> {
    let mut lessons: Vec<(u64, u64)> = Vec::new();
    let mut is_open = false;
    for (at, what) in all {
        let Happening::Learned(limit) = what else { continue };
        match lessons.last_mut().filter(|_| is_open) {
            Some(last) => last.1 = *at,
            None => lessons.push((*at, u64::MAX)),
        }
        is_open = limit.is_some();
    }
    lessons
}

// The connections that are closed first may have become idle together. It is at an end when the others follow.
#[test]
fn a_restart_teaches_nothing_that_lasts() {
    for within in [2000, 50_000] {
        for load in [clients(1, 1000), clients(10, 1000), clients(50, 1000), clients(50, 20)] {
            let restart =
                |from| Phase { from, idle: vec![Idle::Never], number: Number::Never, restart: Some(within) };
            let mut server = Server::new(Idle::Never);
            server.phases.extend((1..5).map(|number| restart(number * 10_000)));
            let setup = far(server, load, 50_000);
            let all = Compared::run(&format!("restarts, {load:?}"), 5, &setup);
            assert!(all.reuse() >= 0.97);
            for seed in 0..5 {
                let all = World::run(&setup, Mind::Learns, seed);
                assert!(lessons(&all).iter().all(|lesson| lesson.1 - lesson.0 <= 50), "{:?}", lessons(&all));
            }
        }
    }
}

#[test]
fn a_restart_when_all_became_idle_together_is_corrected_soon() {
    let server = Server::new(Idle::Never).then(40_000, Idle::Never).then(80_000, Idle::Never);
    let load = Load::Together { number: 20, least: 500, most: 1500 };
    let all = Compared::run("restarts, together", 10, &far(server, load, 120_000));
    assert!(all.reuse() >= 0.97);
}

#[test]
fn a_single_fault_does_not_change_a_limit() {
    for number in [1, 10] {
        let server = Server { faults: Some(100_000), ..Server::new(Idle::At(5000)) };
        let all = Compared::run("5 s, faults", 10, &far(server, clients(number, 4000), 400_000));
        assert!(all.reuse() >= 0.93);
    }
}

#[test]
fn processes_with_limits_of_their_own_are_no_worse_than_the_lowest() {
    for (other, least) in [(1300, 0.8), (5000, 0.99)] {
        for number in [1, 10] {
            let mut server = Server::new(Idle::At(1000));
            server.phases[0].idle.push(Idle::At(other));
            let setup = Setup { workers: 2, ..far(server, clients(number, 1000), 200_000) };
            let all = Compared::run(&format!("1 s and {other}"), 10, &setup);
            assert!(all.reuse() >= least);
            assert!(all.learns.stale * 4 <= all.learns.requests / 100 + all.hopes.stale * 3);
        }
    }
}

#[test]
fn a_number_of_requests_is_learned() {
    for (number, stale) in [(10, 0), (100, 0)] {
        for mean in [3, 20] {
            let server = Server::new(Idle::Never).with_number(Number::At(number));
            let setup =
                Setup { workers: 2, ..far(server, Load::Any { mean }, u64::from(number) * mean * 50) };
            let all = Compared::run(&format!("{number} requests"), 10, &setup);
            assert_eq!(all.learns.late_stale, stale);
            assert!(all.reuse() >= 0.99);
            assert!(all.opened() <= 1.1);
        }
    }
}

#[test]
fn another_number_of_requests_is_learned() {
    for (before, after) in [(10, 50), (50, 10), (100, 300)] {
        let mut server = Server::new(Idle::Never).with_number(Number::At(before)).then(20_000, Idle::Never);
        server.phases[1].number = Number::At(after);
        let setup = far(server, Load::Any { mean: 10 }, 60_000);
        let all = Compared::run(&format!("{before}, then {after} requests"), 10, &setup);
        assert!(all.reuse() >= 0.95);
        for seed in 0..10 {
            let all = World::run(&setup, Mind::Learns, seed);
            let (told, _) = told(&all, 20_000, u64::MAX);
            // A connection that the restart closed right behind an answer may have had nearly as many.
            let learned = told.iter().find(|told| told.0 <= after && told.0 >= after - after / 5);
            assert!(learned.is_some_and(|learned| learned.1 <= 20), "{told:?}");
        }
    }
}

#[test]
fn numbers_that_differ_teach_no_wrong_one() {
    let server = Server::new(Idle::Never).with_number(Number::Between(50, 150));
    let all = Compared::run("50 to 150 requests", 10, &far(server, Load::Any { mean: 10 }, 200_000));
    assert!(all.learns.served_again() >= 0.98 * all.hopes.served_again());
}

#[test]
fn of_an_announced_limit_the_true_one_is_learned() {
    let server = Server { announces: Some(5), ..Server::new(Idle::At(1000)) };
    let all = Compared::run("announces 5 s, keeps 1 s", 10, &far(server, clients(4, 1000), 100_000));
    assert_eq!(all.learns.late_stale, 0);
    assert!(all.reuse() >= 0.95);
    let server = Server { announces: Some(1), ..Server::new(Idle::At(1000)) };
    let load = Load::Clients { number: 4, least: 800, most: 1200 };
    let all = Compared::run("announces 1 s", 10, &far(server, load, 100_000));
    assert_eq!(all.learns.stale, 0);
    assert!(all.reuse() >= 0.95);
}

#[test]
fn the_wrap_of_the_clock_changes_nothing() {
    let setup = far(Server::new(Idle::At(1000)), clients(4, 1000), 100_000);
    let run = |clock| World::run(&Setup { clock, ..setup.clone() }, Mind::Learns, 1);
    let tally = |all: &[(u64, Happening)]| format!("{:?}", Tally::between(all, 0, u64::MAX));
    assert_eq!(tally(&run(usize::MAX - 50_000)), tally(&run(1_000_000)));
}
