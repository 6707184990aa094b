//! The authorisation helper, a second nginx module in the same library: a subrequest decides whether a request may go on.
//!
//! The words of this folder: the *auth subrequest* asks the location that `auth_subrequest` names; subrequests that this location
//! makes are *nested* in it. Its *response* has a header and a body; its *answer* is the status that decides. The *verdict* is the
//! meaning of the answer, and a *denial* is a verdict whose response goes to the client.
//!
//! In the order of a request:
//!
//! - the module (`module`) and its directives (`directives`, `reading`), with the configuration of a location (`conf`), of a
//!   server (`server`), and of `http` (`main_conf`); who answers a question (`locations`, `answers`);
//! - headers that the client must not send (`client_headers`);
//! - the decision in the access phase (`access`): its context (`context`, `memory`, `room`), the variables on which it
//!   depends (`settings`, `indexed`), the client's body (`body`), the auth
//!   subrequest (`subrequest`), nested subrequests (`nested`), and how both are aborted when their time is over (`timeouts`, `abort`);
//! - the response: the output of the auth subrequest never goes to the client (`discard`), the body of a denial is kept
//!   (`capture`), and the client gets the denial (`deny`, `filters`); a permission need not pass nginx's filters (`known_filters`);
//! - the headers of a request that may go on (`copy`, `header_list`), and variables for the log (`variables`).
//!
//! It uses [`crate::ffi::nginx`] and the core only.

pub(super) mod module;

mod directives;

mod reading;

pub(super) mod conf;

mod server;

mod locations;

mod answers;

mod main_conf;

mod client_headers;

mod access;

mod context;

mod memory;

mod room;

mod settings;

mod indexed;

mod body;

mod subrequest;

mod nested;

mod timeouts;

mod abort;

mod discard;

mod capture;

mod deny;

mod filters;

mod known_filters;

mod copy;

mod header_list;

mod variables;
