//! How long something took, counted in steps.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;

use super::add;

/// The upper bounds of the steps, in milliseconds; beyond is one more.
pub const BOUNDS: [u64; 14] = [1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];

/// The steps, and the sum.
pub(super) const CELLS: usize = BOUNDS.len() + 2;

/// Counts a time, in milliseconds.
pub(super) fn observe(cells: &[AtomicU64], time: u64) {
    let step = BOUNDS.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len());
    if let (Some(step), Some(sum)) = (cells.get(step), cells.get(BOUNDS.len() + 1)) {
        add(step, 1);
        add(sum, time);
    }
}

/// What was observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many took at most as long as each of [`BOUNDS`].
    pub at_most: [u64; BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// Their sum, in milliseconds.
    pub sum: u64,
}

impl Histogram {
    /// From the cells, added up.
    pub(super) fn of(cells: &[u64]) -> Self {
        let mut histogram = Self::default();
        for (step, number) in cells.iter().take(BOUNDS.len() + 1).enumerate() {
            histogram.count += number;
            if let Some(at_most) = histogram.at_most.get_mut(step) {
                *at_most = histogram.count;
            }
        }
        histogram.sum = cells.get(BOUNDS.len() + 1).copied().unwrap_or(0);
        histogram
    }
}
