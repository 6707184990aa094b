//! What a listener has seen.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one listener; a reset replaces them by new ones, so connections older than it no longer count.
#[derive(Default)]
pub struct Stats {
    accepted: AtomicU64,
    open: AtomicU64,
    max_open: AtomicU64,
    requests: AtomicU64,
    left_over: AtomicU64,
}

impl Stats {
    /// Counts a new connection; returns its serial, the first one being 1.
    pub fn opened(&self) -> u64 {
        let open = self.open.fetch_add(1, Relaxed) + 1;
        self.max_open.fetch_max(open, Relaxed);
        self.accepted.fetch_add(1, Relaxed) + 1
    }

    /// Counts a closed connection and the bytes it had sent that belong to no complete request.
    pub fn closed(&self, left_over: usize) {
        self.open.fetch_sub(1, Relaxed);
        self.left_over.fetch_add(left_over as u64, Relaxed);
    }

    pub fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }
}

/// The members of a JSON object, without its braces.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [accepted, open, max_open, requests, left_over] =
            [&self.accepted, &self.open, &self.max_open, &self.requests, &self.left_over]
                .map(|counter| counter.load(Relaxed));
        write!(
            f,
            r#""accepted":{accepted},"open":{open},"max_open":{max_open},"requests":{requests},"bytes_left_over":{left_over}"#
        )
    }
}
