//! How many connections a pool keeps.
#![forbid(unsafe_code)]

use crate::base::list::NONE;

/// The largest capacity: numbers of slots are 32 bits wide, and one value marks the end of a list.
pub const MAX_CAPACITY: usize = NONE as usize - 1;

/// With a limit for each server, for how many servers there is room,
pub const MAX_SERVERS: usize = 1024;

/// and for how many connections in all, unless one server alone may have more.
pub const MAX_OF_ALL_SERVERS: usize = 1 << 20;

/// How many connections a pool keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many in all.
    Total(usize),
    /// So many to each server address, for at most [`MAX_SERVERS`] of them, and
    /// [`MAX_OF_ALL_SERVERS`] connections in all.
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
