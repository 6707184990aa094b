//! Handles for nginx's structures, which read and write one field at a time, and calls of its functions. Nothing here knows
//! the pool of idle connections.

pub(crate) mod handle;

pub(crate) mod conn;

#[cfg(ngx_feature = "http_ssl")]
pub(crate) mod tls;

pub(crate) mod buf;

pub(crate) mod peer_connection;

pub(crate) mod request;

pub(crate) mod subrequest;

pub(crate) mod upstream_state;

pub(crate) mod response;

pub(crate) mod headers;

pub(crate) mod bits;

pub(crate) mod conf_words;

pub(crate) mod variable;

pub(crate) mod balancer;

pub(crate) mod configured;

pub(crate) mod process;

pub(crate) mod this_module;

pub(crate) mod modules;

pub(crate) mod channel;

pub(crate) mod timer;

pub(crate) mod memory;

pub(crate) mod recycler;

pub(crate) mod mapping;

pub(crate) mod socket;

pub(crate) mod tcp_info;

pub(crate) mod passing;

pub(crate) mod adopt;

pub(crate) mod guard;

pub(crate) mod log;

/// Constants that nginx-sys lacks; build.rs makes them.
pub(crate) mod constants {
    include!(concat!(env!("OUT_DIR"), "/constants.rs"));
}
