//! Whether memory is flat.

use std::fmt;

use crate::processes::{self, Process};
use crate::Soak;

/// What two situations of the same kind may differ by, in kB: requests have different sizes.
const SLACK: u64 = 256;

/// The processes while the load goes on, second by second.
#[derive(Default)]
pub struct Watched {
    pub master: Vec<Process>,
    /// The workers that the last reload has started, together.
    pub workers: Vec<Vec<Process>>,
}

impl Watched {
    pub fn look(&mut self, soak: &Soak) {
        self.master.extend(processes::look(soak.options.master));
        let workers = soak.workers.lock().expect("no holder panics").clone();
        self.workers.push(workers.iter().filter_map(|pid| processes::look(*pid)).collect());
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(master), Some(workers)) = (self.master.last(), self.workers.last()) else { return Ok(()) };
        let own: Vec<_> = workers.iter().map(|worker| format!("{}", worker.memory.own)).collect();
        let descriptors: Vec<_> = workers.iter().map(|worker| format!("{}", worker.descriptors)).collect();
        write!(
            f,
            "master {} kB, {} descriptors; workers {} kB, {} descriptors",
            master.memory.own,
            master.descriptors,
            own.join(" and "),
            descriptors.join(" and ")
        )
    }
}

/// The medians of the second and of the last third.
pub struct Trend {
    pub early: u64,
    pub late: u64,
}

impl Trend {
    /// Of the second and the last third, as the first one is for warming up; `None` if there is too little to tell.
    pub fn of(values: &[u64]) -> Option<Self> {
        let third = values.len() / 3;
        (third >= 3).then(|| Self {
            early: median(&values[third..values.len() - third]),
            late: median(&values[values.len() - third..]),
        })
    }

    pub fn is_flat(&self) -> bool {
        self.late <= self.early + self.early / 20 + SLACK
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kB, then {} kB", self.early, self.late)
    }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_growth() {
        let grows: Vec<_> = (0..30).map(|step| 4000 + step * 50).collect();
        assert!(!Trend::of(&grows).unwrap().is_flat());
        let jumps: Vec<_> = (0..30).map(|step| 4000 + step % 2 * 200).collect();
        assert!(Trend::of(&jumps).unwrap().is_flat());
        assert!(Trend::of(&[1, 2, 3]).is_none());
    }
}
