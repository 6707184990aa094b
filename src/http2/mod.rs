//! HTTP/2: the frames of a request that is sent again.
#![forbid(unsafe_code)]

pub mod frames;
