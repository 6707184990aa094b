//! The connections of an upstream that carry many requests (`http2`), and the requests on them.
//!
//! A carrier is such a connection, a stream is one request on it (RFC 9113 section 5). Both are gauges; everything else only
//! grows. The connections themselves are also counted by their servers, like all others.
#![forbid(unsafe_code)]

use super::add;
use crate::base::atomic::AtomicU64;

/// What there is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Gauge {
    /// Connections that carry requests, or can.
    Carriers,
    /// Requests on them.
    Streams,
}

const GAUGES: usize = Http2Gauge::Streams as usize + 1;

/// What has happened to carriers and streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Count {
    /// Streams opened.
    Opened = GAUGES as isize,
    /// Streams that the server has provably not processed: REFUSED_STREAM, or above the last one of GOAWAY (RFC 9113 sections
    /// 8.7 and 6.8).
    Refused,
    /// Streams that this worker has reset (RST_STREAM, section 6.4).
    ResetSent,
    /// Streams that the server has reset, those that it refused left out.
    ResetReceived,
    /// GOAWAY frames of servers (section 6.8).
    Goaways,
    /// PING frames sent to see whether a server is alive (section 6.7).
    Pings,
    /// Of these, those that were not answered in time; the carrier was given up.
    PingsLost,
    /// How often a request body had to wait for room in the window of a stream or of the connection (section 5.2).
    Stalls,
    /// Requests that had to wait because all streams were taken.
    Waits,
    /// Requests that were sent again because they were not processed.
    Repeats,
}

/// Names of the counters in [`COUNTS`].
pub const HTTP2_COUNTS: [&str; COUNTS.len()] = [
    "opened",
    "refused",
    "reset_sent",
    "reset_received",
    "goaways",
    "pings",
    "pings_lost",
    "stalls",
    "waits",
    "repeats",
];

/// All counters, in their order.
const COUNTS: [Http2Count; 10] = [
    Http2Count::Opened,
    Http2Count::Refused,
    Http2Count::ResetSent,
    Http2Count::ResetReceived,
    Http2Count::Goaways,
    Http2Count::Pings,
    Http2Count::PingsLost,
    Http2Count::Stalls,
    Http2Count::Waits,
    Http2Count::Repeats,
];

/// Two cache lines.
pub(super) const HTTP2_CELLS: usize = 16;
const _: () = assert!(Http2Count::Repeats as usize + 1 == GAUGES + COUNTS.len());
const _: () = assert!(GAUGES + COUNTS.len() <= HTTP2_CELLS);

/// Whether the cell counts only while its worker is alive.
pub(super) fn is_gauge(cell: usize) -> bool {
    cell < GAUGES
}

/// The counters of the carriers of one upstream in this worker, which is their only writer.
#[derive(Clone, Copy, Debug)]
pub struct Http2Meter(pub(super) &'static [AtomicU64; HTTP2_CELLS]);

impl Http2Meter {
    /// A connection becomes a carrier.
    pub fn carrier_opened(self) {
        add(&self.0[Http2Gauge::Carriers as usize], 1);
    }

    /// A carrier ends.
    pub fn carrier_closed(self) {
        add(&self.0[Http2Gauge::Carriers as usize], u64::MAX);
    }

    /// A request gets a stream.
    #[inline]
    pub fn stream_opened(self) {
        add(&self.0[Http2Gauge::Streams as usize], 1);
        add(&self.0[Http2Count::Opened as usize], 1);
    }

    /// A stream ends, for any reason.
    #[inline]
    pub fn stream_closed(self) {
        add(&self.0[Http2Gauge::Streams as usize], u64::MAX);
    }

    /// Adds to a counter. [`Self::stream_opened`] does so for [`Http2Count::Opened`].
    pub fn add(self, what: Http2Count, number: u64) {
        add(&self.0[what as usize], number);
    }
}

/// The counters of the carriers of one upstream, of all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2(pub(super) [u64; HTTP2_CELLS]);

impl Http2 {
    /// How many there are now.
    pub fn gauge(&self, what: Http2Gauge) -> u64 {
        self.0[what as usize]
    }

    /// The value of a counter.
    pub fn count(&self, what: Http2Count) -> u64 {
        self.0[what as usize]
    }

    /// All counters, by their names.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        HTTP2_COUNTS.into_iter().zip(COUNTS.map(|what| self.count(what)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Generation, Plan, UpstreamInfo};
    use super::*;

    fn generation(last: Option<&Generation>, alive: &[u64]) -> Arc<Generation> {
        let upstream = UpstreamInfo { name: "u".into(), http2: true, ..UpstreamInfo::default() };
        let plan = Plan::new(vec![upstream], Vec::new());
        let words: Vec<AtomicU64> = (0..plan.memory_for_two_each(2)).map(|_| AtomicU64::new(0)).collect();
        let is_alive = |process| alive.contains(&process);
        Arc::new(Generation::new(plan, 2, words.leak(), Box::new(()), last, is_alive).unwrap())
    }

    fn seen(generation: &Arc<Generation>, alive: &'static [u64]) -> Http2 {
        generation.snapshot(|process| alive.contains(&process), &|_, _| None).unwrap().http2(0)
    }

    fn enter(generation: &Generation, worker: usize, process: u64) -> Http2Meter {
        generation.enter(worker, process, |_| false).unwrap().upstreams[0].http2().unwrap()
    }

    fn gauges(it: &Http2) -> (u64, u64) {
        (it.gauge(Http2Gauge::Carriers), it.gauge(Http2Gauge::Streams))
    }

    #[test]
    fn gauges_go_with_their_worker_and_counters_stay() {
        let it = generation(None, &[]);
        let meters = [enter(&it, 0, 10), enter(&it, 1, 11)];
        for meter in meters {
            meter.carrier_opened();
            (0..3).for_each(|_| meter.stream_opened());
            meter.stream_closed();
            meter.add(Http2Count::Stalls, 5);
        }
        assert_eq!(gauges(&seen(&it, &[10, 11])), (2, 4));
        assert_eq!(gauges(&seen(&it, &[10])), (1, 2));
        // Another process takes the place of the first one.
        enter(&it, 0, 12).carrier_opened();
        let sum = seen(&it, &[11, 12]);
        assert_eq!(
            (gauges(&sum), sum.count(Http2Count::Opened), sum.count(Http2Count::Stalls)),
            ((2, 2), 6, 10)
        );
        meters[1].carrier_closed();
        assert_eq!(gauges(&seen(&it, &[11, 12])), (1, 2));
    }

    #[test]
    fn counters_outlive_a_reload() {
        let first = generation(None, &[]);
        let old = enter(&first, 0, 10);
        old.carrier_opened();
        old.stream_opened();
        let second = generation(Some(&first), &[10]);
        enter(&second, 0, 11).stream_opened();
        old.stream_opened();
        assert_eq!(gauges(&seen(&second, &[10, 11])), (1, 3));
        // The old worker has ended.
        let third = generation(Some(&second), &[11]);
        let sum = seen(&third, &[11]);
        assert_eq!((gauges(&sum), sum.count(Http2Count::Opened)), ((0, 1), 3));
    }

    #[test]
    fn each_counter_has_its_name() {
        let it = generation(None, &[]);
        let meter = enter(&it, 0, 10);
        for (number, what) in (1..).zip(COUNTS) {
            meter.add(what, number);
        }
        let counted: Vec<_> = seen(&it, &[10]).counts().collect();
        assert_eq!(counted.len(), 10);
        assert_eq!((counted[0], counted[9]), (("opened", 1), ("repeats", 10)));
        assert_eq!(counted[6], ("pings_lost", seen(&it, &[10]).count(Http2Count::PingsLost)));
    }
}
