//! The simulated server: when it closes connections.
#![forbid(unsafe_code)]

use super::load::Random;

/// When a server closes an idle connection. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Idle {
    Never,
    /// At this age.
    At(u64),
    /// At an age between these, which differs each time.
    Between(u64, u64),
    /// It looks once per second which ones have reached this age.
    Looks(u64),
    /// At any age: on average at this one.
    Any(u64),
}

/// After how many requests a server closes a connection.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    Never,
    At(u32),
    /// After a number between these, which differs for each connection.
    Between(u32, u32),
}

/// How a server behaves from a moment on.
#[derive(Clone, Debug)]
pub struct Phase {
    /// In milliseconds.
    pub from: u64,
    /// What each of its processes does.
    pub idle: Vec<Idle>,
    pub number: Number,
    /// The server is started again: all connections are closed within this time, in microseconds. `None` if it goes on.
    pub restart: Option<u64>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Not empty; the first one begins at 0.
    pub phases: Vec<Phase>,
    /// A connection is cut by a network fault once in this time on average, in milliseconds.
    pub faults: Option<u64>,
    /// It is short of connections: once in this time on average it closes the oldest idle one, in milliseconds.
    pub short: Option<u64>,
    /// It takes this long to answer, in microseconds.
    pub service: u64,
    /// It closes by up to this much too late, in microseconds.
    pub late: u64,
    /// What it announces in `Keep-Alive`, in seconds.
    pub announces: Option<usize>,
}

impl Server {
    pub fn new(idle: Idle) -> Self {
        let first = Phase { from: 0, idle: vec![idle], number: Number::Never, restart: None };
        Self { phases: vec![first], faults: None, short: None, service: 1000, late: 1000, announces: None }
    }

    /// From a moment on it behaves in another way, after a restart.
    pub fn then(mut self, from: u64, idle: Idle) -> Self {
        self.phases.push(Phase { from, idle: vec![idle], number: Number::Never, restart: Some(2000) });
        self
    }

    pub fn with_number(mut self, number: Number) -> Self {
        self.phases.iter_mut().for_each(|phase| phase.number = number);
        self
    }

    pub fn phase(&self, at: u64) -> &Phase {
        let now = self.phases.iter().rev().find(|phase| phase.from * 1000 <= at);
        now.expect("the first phase begins at 0")
    }
}

impl Idle {
    /// When the server closes a connection that is idle since `since`, and the earliest moment at which it might, in
    /// microseconds.
    pub fn close(self, since: u64, random: &mut Random) -> Option<(u64, u64)> {
        let (close, earliest) = match self {
            Self::Never => return None,
            Self::At(age) => (age * 1000, age * 1000),
            Self::Between(low, high) => (random.between(low * 1000, high * 1000), low * 1000),
            Self::Looks(age) => {
                let look = (since + age * 1000).next_multiple_of(1_000_000);
                (look - since, age * 1000)
            }
            // Whoever knows that server knows no limit.
            Self::Any(mean) => (random.exponential(mean * 1000), u64::MAX >> 1),
        };
        Some((since + close, since + earliest))
    }
}

impl Number {
    /// After how many requests the server closes a connection, and the lowest number after which it might.
    pub fn close(self, random: &mut Random) -> Option<(u32, u32)> {
        match self {
            Self::Never => None,
            Self::At(number) => Some((number, number)),
            Self::Between(low, high) => Some((random.between(low.into(), high.into()) as u32, low)),
        }
    }
}
