//! The shell: all code that talks to nginx.
//!
//! Each folder is a stage of a connection's life, and imports only from the folders below it. From the top:
//!
//! - [`setup`]: the module, its directives, and the steps after the configuration is read;
//! - [`observe`]: the status page and the variables;
//! - [`peer`]: a request asks for a connection, and gives it back;
//! - [`waiting`]: a request waits for its connection;
//! - [`handover`]: connections come from other workers, or go to them;
//! - [`idle`]: idle connections;
//! - [`streams`]: many requests over one connection;
//! - [`max_conns`]: the limit of connections to a server;
//! - [`shared`]: shared memory of the workers of a configuration;
//! - [`state`]: the state of an upstream, of a request, of a wait;
//! - [`nginx`]: handles for nginx's structures, and calls of its functions.
//!
//! [`auth`], the authorisation helper, is independent of them, and uses only [`nginx`].

mod auth;
mod handover;
mod idle;
mod max_conns;
mod nginx;
mod observe;
mod peer;
mod setup;
mod shared;
mod state;
mod streams;
mod waiting;
