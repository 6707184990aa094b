//! The shell: everything that talks to nginx.
//!
//! Each room is a stage of a connection's life, and imports only from the rooms below it. From the top:
//!
//! - [`setup`]: the module, its directives, and what happens once the configuration is read;
//! - [`observe`]: the status page and the variables;
//! - [`peer`]: a request asks for a connection, and gives it back;
//! - [`waiting`]: a request waits for its connection;
//! - [`idle`]: a connection that no request has;
//! - [`max_conns`]: how many connections a server may have;
//! - [`shared`]: what the workers of a configuration share;
//! - [`state`]: what is known of an upstream, a request, a wait;
//! - [`nginx`]: handles for nginx's structures, and calls of its functions.
//!
//! [`auth`], the authorisation helper, stands beside them: it uses [`nginx`] only.

mod auth;
mod idle;
mod max_conns;
mod nginx;
mod observe;
mod peer;
mod setup;
mod shared;
mod state;
mod waiting;
