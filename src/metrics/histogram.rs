//! Histograms of durations.
#![forbid(unsafe_code)]

use super::add;
use crate::base::atomic::AtomicU64;

/// The upper bounds of the buckets, in milliseconds. One more bucket is unbounded.
pub const BOUNDS: [u64; 14] = [1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];

/// The cells of a histogram: the buckets, and the sum.
pub(super) const CELLS: usize = BOUNDS.len() + 2;

/// Counts a duration, in milliseconds.
pub(super) fn observe(cells: &[AtomicU64], time: u64) {
    let bucket = BOUNDS.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len());
    if let (Some(bucket), Some(sum)) = (cells.get(bucket), cells.get(CELLS - 1)) {
        add(bucket, 1);
        add(sum, time);
    }
}

/// The values of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// For each of [`BOUNDS`], how many durations were not longer.
    pub at_most: [u64; BOUNDS.len()],
    /// How many durations were counted.
    pub count: u64,
    /// The sum of all durations, in milliseconds.
    pub sum: u64,
}

impl Histogram {
    /// The histogram in these cells.
    pub(super) fn of(cells: &[u64]) -> Self {
        let mut histogram = Self::default();
        for (bucket, number) in cells.iter().take(BOUNDS.len() + 1).enumerate() {
            histogram.count += number;
            if let Some(at_most) = histogram.at_most.get_mut(bucket) {
                *at_most = histogram.count;
            }
        }
        histogram.sum = cells.get(CELLS - 1).copied().unwrap_or(0);
        histogram
    }
}
