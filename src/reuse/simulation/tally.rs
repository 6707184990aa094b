//! Counts what has happened in simulations.
#![forbid(unsafe_code)]

use super::world::{Happening, Mind, Setup, World};

/// What has happened in some runs, or in a part of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub requests: usize,
    pub opened: usize,
    pub reused: usize,
    pub stale: usize,
    pub stale_posts: usize,
    /// Requests that were sent when the pool knew of ten closes, and met a stale connection.
    pub late_stale: usize,
    /// POST requests that had arrived when the server closed.
    pub lost_posts: usize,
    pub closes: usize,
    /// How often a limit was learned or forgotten.
    pub changes: usize,
}

impl Tally {
    /// Of what has happened from a moment to another, in milliseconds.
    pub fn between(all: &[(u64, Happening)], from: u64, to: u64) -> Self {
        let is_close = |it: &&(u64, Happening)| it.1 == Happening::Closed;
        let tenth = all.iter().filter(is_close).nth(9).map_or(u64::MAX, |it| it.0);
        let mut tally = Self::default();
        for (at, what) in all {
            if (from..to).contains(at) {
                tally.count(*what, tenth);
            }
        }
        // A request that met a stale connection got another one.
        tally.requests = tally.opened + tally.reused - tally.stale;
        tally
    }

    fn count(&mut self, what: Happening, tenth: u64) {
        match what {
            Happening::Opened => self.opened += 1,
            Happening::Reused => self.reused += 1,
            Happening::Stale { is_post, sent } => {
                self.stale += 1;
                self.stale_posts += usize::from(is_post);
                self.late_stale += usize::from(sent > tenth);
            }
            Happening::Lost { is_post } => self.lost_posts += usize::from(is_post),
            Happening::Closed => self.closes += 1,
            Happening::Learned(_) => self.changes += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.opened += other.opened;
        self.reused += other.reused;
        self.stale += other.stale;
        self.stale_posts += other.stale_posts;
        self.late_stale += other.late_stale;
        self.lost_posts += other.lost_posts;
        self.closes += other.closes;
        self.changes += other.changes;
    }

    /// Requests that were served on a connection that was used before.
    pub fn served_again(&self) -> f64 {
        self.reused.saturating_sub(self.stale) as f64
    }
}

/// The same requests to the same servers, with each mind.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    pub learns: Tally,
    pub knows: Tally,
    pub hopes: Tally,
}

impl Compared {
    /// Runs it several times.
    pub fn run(name: &str, runs: u64, setup: &Setup) -> Self {
        let sum = |mind| {
            let mut sum = Tally::default();
            for seed in 0..runs {
                let all = World::run(setup, mind, seed * 7919 + 1);
                sum.add(&Tally::between(&all, 0, u64::MAX));
            }
            sum
        };
        let compared = Self { learns: sum(Mind::Learns), knows: sum(Mind::Knows), hopes: sum(Mind::Hopes) };
        println!(
            "{name}: reuse {:.3}, opened {:.3} of who knows; {compared:?}",
            compared.reuse(),
            compared.opened()
        );
        compared
    }

    /// How many connections are used again, as a part of what who knows the limit gets.
    pub fn reuse(&self) -> f64 {
        self.learns.served_again() / self.knows.served_again().max(1.0)
    }

    /// How many connections are opened, in proportion to who knows the limit.
    pub fn opened(&self) -> f64 {
        self.learns.opened as f64 / self.knows.opened.max(1) as f64
    }
}
