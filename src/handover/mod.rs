//! Connections that are handed over to another worker, as open descriptors in messages.
//!
//! ```text
//!   a worker that needs one                               another worker of the same configuration
//!
//!   no idle connection fits; who has one?  (index)
//!   Question  ------------------------------------------>  the oldest one that fits, if it has been idle for a while
//!             <------------------------------------------  Connection, with the descriptor;  or Nothing
//!
//!   a request waits for a slot (max_conns)
//!             <------------------------------------------  Connection, as soon as one is released
//!
//!
//!   a worker of the new configuration                     a worker of the old one
//!
//!   Heir  ---------------------------------------------->  notes it
//!             <------------------------------------------  Connection: those that it does not need
//!   Question  ------------------------------------------>  one that it has idle at this moment
//!             <------------------------------------------  Connection, or Nothing
//!             <------------------------------------------  Connection: all, when it exits, and each that is released later
//! ```
//!
//! Each worker has an inbox, which all workers of its configuration can write to. [`message`] has the format, [`index`] tells
//! which worker may have an idle connection, [`questions`] has the questions that are not answered yet, and [`reading`] tells who
//! reads an inbox.
#![forbid(unsafe_code)]

pub mod message;

pub mod index;

pub mod questions;

pub mod reading;
