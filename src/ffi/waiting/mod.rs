//! A request waits for its connection: it is queued or parked (`enqueue`), while the core holds a
//! connection without a socket (`placeholder`); gets its turn (`dispatch`); takes up its connection (`resume`), or fails
//! (`fail`).

pub(crate) mod enqueue;

mod placeholder;

pub(crate) mod dispatch;

mod resume;

mod fail;
