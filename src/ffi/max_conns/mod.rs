//! How many connections a server may have: who gets the next one (`slots`), how one is closed so that the server never has
//! more (`linger`), and what happens when the worker itself runs out of connections (`shortage`).

pub(crate) mod slots;

pub(crate) mod linger;

pub(crate) mod shortage;
