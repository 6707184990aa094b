//! HTTP/2: the frames of a request that is sent again, and the frames by which a server refuses one.
#![forbid(unsafe_code)]

pub mod frames;
