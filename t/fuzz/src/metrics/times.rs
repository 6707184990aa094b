//! The times of waits and of decisions.
#![forbid(unsafe_code)]

use keepalive::metrics::{Histogram, QueueMeter, BOUNDS};

#[derive(Default)]
pub(super) struct Times {
    at_most: [u64; BOUNDS.len()],
    count: u64,
    sum: u64,
}

impl Times {
    pub(super) fn observe(&mut self, time: usize) {
        let bounds = self.at_most.iter_mut().zip(BOUNDS);
        bounds.filter(|(_, bound)| time as u64 <= *bound).for_each(|(at_most, _)| *at_most += 1);
        self.count += 1;
        self.sum += time as u64;
    }

    pub(super) fn compare(&self, times: &Histogram) {
        assert_eq!((times.at_most, times.count, times.sum), (self.at_most, self.count, self.sum));
    }
}

/// What happens to a request that waits, or would.
pub(super) fn wait(
    queue: QueueMeter,
    what: usize,
    waited: usize,
    waiting: &mut u64,
    counted: &mut ([u64; 3], Times),
) {
    let ([requests, overflows, timeouts], times) = counted;
    match what {
        0 => {
            queue.begin();
            *waiting += 1;
            *requests += 1;
        }
        1 if *waiting > 0 => {
            queue.end(waited);
            *waiting -= 1;
            times.observe(waited);
        }
        2 => {
            queue.overflow();
            *overflows += 1;
        }
        _ => {
            queue.time_out();
            *timeouts += 1;
        }
    }
}
