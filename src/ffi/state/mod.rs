//! State. Of the configuration of an upstream: `srv_conf`. Of its pool: `upstream`, `idle`, `tls_sessions`, `counts`, `bells`,
//! `waits`, `watch`, `lessons`, `hints`. Of the handover of connections: `inboxes`, `handover`. Of a request: `peer_data`, `extra`, `reuse`, `refusal`,
//! `notes`, `tried`. Of a wait: `waiter`. Of many requests over one connection: `stream`, `carrier`.

pub(crate) mod srv_conf;

pub(crate) mod upstream;

pub(crate) mod idle;

#[cfg(ngx_feature = "http_ssl")]
pub(crate) mod tls_sessions;

pub(crate) mod counts;

pub(crate) mod bells;

pub(crate) mod waits;

pub(crate) mod lessons;

pub(crate) mod hints;

pub(crate) mod inboxes;

pub(crate) mod handover;

#[cfg(nginx_resolve)]
pub(crate) mod watch;

pub(crate) mod peer_data;

pub(crate) mod extra;

pub(crate) mod reuse;

pub(crate) mod refusal;

pub(crate) mod notes;

pub(crate) mod tried;

pub(crate) mod waiter;

pub(crate) mod stream;

pub(crate) mod carrier;
