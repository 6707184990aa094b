//! Idle connections, which no request has. One is stored (`store`), sleeps until something happens to it (`sleep`), and is
//! closed (`close`). Before it is stored, the rest of a response may have to be read (`drain`). Its server may leave
//! (`resolve`).

pub(crate) mod store;

pub(crate) mod sleep;

pub(crate) mod close;

pub(crate) mod drain;

#[cfg(nginx_resolve)]
mod resolve;
