//! What `keepalive_status` answers: the numbers of [`crate::metrics`] as a page, as JSON, or for Prometheus.
#![forbid(unsafe_code)]

mod accept;
mod json;
mod prometheus;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Formatter};

use crate::base::memory::Text;
use crate::metrics::Snapshot;
use json::JsonWriter;
use prometheus::PrometheusWriter;

pub use accept::choose;

/// In which form the numbers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A page for people; it fetches the numbers as JSON.
    Html,
    /// JSON (RFC 8259).
    Json,
    /// Prometheus' text exposition format 0.0.4.
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

/// The page: it needs nothing but itself and the numbers.
const PAGE: &str = include_str!("page.html");

/// A response that is written piece by piece, so that it needs little memory and keeps nobody waiting.
pub enum Writer {
    /// Of the page, whether it is written.
    Html(bool),
    /// See [`Format::Json`].
    Json(JsonWriter),
    /// See [`Format::Prometheus`].
    Prometheus(PrometheusWriter),
}

impl Writer {
    /// Writes the numbers in a format; `time` is the present one, in seconds since 1970.
    pub fn new(format: Format, snapshot: Snapshot, time: f64) -> Self {
        match format {
            Format::Html => Self::Html(false),
            Format::Json => Self::Json(JsonWriter::new(snapshot, time)),
            Format::Prometheus => Self::Prometheus(PrometheusWriter::new(snapshot)),
        }
    }

    /// Appends the next piece; `false` if there was none left. Without memory it leaves it out, and what follows.
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

/// The bounds of a histogram and the numbers up to them, in seconds as they are written.
fn buckets(times: &crate::metrics::Histogram) -> impl Iterator<Item = (BucketBound, u64)> + '_ {
    let bounds = crate::metrics::BOUNDS.iter().map(|bound| BucketBound::UpTo(Seconds(*bound)));
    bounds.zip(times.at_most).chain([(BucketBound::Any, times.count)])
}

/// The bound of a bucket.
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

/// Milliseconds, shown as seconds without needless zeros.
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
