//! HTTP/2: the frames of a request that is sent again.

pub mod frames;
