//! The words of memory that workers share, and fences. In the builds of `t/loom` they are those of a model checker.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
pub use std::sync::atomic::{fence, AtomicU64};

#[cfg(loom)]
pub use super::checked::{fence, AtomicU64};
