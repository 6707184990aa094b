//! Connections are handed over between workers: one is given to another worker (`give`), or to a worker of a later
//! configuration (`heir`); the inbox is read (`inbox`), one is taken (`take`), other workers are asked for one (`ask`). The
//! messages are in [`crate::handover`].

pub(crate) mod give;

pub(crate) mod heir;

pub(crate) mod inbox;

mod take;

pub(crate) mod ask;
