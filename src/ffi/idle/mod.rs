//! A connection that no request has: it is idle in the pool (`idle`), is read to the end of a response first (`drain`),
//! or belongs to a server that has left (`resolve`).

#[expect(clippy::module_inception, reason = "an idle connection is what the room is about")]
pub(crate) mod idle;

pub(crate) mod drain;

#[cfg(nginx_resolve)]
pub(crate) mod resolve;
