//! What every other part uses: time, numbers, addresses, lists, hashes, memory that may be lacking.
#![forbid(unsafe_code)]

pub mod clock;

pub(crate) mod decimal;

pub(crate) mod address;

pub(crate) mod hash;

pub(crate) mod list;

pub mod memory;

pub mod times;
