//! The limit on connections to a server: who gets the next slot (`slots`), how a connection is closed so that the server
//! never has more than its limit (`linger`; `refused`, if it has come from another worker).

pub(crate) mod slots;

pub(crate) mod linger;

pub(crate) mod refused;
