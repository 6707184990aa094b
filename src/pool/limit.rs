//! How many connections a pool keeps.
#![forbid(unsafe_code)]

use crate::base::list::NONE;

/// The largest capacity: numbers of slots have 32 bits, and one value marks the end of a list.
pub const MAX_CAPACITY: usize = NONE as usize - 1;

/// How many servers there is room for with [`Limit::PerServer`].
pub const MAX_SERVERS: usize = 1024;

/// How many connections to all servers there is room for with [`Limit::PerServer`], unless the limit of one server is larger.
pub const MAX_OF_ALL_SERVERS: usize = 1 << 20;

/// How many connections a pool keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The number for all servers together.
    Total(usize),
    /// The number for each server address. There is room for at most [`MAX_SERVERS`] servers and
    /// [`MAX_OF_ALL_SERVERS`] connections.
    PerServer(usize),
}

impl Limit {
    /// The number of slots: at least 1, at most [`MAX_CAPACITY`].
    pub fn capacity(self) -> usize {
        let slots = match self {
            Self::Total(number) => number,
            Self::PerServer(number) => number.saturating_mul(MAX_SERVERS).min(MAX_OF_ALL_SERVERS.max(number)),
        };
        slots.clamp(1, MAX_CAPACITY)
    }
}
