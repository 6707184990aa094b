//! A connection whose place at a limited server is to be given to another one. It is closed in two
//! steps, so that the server never has more than its limit: the sending half first, and all of it when
//! the server has closed too, or has not for a while.

use std::ptr::NonNull;

use nginx_sys::{ngx_event_t, ngx_msec_t};

use crate::ledger::Server;

use crate::ffi::nginx::conn::{Conn, Event};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::process::cycle_log;
use crate::ffi::nginx::socket::{self, poll_idle, silent};
use crate::ffi::state::upstream::Upstream;

use super::slots::release_slot;

/// How long a server is waited for: one that has nothing else to do closes at once.
pub(crate) const TIMEOUT: ngx_msec_t = 200;

/// What the `data` of such a connection points at; in the connection's pool.
struct Lingering {
    upstream: NonNull<Upstream>,
    server: Server,
}

/// Begins to close a connection that belongs to nobody any more. `false` if there is nothing to wait
/// for: it can be closed at once.
pub(crate) fn linger(conn: Conn, upstream: &Upstream, server: Server) -> bool {
    let (read, write) = (conn.read(), conn.write());
    #[cfg(ngx_feature = "http_ssl")]
    if !socket::say_goodbye(conn) {
        return false;
    }
    // SAFETY: an open socket.
    let connected = unsafe { libc::shutdown(conn.fd(), libc::SHUT_WR) } == 0;
    if !connected || read.eof() || read.error() || !silent(conn) || conn.pool().is_null() {
        return false;
    }
    // SAFETY: the connection is open, and so is its pool.
    let Some(mut memory) = (unsafe { allocate::<Lingering>(conn.pool(), 1) }) else { return false };
    // SAFETY: allocated above.
    let data = unsafe { memory.as_mut() }.write(Lingering { upstream: NonNull::from(upstream), server });
    conn.set_data(NonNull::from(data).as_ptr().cast());
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

unsafe extern "C" fn nothing_to_do(_: *mut ngx_event_t) {}

/// The server has closed too, has sent something that nobody wants any more, or takes its time.
unsafe extern "C" fn linger_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx calls it with the read event of a connection that `linger` gave this handler.
    let event = unsafe { Event::from_ptr(event) };
    debug(event.log(), c"keepalive linger handler");
    guard((), || close_unless_silent(event));
}

fn close_unless_silent(event: Event) {
    if poll_idle(event).is_none() {
        return;
    }
    let conn = event.conn();
    // SAFETY: `linger` has put it there; read before the pool goes in which it lies.
    let Lingering { upstream, server } = unsafe { conn.data().cast::<Lingering>().read() };
    socket::close(conn);
    // SAFETY: nginx keeps the cycle in which the upstream lies while a connection is open.
    let upstream = unsafe { upstream.as_ref() };
    if let Some(ledger) = upstream.counts.ledger.get() {
        ledger.remove_lingering(server);
    }
    release_slot(upstream, server);
}
