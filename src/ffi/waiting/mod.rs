//! A request waits for its connection. It is queued or parked (`enqueue`), or asks another worker
//! (`inquire`), while the core holds a connection without a socket
//! (`placeholder`). It gets its turn (`dispatch`), and goes on with its connection (`resume`), or fails (`fail`).

pub(crate) mod enqueue;

pub(crate) mod inquire;

mod placeholder;

pub(crate) mod dispatch;

mod resume;

mod fail;
