//! When a connection is used again: for whom, for how long, and what happens if the server has closed it.
#![forbid(unsafe_code)]

pub mod identity;

pub mod bound;

pub mod lifetime;

pub mod stale;

#[cfg(test)]
mod simulation;
