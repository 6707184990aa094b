//! The counters in the text exposition format 0.0.4 of Prometheus. All samples of a family are written together.
#![forbid(unsafe_code)]

use std::fmt::{self, Display, Formatter, Write};

use crate::base::memory::{owned, push, Text};
use crate::lessons::View;
use crate::metrics::{Histogram, Phase, ServerCounters, Snapshot, GONE_LABEL, PHASES};

use super::families::{Family, Source, FAMILIES};
use super::{buckets, lesson_of, Learned, Seconds};

/// Writes the counters family by family and upstream by upstream.
pub struct PrometheusWriter {
    snapshot: Snapshot,
    learned: &'static Learned,
    /// The servers of the upstreams written so far. They are read once, so that all families have the counters of the same
    /// moment.
    servers: Vec<Servers>,
    family: usize,
    /// The next upstream, or URI, of the family.
    next: usize,
}

/// The servers of an upstream.
struct Servers {
    shown: Vec<Server>,
    /// Connections that are handed over and have not arrived yet.
    in_transit: u64,
}

struct Server {
    name: String,
    counters: ServerCounters,
    learned: View,
}

impl PrometheusWriter {
    pub(super) fn new(snapshot: Snapshot, learned: &'static Learned) -> Self {
        Self { snapshot, learned, servers: Vec::new(), family: 0, next: 0 }
    }

    /// See [`super::Writer::write`].
    pub(super) fn write(&mut self, to: &mut Text) -> bool {
        let Some(family) = FAMILIES.get(self.family) else { return false };
        let plan = self.snapshot.plan();
        let number = match family.source {
            Source::Workers => 1,
            Source::Decisions | Source::AuthTimes => plan.auth.len(),
            _ => plan.upstreams.len(),
        };
        if self.next == 0 {
            head(to, family);
        }
        if self.next < number {
            let is_new = family.source.is_about_servers() && self.next == self.servers.len();
            if is_new && self.read_servers().and_then(|servers| push(&mut self.servers, servers)).is_none() {
                to.give_up();
                return false;
            }
            self.samples(to, family);
            self.next += 1;
        } else {
            (self.family, self.next) = (self.family + 1, 0);
        }
        true
    }

    /// Writes the samples of a family that are about the next upstream, or URI.
    fn samples(&self, to: &mut Text, Family { name, source, .. }: &Family) {
        let (snapshot, next) = (&self.snapshot, self.next);
        match source {
            Source::Workers => sample(to, name, Labels::None, &[], snapshot.workers() as u64),
            Source::Hint => {
                if let Some(hint) = snapshot.hint(next) {
                    sample(to, name, self.upstream_label(), &[("cause", &hint.cause.name())], 1);
                }
            }
            Source::Limit => {
                let upstream = &snapshot.plan().upstreams[next];
                let servers = if upstream.per_server { upstream.servers.len().max(1) } else { 1 };
                self.of_upstream(to, name, (upstream.limit * servers) as u64);
            }
            Source::Phases => self.of_servers(to, |to, labels, server| {
                for (state, phase) in PHASES.into_iter().zip([Phase::Idle, Phase::Active, Phase::Draining]) {
                    sample(to, name, labels, &[("state", &state)], server.counters.phase(phase));
                }
            }),
            Source::Server(number) => {
                self.of_servers(to, |to, labels, it| sample(to, name, labels, &[], number(&it.counters)));
            }
            Source::Closed => {
                self.of_servers(to, |to, labels, it| reasons(to, name, labels, it.counters.closed()))
            }
            Source::NotStored => {
                self.of_servers(to, |to, labels, it| reasons(to, name, labels, it.counters.not_stored()))
            }
            Source::Learned(value) => self.of_servers(to, |to, labels, it| {
                if let Some(value) = value(&it.learned) {
                    sample(to, name, labels, &[], value);
                }
            }),
            Source::InTransit => {
                let in_transit = self.servers.get(next).map_or(0, |servers| servers.in_transit);
                self.of_upstream(to, name, in_transit);
            }
            Source::Handover(what) => self.of_upstream(to, name, snapshot.handover(next).count(*what)),
            Source::Dropped => {
                for (reason, number) in snapshot.handover(next).dropped() {
                    sample(to, name, self.upstream_label(), &[("reason", &reason)], number);
                }
            }
            Source::Http2Gauge(_) | Source::Http2(_) if !snapshot.plan().upstreams[next].http2 => {}
            Source::Http2Gauge(what) => self.of_upstream(to, name, snapshot.http2(next).gauge(*what)),
            Source::Http2(what) => self.of_upstream(to, name, snapshot.http2(next).count(*what)),
            Source::Queue(_) | Source::QueueLimit | Source::QueueTimes
                if snapshot.plan().upstreams[next].queue.is_none() => {}
            Source::Queue(what) => self.of_upstream(to, name, snapshot.queue(next).0(*what)),
            Source::QueueLimit => {
                self.of_upstream(to, name, snapshot.plan().upstreams[next].queue.unwrap_or(0) as u64);
            }
            Source::QueueTimes => histogram(to, name, self.upstream_label(), &snapshot.queue(next).1),
            Source::Decisions => {
                let label = Labels::Uri(&snapshot.plan().auth[next]);
                for (outcome, number) in snapshot.auth(next).0 {
                    sample(to, name, label, &[("outcome", &outcome)], number);
                }
            }
            Source::AuthTimes => {
                histogram(to, name, Labels::Uri(&snapshot.plan().auth[next]), &snapshot.auth(next).1);
            }
        }
    }

    fn of_upstream(&self, to: &mut Text, name: &str, value: u64) {
        sample(to, name, self.upstream_label(), &[], value);
    }

    fn of_servers(&self, to: &mut Text, each: impl Fn(&mut Text, Labels<'_>, &Server)) {
        for server in self.servers.get(self.next).iter().flat_map(|servers| &servers.shown) {
            each(to, Labels::Server(self.upstream_name(), &server.name), server);
        }
    }

    /// `None` if there is no memory.
    fn read_servers(&self) -> Option<Servers> {
        let upstream = &self.snapshot.plan().upstreams[self.next];
        let (mut shown, mut sum) = (Vec::new(), ServerCounters::default());
        for row in self.snapshot.rows(self.next)? {
            sum.add(&row.counters);
            // Prometheus itself remembers servers that are gone.
            if let Some(server) =
                self.snapshot.server(self.next, &row).filter(|server| server.text != GONE_LABEL)
            {
                let learned = lesson_of(Some(server), upstream, self.learned);
                push(&mut shown, Server { name: owned(server.text)?, counters: row.counters, learned })?;
            }
        }
        Some(Servers { shown, in_transit: self.snapshot.handover(self.next).in_transit(&sum) })
    }

    fn upstream_name(&self) -> &str {
        &self.snapshot.plan().upstreams[self.next].name
    }

    fn upstream_label(&self) -> Labels<'_> {
        Labels::Upstream(self.upstream_name())
    }
}

fn head(to: &mut Text, Family { name, kind, help, .. }: &Family) {
    // This cannot fail: `Text` returns no errors.
    let _ = write!(to, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// The labels of a sample.
#[derive(Clone, Copy)]
enum Labels<'a> {
    None,
    Upstream(&'a str),
    /// An upstream, and one of its servers.
    Server(&'a str, &'a str),
    Uri(&'a str),
}

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Upstream(name) => write!(f, "upstream=\"{}\"", Escaped(name)),
            Self::Server(name, server) => {
                write!(f, "upstream=\"{}\",server=\"{}\"", Escaped(name), Escaped(server))
            }
            Self::Uri(uri) => write!(f, "uri=\"{}\"", Escaped(uri)),
        }
    }
}

/// The value of a label, with special characters escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['\\', '"', '\n']) {
            match part.char_indices().next_back() {
                Some((at, last @ ('\\' | '"'))) => write!(f, "{}\\{last}", &part[..at])?,
                Some((at, '\n')) => write!(f, "{}\\n", &part[..at])?,
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Writes a sample. `more` are further labels; their values need no escaping.
fn sample(
    to: &mut Text,
    name: impl Display,
    labels: Labels<'_>,
    more: &[(&str, &dyn Display)],
    value: impl Display,
) {
    // This cannot fail: `Text` returns no errors.
    let _ = write!(to, "{name}");
    if !matches!(labels, Labels::None) {
        let _ = write!(to, "{{{labels}");
        for (name, value) in more {
            let _ = write!(to, ",{name}=\"{value}\"");
        }
        to.push(b"}");
    }
    let _ = writeln!(to, " {value}");
}

/// Writes the reasons that have occurred. Most never occur, and there are many for each server.
fn reasons(to: &mut Text, name: &str, labels: Labels<'_>, all: impl Iterator<Item = (&'static str, u64)>) {
    for (reason, number) in all.filter(|(_, number)| *number > 0) {
        sample(to, name, labels, &[("reason", &reason)], number);
    }
}

fn histogram(to: &mut Text, name: &str, labels: Labels<'_>, times: &Histogram) {
    for (bound, number) in buckets(times) {
        sample(to, format_args!("{name}_bucket"), labels, &[("le", &bound)], number);
    }
    sample(to, format_args!("{name}_sum"), labels, &[], Seconds(times.sum));
    sample(to, format_args!("{name}_count"), labels, &[], times.count);
}
