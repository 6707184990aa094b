//! The authorisation helper, a second nginx module in the same library: a subrequest decides whether a request may go on.
//!
//! In the order of a request:
//!
//! - the module (`module`) and its directives (`directives`, `reading`), with the configuration of a location (`conf`), of a
//!   server (`server`), and of `http` (`main_conf`);
//! - headers that the client must not send (`client_headers`);
//! - the decision in the access phase (`access`): its context (`context`, `memory`), the client's body (`body`), the *auth
//!   subrequest* (`subrequest`), subrequests *nested* in it (`nested`), and how they are aborted (`abort`);
//! - the *answer* to the auth subrequest: its output never goes to the client (`discard`), the body of a denial is kept
//!   (`capture`), and what the client gets (`deny`, `filters`);
//! - the headers of a request that may go on (`copy`, `header_list`), and variables for the log (`variables`).
//!
//! It uses [`crate::ffi::nginx`] and the core only.

pub(super) mod module;

mod directives;

mod reading;

pub(super) mod conf;

mod server;

mod main_conf;

mod client_headers;

mod access;

mod context;

mod memory;

mod body;

mod subrequest;

mod nested;

mod abort;

mod discard;

mod capture;

mod deny;

mod filters;

mod copy;

mod header_list;

mod variables;
