//! A simulation of servers, a network and clients, with pools that learn as the shell lets them: see [`crate::lessons`].
//!
//! ```text
//!   load      when requests come
//!   server    when the server closes connections
//!   proxy     a worker of nginx: what the shell does with a lesson
//!   world     the events in between, in the order of their times
//!   tally     what has happened, compared with who knows the limit
//!   runs      what must have happened
//! ```
#![forbid(unsafe_code)]

mod load;
mod proxy;
mod runs;
mod server;
mod tally;
mod world;
