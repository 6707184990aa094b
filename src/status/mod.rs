//! What `keepalive_status` answers: the numbers of [`crate::metrics`] as a page, as JSON, or for Prometheus.
#![forbid(unsafe_code)]

mod accept;
mod json;
mod prometheus;
#[cfg(test)]
mod tests;

use crate::metrics::View;

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
    Json(json::Writer),
    /// See [`Format::Prometheus`].
    Prometheus(prometheus::Writer),
}

impl Writer {
    /// Writes the numbers in a format; `time` is the present one, in seconds since 1970.
    pub fn new(format: Format, view: View, time: f64) -> Self {
        match format {
            Format::Html => Self::Html(false),
            Format::Json => Self::Json(json::Writer::new(view, time)),
            Format::Prometheus => Self::Prometheus(prometheus::Writer::new(view)),
        }
    }

    /// Appends the next piece; `false` if there was none left.
    pub fn write(&mut self, to: &mut Vec<u8>) -> bool {
        match self {
            Self::Html(true) => false,
            Self::Html(written) => {
                to.extend_from_slice(PAGE.as_bytes());
                *written = true;
                true
            }
            Self::Json(writer) => writer.write(to),
            Self::Prometheus(writer) => writer.write(to),
        }
    }
}

/// The bounds of a histogram and the numbers up to them, in seconds as they are written.
fn buckets(times: &crate::metrics::Histogram) -> impl Iterator<Item = (String, u64)> + '_ {
    let bounds = crate::metrics::BOUNDS.iter().map(|bound| seconds(*bound));
    bounds.zip(times.at_most).chain([("+Inf".to_owned(), times.count)])
}

/// Milliseconds as seconds, without needless zeros.
fn seconds(milliseconds: u64) -> String {
    let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
