//! The counters as JSON. `docs/status.md` describes the schema. New members may be added; any other change of it needs a new
//! schema number.
#![forbid(unsafe_code)]

use std::fmt::Display;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::base::memory::Text;
use crate::lessons::View;
use crate::metrics::{
    Count, HandoverCount, Hint, Http2Gauge, Phase, QueueCount, Row, ServerCounters, ServerView, Snapshot,
};

use super::{buckets, in_seconds, lesson_of, Learned};

/// The number of the schema.
const SCHEMA: u32 = 1;

/// Writes the counters upstream by upstream and server by server.
pub struct JsonWriter {
    snapshot: Snapshot,
    learned: &'static Learned,
    time: f64,
    at: At,
}

/// What is written next.
enum At {
    Head,
    Upstream(usize),
    /// The number of an upstream, its rows, and the number of the next row.
    Peers(usize, Vec<Row>, usize),
    Auth(usize),
    End,
}

impl JsonWriter {
    pub(super) fn new(snapshot: Snapshot, learned: &'static Learned, time: f64) -> Self {
        Self { snapshot, learned, time, at: At::Head }
    }

    /// See [`super::Writer::write`].
    pub(super) fn write(&mut self, to: &mut Text) -> bool {
        self.at = match std::mem::replace(&mut self.at, At::End) {
            At::Head => {
                to.push(b"{\"schema\":");
                value(to, &SCHEMA);
                to.push(b",\"timestamp\":");
                value(to, &self.time);
                to.push(b",\"workers\":");
                value(to, &self.snapshot.workers());
                to.push(b",\"upstreams\":{");
                At::Upstream(0)
            }
            At::Upstream(number) if number < self.snapshot.plan().upstreams.len() => {
                self.upstream(to, number)
            }
            At::Upstream(_) => {
                to.push(b"},\"auth\":{");
                At::Auth(0)
            }
            At::Peers(number, rows, next) => match rows.get(next) {
                Some(row) => {
                    comma(to, next);
                    value(to, &self.peer(number, next, row));
                    At::Peers(number, rows, next + 1)
                }
                None => {
                    to.push(b"]}");
                    At::Upstream(number + 1)
                }
            },
            At::Auth(number) => match self.snapshot.plan().auth.get(number) {
                Some(uri) => {
                    comma(to, number);
                    value(to, uri);
                    to.push(b":");
                    value(to, &AuthJson(&self.snapshot, number));
                    At::Auth(number + 1)
                }
                None => {
                    to.push(b"}}\n");
                    At::End
                }
            },
            At::End => return false,
        };
        true
    }

    fn peer<'a>(&'a self, upstream: usize, number: usize, row: &'a Row) -> PeerJson<'a> {
        let server = self.snapshot.server(upstream, row);
        let learned = lesson_of(server, &self.snapshot.plan().upstreams[upstream], self.learned);
        PeerJson { number, server, learned, counters: &row.counters }
    }

    /// Writes an upstream up to its servers. Returns what is written next.
    fn upstream(&self, to: &mut Text, number: usize) -> At {
        let Some(rows) = self.snapshot.rows(number) else {
            to.give_up();
            return At::End;
        };
        let mut sum = ServerCounters::default();
        rows.iter().for_each(|row| sum.add(&row.counters));
        comma(to, number);
        value(to, &self.snapshot.plan().upstreams[number].name);
        to.push(b":");
        value(to, &UpstreamJson { snapshot: &self.snapshot, number, sum });
        // The servers follow in the same object.
        to.pop();
        to.push(b",\"peers\":[");
        At::Peers(number, rows, 0)
    }
}

fn comma(to: &mut Text, before: usize) {
    if before > 0 {
        to.push(b",");
    }
}

fn value(to: &mut Text, value: &impl Serialize) {
    // This cannot fail: `Text` returns no errors, and all keys are strings.
    let _ = serde_json::to_writer(to, value);
}

struct UpstreamJson<'a> {
    snapshot: &'a Snapshot,
    number: usize,
    sum: ServerCounters,
}

impl Serialize for UpstreamJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let plan = &self.snapshot.plan().upstreams[self.number];
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("keepalive", &self.sum.phase(Phase::Idle))?;
        map.serialize_entry("limit", &plan.limit)?;
        map.serialize_entry("per_server", &plan.per_server)?;
        map.serialize_entry("zone", &plan.zone)?;
        numbers(&mut map, &self.sum)?;
        map.serialize_entry("hint", &self.snapshot.hint(self.number).map(HintJson))?;
        map.serialize_entry("handover", &HandoverJson(self))?;
        if plan.http2 {
            map.serialize_entry("http2", &Http2Json(self))?;
        }
        if let Some(max_size) = plan.queue {
            let (snapshot, number) = (self.snapshot, self.number);
            map.serialize_entry("queue", &QueueJson { snapshot, number, max_size })?;
        }
        map.end()
    }
}

struct PeerJson<'a> {
    number: usize,
    server: Option<ServerView<'a>>,
    learned: View,
    counters: &'a ServerCounters,
}

impl Serialize for PeerJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("id", &self.number)?;
        if let Some(server) = self.server {
            map.serialize_entry("server", server.text)?;
            map.serialize_entry("name", server.name)?;
            map.serialize_entry("backup", &server.backup)?;
            map.serialize_entry("down", &server.down)?;
            map.serialize_entry("max_conns", &server.max_conns)?;
        }
        map.serialize_entry("learned", &LearnedJson(self.learned))?;
        map.serialize_entry("idle", &self.counters.phase(Phase::Idle))?;
        numbers(&mut map, self.counters)?;
        map.end()
    }
}

struct LearnedJson(View);

impl Serialize for LearnedJson {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let View { age, requests } = self.0;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("idle_timeout", &age.map(|(lowest, _)| in_seconds(lowest)))?;
        map.serialize_entry("idle_timeout_closes", &age.map(|(_, closes)| closes))?;
        map.serialize_entry("requests", &requests.map(|(number, _)| number))?;
        map.serialize_entry("requests_closes", &requests.map(|(_, closes)| closes))?;
        map.end()
    }
}

/// The members that an upstream and a server have in common.
fn numbers<M: SerializeMap>(map: &mut M, numbers: &ServerCounters) -> Result<(), M::Error> {
    map.serialize_entry("active", &numbers.phase(Phase::Active))?;
    map.serialize_entry("draining", &numbers.phase(Phase::Draining))?;
    map.serialize_entry("requests", &numbers.requests())?;
    map.serialize_entry("opened", &numbers.count(Count::Opened))?;
    map.serialize_entry("reused", &numbers.count(Count::Reused))?;
    map.serialize_entry("given", &numbers.count(Count::Given))?;
    map.serialize_entry("taken", &numbers.count(Count::Taken))?;
    map.serialize_entry("stale", &numbers.count(Count::Stale))?;
    map.serialize_entry("repeats", &numbers.count(Count::Repeats))?;
    map.serialize_entry("closed", &Map(|| numbers.closed()))?;
    map.serialize_entry("not_stored", &Map(|| numbers.not_stored()))
}

struct HintJson(Hint);

impl Serialize for HintJson {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Hint { cause, requests, reused } = self.0;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("cause", cause.name())?;
        map.serialize_entry("text", cause.text())?;
        map.serialize_entry("requests", &requests)?;
        map.serialize_entry("reused", &reused)?;
        map.end()
    }
}

struct HandoverJson<'a>(&'a UpstreamJson<'a>);

impl Serialize for HandoverJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let handover = self.0.snapshot.handover(self.0.number);
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("in_transit", &handover.in_transit(&self.0.sum))?;
        map.serialize_entry("asked", &handover.count(HandoverCount::Asked))?;
        map.serialize_entry("answered", &handover.count(HandoverCount::Answered))?;
        map.serialize_entry("dropped", &Map(|| handover.dropped()))?;
        map.end()
    }
}

struct Http2Json<'a>(&'a UpstreamJson<'a>);

impl Serialize for Http2Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let http2 = self.0.snapshot.http2(self.0.number);
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("carriers", &http2.gauge(Http2Gauge::Carriers))?;
        map.serialize_entry("streams", &http2.gauge(Http2Gauge::Streams))?;
        for (name, number) in http2.counts() {
            map.serialize_entry(name, &number)?;
        }
        map.end()
    }
}

struct QueueJson<'a> {
    snapshot: &'a Snapshot,
    number: usize,
    max_size: usize,
}

impl Serialize for QueueJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (count, times) = self.snapshot.queue(self.number);
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("size", &count(QueueCount::Size))?;
        map.serialize_entry("max_size", &self.max_size)?;
        map.serialize_entry("requests", &count(QueueCount::Requests))?;
        map.serialize_entry("overflows", &count(QueueCount::Overflows))?;
        map.serialize_entry("timeouts", &count(QueueCount::Timeouts))?;
        map.serialize_entry("wait", &Times(times))?;
        map.end()
    }
}

struct AuthJson<'a>(&'a Snapshot, usize);

impl Serialize for AuthJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (decisions, times) = self.0.auth(self.1);
        let mut map = to.serialize_map(None)?;
        for (name, number) in decisions {
            map.serialize_entry(name, &number)?;
        }
        map.serialize_entry("time", &Times(times))?;
        map.end()
    }
}

struct Times(crate::metrics::Histogram);

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("buckets", &Map(|| buckets(&self.0)))?;
        map.serialize_entry("count", &self.0.count)?;
        map.serialize_entry("sum", &in_seconds(self.0.sum))?;
        map.end()
    }
}

/// An object with the keys and values that a function returns.
struct Map<F>(F);

impl<K: Display, V: Serialize, I: Iterator<Item = (K, V)>, F: Fn() -> I> Serialize for Map<F> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0().map(|(key, value)| (Shown(key), value)))
    }
}

/// A value that is written as a string, as it is displayed.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}
