//! HTTP/1.1: what the head of a request announces, what `Keep-Alive` says, which headers say that a connection has a user.
#![forbid(unsafe_code)]

pub mod request_head;

pub mod keep_alive;

pub mod stateful_auth;
