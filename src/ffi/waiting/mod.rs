//! A request waits for its connection: it is queued or parked (`enqueue`), gets its turn (`dispatch`), takes up the
//! connection (`resume`), or fails (`fail`).

pub(crate) mod enqueue;

pub(crate) mod dispatch;

pub(crate) mod resume;

pub(crate) mod fail;
