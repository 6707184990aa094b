//! The upstream connection pool of nginx, re-implemented as a dynamic module.
//!
//! The crate has two halves. The *core* decides. It is safe Rust, knows neither nginx nor a clock nor a socket, and its unit
//! tests run without nginx (`cargo test --no-default-features`). The *shell*, [`ffi`], talks to nginx. It is the only place
//! where `unsafe` compiles.
//!
//! The way of a request is in `ffi/peer/hooks.rs`: `init_keepalive_peer`, `get_keepalive_peer`, `free_keepalive_peer`. The
//! life of an idle connection is in `ffi/idle/`: `store.rs`, `sleep.rs`, `close.rs`.

#![deny(unsafe_code, unsafe_op_in_unsafe_fn, missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

pub mod auth;
pub mod base;
pub mod directive;
pub mod drain;
pub mod fastcgi;
pub mod handover;
pub mod http1;
pub mod http2;
pub mod ledger;
pub mod lessons;
pub mod metrics;
pub mod pool;
pub mod queue;
pub mod reuse;
pub mod status;

// A unit test cannot link a function of nginx, so tests are built without the shell.
#[cfg(all(feature = "nginx", not(test)))]
#[expect(unsafe_code, reason = "the shell is where nginx is called")]
mod ffi;
