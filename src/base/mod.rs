//! What every other part uses: lists, hashes, memory that may be lacking, times.

pub(crate) mod hash;

pub(crate) mod list;

pub mod memory;

pub mod times;
