//! The way of a request. It asks for a connection (`hooks`, `connect`, `choose`, `checkout`, `bound`, `identity`,
//! `handshake`), or for a stream of one that carries many requests (`stream`, `carrier`), and gives it back: as it was (`put_back`), or
//! after a closer look (`release`, `not_stored`, `warnings`). It is sent again if the connection was stale (`retry`), or if an HTTP/2 server has
//! refused it (`refusal`).

pub(crate) mod hooks;

pub(crate) mod connect;

pub(crate) mod choose;

pub(crate) mod checkout;

pub(crate) mod bound;

pub(crate) mod identity;

#[cfg(ngx_feature = "http_ssl")]
pub(crate) mod handshake;

pub(crate) mod stream;

mod carrier;

mod put_back;

pub(crate) mod release;

pub(crate) mod not_stored;

pub(crate) mod warnings;

pub(crate) mod retry;

pub(crate) mod refusal;
