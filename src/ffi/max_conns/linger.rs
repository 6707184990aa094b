//! A connection whose slot at a limited server another connection needs. It is closed in two steps, so that the server never
//! has more than its limit: first the sending half, then all of it, when the server has closed too or has not done so for a
//! while.

use nginx_sys::{ngx_event_t, ngx_msec_t};

use crate::ledger::Server;

use crate::ffi::nginx::conn::{Conn, Event};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::process::cycle_log;
use crate::ffi::nginx::socket::{self, is_silent, poll_idle};
use crate::ffi::state::upstream::{Upstream, UpstreamRef};

use super::slots::release_slot;

/// How long to wait for the server to close, in milliseconds. A server that has nothing else to do closes at once.
pub(crate) const TIMEOUT: ngx_msec_t = 200;

/// The `data` of such a connection points at this; in the connection's memory pool.
struct Lingering {
    upstream: UpstreamRef,
    server: Server,
}

/// Begins to close a connection that is neither in the pool nor in use. `false` if there is nothing to wait for: the caller
/// closes it at once.
pub(crate) fn linger(conn: Conn, upstream: &Upstream, server: Server) -> bool {
    let (read, write) = (conn.read(), conn.write());
    #[cfg(ngx_feature = "http_ssl")]
    if !socket::say_goodbye(conn) {
        return false;
    }
    // SAFETY: the socket of an open connection.
    let connected = unsafe { libc::shutdown(conn.fd(), libc::SHUT_WR) } == 0;
    if !connected || read.eof() || read.error() || !is_silent(conn) {
        return false;
    }
    let lingering = Lingering { upstream: upstream.refer(), server };
    let Some(data) = conn.memory().and_then(|pool| pool.put(lingering)) else { return false };
    conn.set_data(data.as_ptr().cast());
    conn.set_logs(cycle_log());
    // A worker that exits closes it as it closes idle ones, and so does one that runs out of connections.
    conn.set_idle(true);
    conn.set_reusable(true);
    write.clear_timer();
    write.set_handler(Some(nothing_to_do));
    read.clear_delayed();
    read.clear_ready();
    read.set_handler(Some(linger_handler));
    read.set_timer(TIMEOUT);
    if read.wait_readable() {
        upstream.counts.add_lingering(server);
        return true;
    }
    conn.set_reusable(false);
    false
}

/// The write handler of such a connection.
unsafe extern "C" fn nothing_to_do(_: *mut ngx_event_t) {}

/// The read handler of such a connection: the server has closed too, has sent something unexpected, or takes too long.
unsafe extern "C" fn linger_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx calls it with the read event of a connection that `linger` gave this handler.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive linger handler");
    guard((), || close_unless_silent(event));
}

/// Closes the connection, unless nothing has happened to it.
fn close_unless_silent(event: Event) {
    if poll_idle(event).is_none() {
        return;
    }
    let conn = event.conn();
    // SAFETY: `linger` has put it there; it is read before the memory pool is destroyed in which it lies.
    let Lingering { upstream, server } = unsafe { conn.data().cast::<Lingering>().read() };
    socket::close(conn);
    if let Some(ledger) = upstream.counts.ledger.get() {
        ledger.remove_lingering(server);
    }
    release_slot(&upstream, server);
}
