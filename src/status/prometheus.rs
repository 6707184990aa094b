//! The numbers in Prometheus' text exposition format 0.0.4: all of one name together.

use std::io::Write;

use crate::metrics::{Count, Histogram, Numbers, OfQueue, Phase, View, LEFT, PHASES};

use super::{buckets, seconds};

/// Writes the numbers family by family and upstream by upstream.
pub struct Writer {
    view: View,
    /// The servers of the upstreams met so far, as all families are to tell of one moment: their labels and numbers.
    servers: Vec<Vec<(String, Numbers)>>,
    family: usize,
    /// The next upstream, or URI, of the family.
    next: usize,
}

/// Numbers of one name.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    of: Of,
}

enum Of {
    Workers,
    Limit,
    Phases,
    Server(fn(&Numbers) -> u64),
    Closed,
    NotStored,
    Queue(OfQueue),
    QueueLimit,
    QueueTimes,
    Decisions,
    AuthTimes,
}

impl Of {
    fn is_about_servers(&self) -> bool {
        matches!(self, Self::Phases | Self::Server(_) | Self::Closed | Self::NotStored)
    }
}

const fn family(name: &'static str, kind: &'static str, help: &'static str, of: Of) -> Family {
    Family { name, kind, help, of }
}

const FAMILIES: [Family; 18] = [
    family("nginx_upstream_keepalive_workers", "gauge", "Worker processes that are alive.", Of::Workers),
    family(
        "nginx_upstream_keepalive_limit",
        "gauge",
        "Idle connections that each worker may keep.",
        Of::Limit,
    ),
    family("nginx_upstream_keepalive_connections", "gauge", "Connections, by what they do.", Of::Phases),
    family(
        "nginx_upstream_keepalive_requests_total",
        "counter",
        "Requests that got a connection.",
        Of::Server(Numbers::requests),
    ),
    family(
        "nginx_upstream_keepalive_opened_total",
        "counter",
        "Connections opened for a request.",
        Of::Server(|numbers| numbers.count(Count::Opened)),
    ),
    family(
        "nginx_upstream_keepalive_reused_total",
        "counter",
        "Requests that got a connection from the pool.",
        Of::Server(|numbers| numbers.count(Count::Reused)),
    ),
    family(
        "nginx_upstream_keepalive_stale_total",
        "counter",
        "Connections from the pool that failed before the first byte of a response.",
        Of::Server(|numbers| numbers.count(Count::Stale)),
    ),
    family(
        "nginx_upstream_keepalive_repeats_total",
        "counter",
        "Requests sent again over a new connection because the first one was stale.",
        Of::Server(|numbers| numbers.count(Count::Repeats)),
    ),
    family(
        "nginx_upstream_keepalive_closed_total",
        "counter",
        "Connections that were kept, or could have been, by why they ended.",
        Of::Closed,
    ),
    family(
        "nginx_upstream_keepalive_not_stored_total",
        "counter",
        "Connections that could not be kept, by why not.",
        Of::NotStored,
    ),
    family("nginx_upstream_queue_size", "gauge", "Requests that wait.", Of::Queue(OfQueue::Size)),
    family("nginx_upstream_queue_limit", "gauge", "Requests that may wait in each worker.", Of::QueueLimit),
    family(
        "nginx_upstream_queue_requests_total",
        "counter",
        "Requests that have come to wait.",
        Of::Queue(OfQueue::Requests),
    ),
    family(
        "nginx_upstream_queue_overflows_total",
        "counter",
        "Requests for which the queue was full.",
        Of::Queue(OfQueue::Overflows),
    ),
    family(
        "nginx_upstream_queue_timeouts_total",
        "counter",
        "Requests that have waited for too long.",
        Of::Queue(OfQueue::Timeouts),
    ),
    family(
        "nginx_upstream_queue_wait_seconds",
        "histogram",
        "How long requests have waited.",
        Of::QueueTimes,
    ),
    family(
        "nginx_auth_subrequest_decisions_total",
        "counter",
        "Requests, by what was decided about them.",
        Of::Decisions,
    ),
    family(
        "nginx_auth_subrequest_duration_seconds",
        "histogram",
        "How long decisions have taken.",
        Of::AuthTimes,
    ),
];

impl Writer {
    pub(super) fn new(view: View) -> Self {
        Self { view, servers: Vec::new(), family: 0, next: 0 }
    }

    pub(super) fn write(&mut self, to: &mut Vec<u8>) -> bool {
        let Some(family) = FAMILIES.get(self.family) else { return false };
        let plan = self.view.plan();
        let number = match family.of {
            Of::Workers => 1,
            Of::Decisions | Of::AuthTimes => plan.auth.len(),
            _ => plan.upstreams.len(),
        };
        if self.next == 0 {
            head(to, family);
        }
        if self.next < number {
            if family.of.is_about_servers() && self.next == self.servers.len() {
                self.servers.push(self.read_servers());
            }
            self.samples(to, family);
            self.next += 1;
        } else {
            (self.family, self.next) = (self.family + 1, 0);
        }
        true
    }

    /// The samples of a family that are about one upstream, or URI.
    fn samples(&self, to: &mut Vec<u8>, Family { name, of, .. }: &Family) {
        let (view, next) = (&self.view, self.next);
        match of {
            Of::Workers => sample(to, name, "", &[], view.workers() as u64),
            Of::Limit => {
                let upstream = &view.plan().upstreams[next];
                let servers = if upstream.per_server { upstream.servers.len().max(1) } else { 1 };
                self.of_upstream(to, name, (upstream.limit * servers) as u64);
            }
            Of::Phases => self.of_servers(to, |to, labels, numbers| {
                for (state, phase) in PHASES.into_iter().zip([Phase::Idle, Phase::Active, Phase::Draining]) {
                    sample(to, name, labels, &[("state", state)], numbers.phase(phase));
                }
            }),
            Of::Server(number) => {
                self.of_servers(to, |to, labels, numbers| sample(to, name, labels, &[], number(numbers)));
            }
            Of::Closed => self.of_servers(to, |to, labels, it| reasons(to, name, labels, it.closed())),
            Of::NotStored => self.of_servers(to, |to, labels, it| reasons(to, name, labels, it.not_stored())),
            Of::Queue(_) | Of::QueueLimit | Of::QueueTimes if view.plan().upstreams[next].queue.is_none() => {
            }
            Of::Queue(what) => self.of_upstream(to, name, view.queue(next).0(*what)),
            Of::QueueLimit => {
                self.of_upstream(to, name, view.plan().upstreams[next].queue.unwrap_or(0) as u64);
            }
            Of::QueueTimes => histogram(to, name, &self.upstream_label(), &view.queue(next).1),
            Of::Decisions => {
                let label = label("uri", &view.plan().auth[next]);
                for (outcome, number) in view.auth(next).0 {
                    sample(to, name, &label, &[("outcome", outcome)], number);
                }
            }
            Of::AuthTimes => {
                histogram(to, name, &label("uri", &view.plan().auth[next]), &view.auth(next).1);
            }
        }
    }

    fn of_upstream(&self, to: &mut Vec<u8>, name: &str, value: u64) {
        sample(to, name, &self.upstream_label(), &[], value);
    }

    fn of_servers(&self, to: &mut Vec<u8>, each: impl Fn(&mut Vec<u8>, &str, &Numbers)) {
        for (labels, numbers) in self.servers.get(self.next).into_iter().flatten() {
            each(to, labels, numbers);
        }
    }

    fn read_servers(&self) -> Vec<(String, Numbers)> {
        let upstream = self.upstream_label();
        let rows = self.view.rows(self.next).into_iter();
        rows.filter_map(|row| {
            // Of what is gone Prometheus remembers what it has been told.
            let server = self.view.server(self.next, &row).filter(|server| server.text != LEFT)?;
            let labels = format!("{upstream},{}", label("server", &server.text));
            Some((labels, row.numbers))
        })
        .collect()
    }

    fn upstream_label(&self) -> String {
        label("upstream", &self.view.plan().upstreams[self.next].name)
    }
}

fn head(to: &mut Vec<u8>, Family { name, kind, help, .. }: &Family) {
    // Memory can be written.
    let _ = write!(to, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// A line; `labels` are written as they have to be, `more` are words.
fn sample(to: &mut Vec<u8>, name: &str, labels: &str, more: &[(&str, &str)], value: u64) {
    to.extend_from_slice(name.as_bytes());
    if !labels.is_empty() {
        to.push(b'{');
        to.extend_from_slice(labels.as_bytes());
        for (name, value) in more {
            for part in [",", name, "=\"", value, "\""] {
                to.extend_from_slice(part.as_bytes());
            }
        }
        to.push(b'}');
    }
    let _ = writeln!(to, " {value}");
}

/// Those that have occurred: most never do, and there are many for each server.
fn reasons(to: &mut Vec<u8>, name: &str, labels: &str, all: impl Iterator<Item = (&'static str, u64)>) {
    for (reason, number) in all.filter(|(_, number)| *number > 0) {
        sample(to, name, labels, &[("reason", reason)], number);
    }
}

fn histogram(to: &mut Vec<u8>, name: &str, labels: &str, times: &Histogram) {
    for (bound, number) in buckets(times) {
        sample(to, &format!("{name}_bucket"), labels, &[("le", &bound)], number);
    }
    let _ = writeln!(to, "{name}_sum{{{labels}}} {}", seconds(times.sum));
    sample(to, &format!("{name}_count"), labels, &[], times.count);
}

/// A label, with what has a meaning in its value escaped.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}
