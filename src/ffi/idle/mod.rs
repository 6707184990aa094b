//! Idle connections, which no request has. One is stored (`store`), sleeps until something happens to it (`sleep`), and is
//! closed (`close`), when its time is over (`expire`) or before, from which the pool learns (`learn`). Before it is stored, the rest
//! of a response may have to be read (`drain`). Its server may leave (`resolve`), or the worker itself runs out of connections
//! (`shortage`).

pub(crate) mod store;

pub(crate) mod sleep;

mod expire;

pub(crate) mod close;

pub(crate) mod learn;

pub(crate) mod drain;

pub(crate) mod shortage;

#[cfg(nginx_resolve)]
pub(crate) mod resolve;
