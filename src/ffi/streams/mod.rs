//! Many requests over one connection: a request is a stream of a carrier. What the core reads and writes (`io`), how a request
//! gets on and off (`board`), the carrier's own connection (`carry`), and carriers without streams (`idle`).

pub(crate) mod io;

pub(crate) mod board;

pub(crate) mod carry;

pub(crate) mod idle;
