//! The connections that processes hand over to each other.
#![forbid(unsafe_code)]

use keepalive::metrics::{Count, Dropped, Handover, HandoverCount, HandoverMeter, ServerCounters, DROPPED};

use crate::input::Input;

const REASONS: [Dropped; 8] = [
    Dropped::Disabled,
    Dropped::Server,
    Dropped::Protocol,
    Dropped::Limit,
    Dropped::Closed,
    Dropped::Expired,
    Dropped::Resources,
    Dropped::Invalid,
];

/// What was counted for an upstream.
#[derive(Default)]
pub(super) struct HandedOver {
    /// The connections that have not arrived yet, by address.
    pub(super) in_transit: Vec<usize>,
    asked: u64,
    answered: u64,
    dropped: [u64; REASONS.len()],
}

impl HandedOver {
    /// One of the connections arrives. Returns its address if it is taken.
    pub(super) fn arrive(&mut self, meter: HandoverMeter, input: &mut Input<'_>) -> Option<usize> {
        if self.in_transit.is_empty() {
            return None;
        }
        let address = self.in_transit.swap_remove(input.below(self.in_transit.len()));
        if input.flag() {
            return Some(address);
        }
        let reason = input.below(REASONS.len());
        meter.drop(REASONS[reason]);
        self.dropped[reason] += 1;
        None
    }

    /// A question, or an answer to one.
    pub(super) fn ask(&mut self, meter: HandoverMeter, is_answer: bool) {
        if is_answer {
            meter.answer();
            self.answered += 1;
        } else {
            meter.ask();
            self.asked += 1;
        }
    }

    /// Compares this with the counters. `sum` is the sum of the servers.
    pub(super) fn compare(&self, handover: &Handover, sum: &ServerCounters) {
        assert_eq!(handover.count(HandoverCount::Asked), self.asked);
        assert_eq!(handover.count(HandoverCount::Answered), self.answered);
        assert!(handover.dropped().eq(DROPPED.into_iter().zip(self.dropped)));
        assert_eq!(handover.in_transit(sum), self.in_transit.len() as u64);
        let arrived = sum.count(Count::Taken) + self.dropped.iter().sum::<u64>();
        assert_eq!(sum.count(Count::Given), arrived + self.in_transit.len() as u64);
    }
}
