//! HTTP/1.1: the body that a request head announces, the `Keep-Alive` header, and the headers that tie a connection to a
//! user.
#![forbid(unsafe_code)]

pub mod request_head;

pub mod keep_alive;

pub mod stateful_auth;
