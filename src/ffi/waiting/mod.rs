//! A request waits for its connection, if it can expect one (`outlook`). It is queued or parked (`enqueue`), asks another worker
//! (`inquire`), or waits for a stream of a connection (`stream`), while the core holds a connection without a socket
//! (`placeholder`). It gets its turn (`dispatch`), and goes on with its connection (`resume`), or fails (`fail`).

pub(crate) mod outlook;

pub(crate) mod enqueue;

pub(crate) mod inquire;

pub(crate) mod stream;

mod placeholder;

pub(crate) mod dispatch;

mod resume;

mod fail;
