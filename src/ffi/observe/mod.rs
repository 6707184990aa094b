//! What an operator sees: the status page, and variables for the access log.

pub(crate) mod status;

pub(crate) mod status_location;

pub(crate) mod variables;
