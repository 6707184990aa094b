//! What has to hold in the end.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use crate::ask::Outcome;
use crate::classes::CLASSES;
use crate::memory::{Trend, Watched};
use crate::numbers::{Counted, Served, Status};
use crate::rest::Rest;
use crate::tally::{Excuse, Tally};
use crate::trouble::Series;
use crate::Soak;

/// Servers whose idle connections are ended at any moment: a request that comes at that moment over a new one is lost too.
const UNSTEADY: [&str; 2] = ["dying", "refusing"];

/// Its servers are killed.
const MORTAL: &str = "mortal";

const DECISIONS: [&str; 5] = ["allowed", "denied", "failed", "timed_out", "failed_open"];

#[derive(Default)]
pub struct Proof {
    /// What was shown, a line each.
    shown: Vec<String>,
    problems: Vec<String>,
    /// How often the front was asked for its numbers.
    pub front_asked: i64,
}

impl Proof {
    pub fn problems(&mut self, what: impl IntoIterator<Item = String>) {
        for what in what {
            println!("        problem: {what}");
            self.problems.push(what);
        }
    }

    pub fn check(&mut self, holds: bool, what: String) {
        if holds {
            self.shown.push(what);
        } else {
            self.problems([what]);
        }
    }

    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }

    /// Connections and requests as the module has counted them, and as the servers have.
    pub fn counters(
        &mut self,
        soak: &Soak,
        part: &str,
        before: &Rest,
        after: &Rest,
        tally: &Tally,
        kills: u64,
    ) {
        // Whatever a killed worker was about to do may be counted on one side only.
        let in_flight = (kills * soak.options.clients) as i64;
        let (mut exact, mut connections, mut requests, mut differ) = (0, 0, 0, Vec::new());
        for (upstream, server) in after.status.servers() {
            let counted =
                after.status.of_server(&upstream, &server).since(before.status.of_server(&upstream, &server));
            let served = served_since(soak, before, after, &server);
            if upstream == MORTAL {
                // What they have counted died with them.
                self.check(
                    counted.agrees(),
                    format!(
                        "{part}: {upstream} {server}: {} requests over {} connections",
                        counted.requests, counted.opened
                    ),
                );
                continue;
            }
            let Some(served) = served else {
                self.problems([format!("{part}: nobody knows server {server} of {upstream}")]);
                continue;
            };
            let difference = (counted.opened - served.accepted, counted.requests - served.requests);
            let mut lost = lost(&upstream, &counted);
            lost.1 += after.status.unseen(&upstream) - before.status.unseen(&upstream);
            let slack = in_flight;
            let holds = (-slack..=lost.0 + slack).contains(&difference.0)
                && (-slack..=lost.1 + slack).contains(&difference.1)
                && counted.agrees();
            if !holds {
                self.problems([format!("{part}: {upstream} {server}: {counted:?}, the server {served:?}")]);
            }
            (connections, requests) = (connections + counted.opened, requests + counted.requests);
            if difference == (0, 0) {
                exact += 1;
            } else {
                differ.push(format!("{upstream} by {} and {}", difference.0, difference.1));
            }
        }
        let servers = after.status.servers().len();
        self.shown.push(format!(
            "{part}: {requests} requests over {connections} connections; {exact} of {servers} servers have counted the same"
        ));
        if !differ.is_empty() {
            self.shown.push(format!(
                "{part}: within bounds, connections and requests that were lost: {}",
                differ.join(", ")
            ));
        }
        self.handover(part, before, after, kills);
        let waits = |status: &Status| status.sum("nginx_upstream_queue_requests_total", &[]);
        self.shown.push(format!(
            "{part}: {} requests waited in queues",
            waits(&after.status) - waits(&before.status)
        ));
        if kills == 0 {
            self.decisions(part, before, after, tally);
        }
    }

    /// Each connection that was given was taken, or dropped for a reason, or lost with a killed worker that had it in hand.
    fn handover(&mut self, part: &str, before: &Rest, after: &Rest, kills: u64) {
        let since = |name: &str| {
            let name = format!("nginx_upstream_keepalive_{name}_total");
            after.status.sum(&name, &[]) - before.status.sum(&name, &[])
        };
        let (given, taken, dropped) = (since("given"), since("taken"), since("dropped"));
        let lost = given - taken - dropped;
        if !(-(kills as i64)..=kills as i64).contains(&lost) {
            self.problems([format!("{part}: {given} connections given, {taken} taken, {dropped} dropped")]);
        }
        self.shown.push(format!(
            "{part}: {given} connections changed workers, {dropped} of them were dropped, {lost} lost with a worker"
        ));
    }

    /// What `auth_subrequest` has decided and what queues have refused, and what clients were told.
    fn decisions(&mut self, part: &str, before: &Rest, after: &Rest, tally: &Tally) {
        let since = |name: &str, labels: &[(&str, &str)]| {
            after.status.sum(name, labels) - before.status.sum(name, labels)
        };
        let decisions = DECISIONS.map(|outcome| {
            (
                outcome,
                since("nginx_auth_subrequest_decisions_total", &[("outcome", outcome)]),
                tally.decided(outcome) as i64,
            )
        });
        let told: Vec<_> =
            decisions.iter().map(|(outcome, counted, _)| format!("{outcome} {counted}")).collect();
        let wrong: Vec<_> = decisions
            .iter()
            .filter(|(_, counted, seen)| counted != seen)
            .map(|(outcome, counted, seen)| format!("{outcome} {counted}, the clients saw {seen}"))
            .collect();
        self.check(
            wrong.is_empty(),
            match wrong.is_empty() {
                true => format!("{part}: decisions are those that the clients saw: {}", told.join(", ")),
                false => format!("{part}: decisions: {}", wrong.join("; ")),
            },
        );

        let short = [("upstream", "short")];
        let refused = since("nginx_upstream_queue_overflows_total", &short)
            + since("nginx_upstream_queue_timeouts_total", &short);
        let class =
            CLASSES.iter().position(|class| class.name == "queue full").expect("there is such a class");
        let seen = tally.of(class, Outcome::Status(503)) as i64;
        self.check(
            refused == seen,
            format!("{part}: the queue has refused {refused}, the clients saw {seen}"),
        );
    }

    /// What was lost with killed workers is bounded by the clients that they had.
    pub fn lost(&mut self, soak: &Soak, part: &str, tally: &Tally, kills: u64) {
        let lost = tally.excused(Excuse::Killed) + tally.excused(Excuse::KilledUnknown);
        let most = kills * soak.options.clients;
        self.check(
            lost <= most,
            format!("{part}: {lost} requests were lost with {kills} killed workers (at most {most}: one for each client)"),
        );
    }

    /// A killed server fails the requests that it has received, at most one for each client.
    pub fn lost_with_servers(&mut self, soak: &Soak, part: &str, tally: &Tally, deaths: u64) {
        let failures = |class| {
            [Outcome::Status(502), Outcome::Cut(200)]
                .iter()
                .map(|outcome| tally.of(class, *outcome))
                .sum::<u64>()
        };
        let mortal = CLASSES.iter().enumerate().filter(|(_, class)| class.name.starts_with(MORTAL));
        let lost: u64 = mortal.map(|(number, _)| failures(number)).sum();
        let most = deaths * soak.options.clients;
        self.check(
            lost <= most,
            format!("{part}: {lost} requests failed with {deaths} killed servers (at most {most}: one for each client)"),
        );
    }

    /// No server has received a request that another one has received, if it cannot be repeated.
    pub fn journal(&mut self, soak: &Soak) -> io::Result<()> {
        let text = fs::read_to_string(&soak.options.journal)?;
        let mut seen = BTreeSet::new();
        let again: Vec<_> = text.lines().filter(|name| !seen.insert(*name)).collect();
        self.check(
            again.is_empty() && !seen.is_empty(),
            format!(
                "servers of HTTP/2 have received {} posts, and {} of them twice: {}",
                seen.len(),
                again.len(),
                again.iter().take(10).copied().collect::<Vec<_>>().join(", ")
            ),
        );
        Ok(())
    }

    /// Memory of workers that live on.
    pub fn same_workers(&mut self, watched: &Watched) {
        let Some(first) = watched.workers.first() else { return };
        for pid in first.iter().map(|worker| worker.pid) {
            let own: Vec<_> = watched
                .workers
                .iter()
                .filter_map(|workers| workers.iter().find(|worker| worker.pid == pid))
                .map(|worker| worker.memory.own)
                .collect();
            self.trend(
                &format!("memory of worker {pid} in the second and in the last third of its life"),
                Trend::of(&own),
            );
        }
    }

    /// Memory of the master, and of one generation of workers after the other. The master's heap takes some fifteen reloads to
    /// find its size.
    pub fn memory(&mut self, series: &Series) {
        let own = |processes: &[crate::processes::Process]| -> Vec<u64> {
            processes.iter().map(|process| process.memory.own).collect()
        };
        self.trend(
            "memory of the master before reloads, in the second and in the last third of the time",
            Trend::of(&own(&series.master)),
        );
        self.trend(
            "memory of workers at the end of their lives, in the second and in the last third of the time",
            Trend::of(&own(&series.workers)),
        );
    }

    fn trend(&mut self, what: &str, trend: Option<Trend>) {
        match trend {
            Some(trend) => self.check(trend.is_flat(), format!("{what}: {trend}")),
            None => self.shown.push(format!("{what}: too short a time to tell")),
        }
    }

    /// Descriptors and shared memory, each time at rest.
    pub fn rests(&mut self, rests: &[Rest]) {
        let broken: i64 =
            rests.last().map_or(0, |rest| rest.served.iter().map(|served| served.violations.max(0)).sum());
        self.check(broken == 0, format!("servers have seen {broken} violations of HTTP/2"));
        let of = |what: fn(&Rest) -> Vec<usize>| -> BTreeSet<usize> { rests.iter().flat_map(what).collect() };
        // A worker's first stream opens a socket that stays.
        for (what, numbers, slack) in [
            ("descriptors of the master", of(|rest| vec![rest.master.descriptors]), 0),
            (
                "descriptors of the workers",
                of(|rest| rest.workers.iter().map(|worker| worker.descriptors).collect()),
                1,
            ),
            ("shared mappings of the master", of(|rest| vec![rest.master.shared]), 0),
            (
                "shared mappings of the workers",
                of(|rest| rest.workers.iter().map(|worker| worker.shared).collect()),
                0,
            ),
        ] {
            let list: Vec<_> = numbers.iter().map(|number| number.to_string()).collect();
            let is_same =
                numbers.first().zip(numbers.last()).is_some_and(|(least, most)| most - least <= slack);
            self.check(is_same, format!("{what}, {} times at rest: {}", rests.len(), list.join(", ")));
        }
    }

    /// Nothing worse than `error`, but what was done on purpose.
    pub fn error_log(&mut self, soak: &Soak) -> io::Result<()> {
        let log = String::from_utf8_lossy(&fs::read(&soak.options.error_log)?).into_owned();
        let mut killed = 0;
        let mut bad = Vec::new();
        for line in log
            .lines()
            .filter(|line| ["[alert]", "[crit]", "[emerg]"].iter().any(|level| line.contains(level)))
        {
            let pid = line
                .split_once(" worker process ")
                .and_then(|(_, rest)| rest.strip_suffix(" exited on signal 9"))
                .and_then(|pid| pid.parse().ok());
            match pid {
                Some(pid) if soak.diary().was_killed(pid) => killed += 1,
                _ => bad.push(line.to_string()),
            }
        }
        let kills = soak.diary().kills();
        self.check(killed == kills, format!("the error log has {killed} killed workers of {kills}"));
        let lines = log.lines().count();
        self.check(
            bad.is_empty(),
            format!(
                "the error log has {lines} lines, and {} alerts beside: {}",
                bad.len(),
                bad.iter().take(10).cloned().collect::<Vec<_>>().join("\n            ")
            ),
        );
        Ok(())
    }

    /// No answer that was not allowed.
    pub fn answers(&mut self, all: &Tally) {
        self.check(
            all.unexplained == 0,
            format!("{} unexplained answers in {} requests", all.unexplained, all.requests()),
        );
        self.problems(all.too_often());
    }

    pub fn print(&self, soak: &Soak, all: &Tally) {
        println!("\n{}", all.table());
        let diary = soak.diary();
        println!(
            "{} reloads, {} killed workers, {} times all idle connections of a server ended, {} times a server refused, {} killed servers, {} times a server said goodbye",
            diary.reloads, diary.kills(), diary.drops, diary.refusals, diary.deaths, diary.goodbyes
        );
        println!(
            "{} times an old worker had closed the connection of a client before a request came over it\n",
            all.excused(Excuse::Quitting)
        );
        for line in &self.shown {
            println!("ok      {line}");
        }
        for line in self.problems.iter().chain(all.told()) {
            println!("NOT OK  {line}");
        }
    }
}

/// How many connections and requests the module may have counted that the server does not know of.
fn lost(upstream: &str, counted: &Counted) -> (i64, i64) {
    let unsteady = if UNSTEADY.contains(&upstream) { counted.failed } else { 0 };
    // A connection that the server has not accepted when it closes its listening socket is one that failed.
    let unaccepted = if upstream == "refusing" { counted.failed } else { 0 };
    (counted.unconnected + unaccepted, counted.unconnected + counted.stale + unsteady)
}

fn served_since(soak: &Soak, before: &Rest, after: &Rest, server: &str) -> Option<Served> {
    let of = |rest: &Rest| rest.served.iter().find(|served| served.address == server).cloned();
    let (before_that, mut since) = (of(before)?, of(after)?);
    since.accepted -= before_that.accepted;
    since.requests -= before_that.requests;
    if soak.options.front.iter().any(|front| front == server) {
        let asked = after.front_asked - before.front_asked;
        since.accepted -= asked;
        since.requests -= asked;
    }
    Some(since)
}
