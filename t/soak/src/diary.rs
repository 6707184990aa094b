//! What was done to nginx and its servers, and when: what a client sees is explained by it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// It takes a busy machine so long, at most, until all have noticed.
const NOW: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Diary {
    killed: HashSet<i32>,
    quitting: HashSet<i32>,
    last_kill: Option<Instant>,
    last_reload: Option<Instant>,
    pub reloads: u64,
    pub drops: u64,
    pub refusals: u64,
    /// Servers that were killed.
    pub deaths: u64,
    pub goodbyes: u64,
}

impl Diary {
    /// To be written before it is done.
    pub fn kill(&mut self, worker: i32) {
        self.killed.insert(worker);
        self.last_kill = Some(Instant::now());
    }

    /// To be written before it is done.
    pub fn reload(&mut self, workers: &[i32]) {
        self.quitting.extend(workers);
        self.last_reload = Some(Instant::now());
        self.reloads += 1;
    }

    pub fn kills(&self) -> u64 {
        self.killed.len() as u64
    }

    pub fn was_killed(&self, worker: i32) -> bool {
        self.killed.contains(&worker)
    }

    pub fn was_told_to_quit(&self, worker: i32) -> bool {
        self.quitting.contains(&worker)
    }

    pub fn killed_just_now(&self) -> bool {
        self.last_kill.is_some_and(|at| at.elapsed() < NOW)
    }

    pub fn reloaded_just_now(&self) -> bool {
        self.last_reload.is_some_and(|at| at.elapsed() < NOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers() {
        let mut diary = Diary::default();
        assert!(!diary.killed_just_now() && !diary.reloaded_just_now());
        diary.kill(7);
        diary.reload(&[8, 9]);
        assert!(diary.was_killed(7) && !diary.was_killed(8) && diary.killed_just_now());
        assert!(diary.was_told_to_quit(9) && !diary.was_told_to_quit(7));
        assert_eq!((diary.kills(), diary.reloads), (1, 1));
    }
}
