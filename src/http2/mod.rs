//! HTTP/2: many requests over one connection, a carrier. The files, in reading order: the frames of a request that is sent again,
//! and the frames by which a server refuses one (`frames`); header blocks (`hpack`); the translation of requests and
//! responses between HTTP/1, which nginx's proxy module speaks, and header blocks (`fields`, `request`, `chunks`,
//! `response`); the connection (`carrier`), and which requests share one (`sharing`).
#![forbid(unsafe_code)]

pub mod frames;

pub mod hpack;

pub mod fields;

pub mod request;

pub mod chunks;

pub mod response;

pub mod carrier;

pub mod sharing;
