//! A connection that no request has: it is stored (`store`), sleeps until something happens to it (`sleep`), and is closed
//! (`close`). Before it is stored it may have to be read to the end of a response (`drain`); its server may leave
//! (`resolve`).

pub(crate) mod store;

pub(crate) mod sleep;

pub(crate) mod close;

pub(crate) mod drain;

#[cfg(nginx_resolve)]
mod resolve;
