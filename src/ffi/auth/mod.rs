//! The authorisation helper, a second nginx module in the same file: a subrequest says whether a request may
//! go on.
//!
//! In the order of a request: its location's directives (`directives`, `conf`), and those of its server (`server`);
//! what the client must not send (`client_headers`); the question in the access phase (`access`, `body`, `ask`, `parts`), the
//! answer (`discard`, `capture`, `context`), a denial (`deny`, `filters`), the headers of a request that may go on (`copy`,
//! `header_list`), what can be logged (`variables`). `module` is what nginx sees.

mod access;
mod ask;
mod body;
mod capture;
mod client_headers;
pub(super) mod conf;
mod context;
mod copy;
mod deny;
mod directives;
mod discard;
mod filters;
mod header_list;
pub(super) mod module;
mod parts;
mod server;
mod variables;
