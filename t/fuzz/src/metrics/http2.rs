//! The connections that carry many requests, and the requests on them.
#![forbid(unsafe_code)]

use keepalive::metrics::{Http2, Http2Count, Http2Gauge, WorkerCounters, HTTP2_COUNTS};

use crate::input::Input;

/// Those that are not counted together with a gauge.
const ADDED: [Http2Count; 9] = [
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

/// Carriers and streams of a process.
#[derive(Clone, Copy, Default)]
pub(super) struct Carried {
    carriers: u64,
    streams: u64,
}

/// What was counted for an upstream: first the streams that were opened.
#[derive(Default)]
pub(super) struct Counted([u64; HTTP2_COUNTS.len()]);

impl Counted {
    /// Something happens in a process.
    pub(super) fn act(&mut self, process: &WorkerCounters, carried: &mut Carried, input: &mut Input<'_>) {
        let meter = process.http2().expect("each has the place");
        match input.below(5) {
            0 => {
                meter.carrier_opened();
                carried.carriers += 1;
            }
            1 if carried.carriers > 0 => {
                meter.carrier_closed();
                carried.carriers -= 1;
            }
            2 => {
                meter.stream_opened();
                carried.streams += 1;
                self.0[0] += 1;
            }
            3 if carried.streams > 0 => {
                meter.stream_closed();
                carried.streams -= 1;
            }
            _ => {
                let (what, number) = (input.below(ADDED.len()), u64::from(input.byte()));
                meter.add(ADDED[what], number);
                self.0[1 + what] += number;
            }
        }
    }

    /// Compares this with the counters. `alive` are the processes that run.
    pub(super) fn compare(&self, http2: &Http2, alive: impl Iterator<Item = Carried>) {
        let (mut carriers, mut streams) = (0, 0);
        for carried in alive {
            carriers += carried.carriers;
            streams += carried.streams;
        }
        assert_eq!(http2.gauge(Http2Gauge::Carriers), carriers);
        assert_eq!(http2.gauge(Http2Gauge::Streams), streams);
        assert!(http2.counts().eq(HTTP2_COUNTS.into_iter().zip(self.0)));
    }
}
