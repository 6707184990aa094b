//! An idle connection is put to sleep, woken for a request, or ended by an event.

use std::ptr::NonNull;

use nginx_sys::{ngx_event_t, ngx_log_t};

use crate::pool::Expiry;

use crate::ffi::nginx::conn::{Conn, Event};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::process::cycle_log;
use crate::ffi::nginx::socket::{self, poll_idle};
use crate::ffi::state::upstream::{Upstream, UpstreamRef};

use super::close::close_in_slot;
use super::expire::keep_time;

/// Hands a stored connection over to `close_handler`. It may be closed when this returns, because bytes that the server
/// has sent already are unexpected, and so is the end of the stream.
///
/// As long as it sleeps, `data` points at the upstream, and `sent`, which only a request needs, has the number of the slot.
#[inline(always)]
pub(crate) fn sleep(conn: Conn, upstream: &Upstream, slot: u32, expiry: Expiry) {
    let (read, write) = (conn.read(), conn.write());
    read.clear_delayed();
    match expiry {
        Expiry::Usual => {
            // That of the request, which the core leaves set.
            read.clear_timer();
            keep_time(upstream);
        }
        Expiry::Other(time) => read.set_timer(time),
    }
    write.clear_timer();
    write.set_handler(Some(dummy_handler));
    read.set_handler(Some(close_handler));
    conn.set_data(NonNull::from(upstream).as_ptr().cast());
    conn.set_slot(slot);
    conn.set_idle(true);
    conn.set_logs(cycle_log());
    if read.ready() {
        // SAFETY: the read event of an open connection, whose `data` and slot were set just now.
        unsafe { close_handler(read.as_ptr()) };
    }
}

/// Prepares a connection that was taken from the pool for a request; the core sets its handlers and `data`.
#[inline]
pub(crate) fn wake(conn: Conn, log: *mut ngx_log_t) {
    conn.set_idle(false);
    conn.reset_sent();
    conn.set_data(std::ptr::null_mut());
    conn.set_logs(log);
    conn.read().clear_timer();
}

/// The write handler of an idle connection, which has nothing to write.
pub(crate) unsafe extern "C" fn dummy_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx calls it with the write event of a connection that was given this handler.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive dummy handler");
}

/// The read handler of an idle connection: closes it, unless nothing has happened.
unsafe extern "C" fn close_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx calls it with the read event of a connection that `sleep` gave this handler.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive close handler");

    let Some(why) = poll_idle(event) else { return };
    let conn = event.conn();
    let Some(upstream) = NonNull::new(conn.data().cast::<Upstream>()) else { return socket::close(conn) };
    // SAFETY: `sleep` has put it there, and the connection was open ever since: so nginx has kept the cycle of the upstream.
    let upstream = unsafe { UpstreamRef::new(upstream) };
    guard((), || close_in_slot(&upstream, conn.slot(), conn, why));
}
