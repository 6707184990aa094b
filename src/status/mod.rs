//! The response of `keepalive_status`: the counters of [`crate::metrics`], and what was learned of the servers, as a page, as
//! JSON, or for Prometheus.
#![forbid(unsafe_code)]

mod accept;
mod families;
mod json;
mod prometheus;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Formatter};

use crate::base::memory::Text;
use crate::lessons::View;
use crate::metrics::{ServerView, Snapshot, UpstreamInfo};
use json::JsonWriter;
use prometheus::PrometheusWriter;

pub use accept::choose;

/// The format of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A web page, which fetches the counters as JSON.
    Html,
    /// JSON (RFC 8259).
    Json,
    /// The text exposition format of Prometheus, version 0.0.4.
    Prometheus,
}

impl Format {
    /// The media type, with its parameters.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The response of a client that accepts none of the formats.
pub const FORMATS: &str = "keepalive_status has the formats html, json and prometheus: ask for one with ?format=html, \
                           ?format=json or ?format=prometheus, or with the header Accept: text/html, application/json or \
                           text/plain\n";

/// The page. It loads nothing but the counters.
const PAGE: &str = include_str!("page.html");

/// A response that is written piece by piece, so that it needs little memory and does not block the worker.
pub enum Writer {
    /// The page, and whether it is written.
    Html(bool),
    /// See [`Format::Json`].
    Json(JsonWriter),
    /// See [`Format::Prometheus`].
    Prometheus(PrometheusWriter),
}

impl Writer {
    /// Writes `snapshot` in a format, with what was `learned`. `time` is the current time, in seconds since 1970.
    pub fn new(format: Format, snapshot: Snapshot, learned: &'static Learned, time: f64) -> Self {
        match format {
            Format::Html => Self::Html(false),
            Format::Json => Self::Json(JsonWriter::new(snapshot, learned, time)),
            Format::Prometheus => Self::Prometheus(PrometheusWriter::new(snapshot, learned)),
        }
    }

    /// Appends the next piece. `false` if there was none left. If there is no memory, the piece and all later ones are left
    /// out; see [`Text::is_whole`].
    pub fn write(&mut self, to: &mut Text) -> bool {
        match self {
            Self::Html(true) => false,
            Self::Html(written) => {
                to.push(PAGE.as_bytes());
                *written = true;
                true
            }
            Self::Json(writer) => writer.write(to),
            Self::Prometheus(writer) => writer.write(to),
        }
    }
}

/// Tells what was learned of the server at an address.
pub type Learned = dyn Fn(&[u8]) -> View;

/// What was learned of a server of an upstream. Nothing if the upstream does not keep to it, or for a sum of several servers.
fn lesson_of(server: Option<ServerView<'_>>, upstream: &UpstreamInfo, learned: &Learned) -> View {
    match server {
        Some(server) if upstream.learns && !server.address.is_empty() => learned(server.address),
        _ => View::default(),
    }
}

/// Milliseconds as seconds.
fn in_seconds(time: impl Into<u64>) -> f64 {
    time.into() as f64 / 1000.0
}

/// The buckets of a histogram: the upper bounds, displayed in seconds, and the cumulative numbers.
fn buckets(times: &crate::metrics::Histogram) -> impl Iterator<Item = (BucketBound, u64)> + '_ {
    let bounds = crate::metrics::BOUNDS.iter().map(|bound| BucketBound::UpTo(Seconds(*bound)));
    bounds.zip(times.at_most).chain([(BucketBound::Any, times.count)])
}

/// The upper bound of a bucket.
enum BucketBound {
    UpTo(Seconds),
    Any,
}

impl Display for BucketBound {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpTo(seconds) => seconds.fmt(f),
            Self::Any => f.write_str("+Inf"),
        }
    }
}

/// Milliseconds, displayed as seconds without trailing zeros.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (seconds, rest) = (self.0 / 1000, self.0 % 1000);
        match (rest % 10, rest % 100, rest) {
            (_, _, 0) => write!(f, "{seconds}"),
            (_, 0, _) => write!(f, "{seconds}.{}", rest / 100),
            (0, _, _) => write!(f, "{seconds}.{:02}", rest / 10),
            _ => write!(f, "{seconds}.{rest:03}"),
        }
    }
}
