//! What all other rooms use: time, numbers, addresses, lists, hashes, and allocations that may fail.
#![forbid(unsafe_code)]

pub mod atomic;

#[cfg(loom)]
pub mod checked;

pub mod clock;

pub(crate) mod decimal;

pub(crate) mod address;

pub(crate) mod hash;

pub(crate) mod list;

pub mod memory;

pub mod times;
