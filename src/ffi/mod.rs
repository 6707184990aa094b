//! The shell: everything that talks to nginx.
//!
//! In the order of a worker's life: the module table and what `load_module` looks for (`module`),
//! directives (`directives`, `conf`, `configured`), what happens once the configuration is read (`setup`, `abi`,
//! `stock`), what the workers of a configuration share (`main_conf`, `workers`, `zone`, `mapping`), a request (`peer`, `peer_data`, `choose`, `balancer`, `tried`, `bound`, `shape`, `handshake`, `session`, `keep`, `response`, `drain`, `stale`, `upstream`),
//! one that has to wait (`wait`, `waiter`, `turn`, `connect`, `fail`), limits (`counts`, `linger`, `shortage`), an idle connection
//! (`idle`), servers that come and go (`resolve`). What can be seen of it: why a connection was not kept (`why`), `warnings`,
//! what can be logged (`notes`, `variables`), the numbers (`status`). Beneath them: pointers
//! with a type (`conn`, `peer_connection`, `request`, `attempt`, `headers`, `bits`), what the kernel tells (`tcp`), memory that is asked for (`memory`), events of our own (`alarm`), the panic
//! boundary (`guard`), debug lines (`log`).

mod abi;
mod alarm;
mod attempt;
mod auth;
mod balancer;
mod bits;
mod bound;
mod checkout;
mod choose;
mod conf;
mod configured;
mod conn;
mod connect;
mod counts;
mod directives;
mod drain;
mod fail;
mod guard;
#[cfg(ngx_feature = "http_ssl")]
mod handshake;
mod headers;
mod idle;
mod keep;
mod linger;
mod log;
mod main_conf;
mod mapping;
mod memory;
mod module;
mod notes;
mod peer;
mod peer_connection;
mod peer_data;
mod refusal;
mod request;
#[cfg(nginx_resolve)]
mod resolve;
mod response;
#[cfg(ngx_feature = "http_ssl")]
mod session;
mod setup;
mod shape;
mod shortage;
mod stale;
mod status;
mod stock;
mod tcp;
mod tried;
mod turn;
mod upstream;
mod variables;
mod wait;
mod waiter;
mod warnings;
mod why;
mod workers;
mod zone;

/// What nginx-sys lacks; made by build.rs.
mod constants {
    include!(concat!(env!("OUT_DIR"), "/constants.rs"));
}
