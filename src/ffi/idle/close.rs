//! How connections leave the pool without a request: because something has happened to one, because its server has left, or
//! because they are of no use any more.

use std::ptr::NonNull;

use crate::base::clock::Msec;
use crate::metrics::End;
use crate::pool::IdlePool;

use crate::ffi::max_conns::slots::close_idle;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::socket::{self, silent};
use crate::ffi::state::upstream::{Idle, Place, Upstream};

/// Takes the connection out of the pool and closes it. If it is not the one in its slot, as after
/// a panic, it is closed all the same.
///
/// # Safety
/// `place` was given out by [`Upstream::store`], and the connection was open ever since: so
/// nginx kept the cycle in whose pool the upstream lies.
pub(crate) unsafe fn close_in_place(place: NonNull<Place>, conn: Conn, why: End) {
    // SAFETY: given out by `store`, says the caller, which has initialised it.
    let Place { upstream, slot } = unsafe { place.read() };
    // SAFETY: its cycle is alive, says the caller; the upstream is only ever shared.
    let upstream = unsafe { upstream.as_ref() };
    let removed = upstream.idle.with(|idle| idle.remove(slot, |idle| idle.conn == conn)).flatten();
    match removed {
        Some(idle) => {
            let why = if idle.hinted && why == End::Timeout { End::Hint } else { why };
            close_idle(upstream, idle, why);
        }
        None => socket::close(conn),
    }
}

/// A connection was stale that had been idle until `then`. Of those to the same server that are idle for longer, closes
/// the ones that the server has closed too; or all of them.
#[cold]
pub(crate) fn close_suspect_idle(upstream: &Upstream, address: &[u8], then: Msec, all: bool) {
    let mut from = 0;
    let mut next = || {
        let next = |pool: &mut IdlePool<Idle>| {
            pool.next_older(&mut from, address, then).map(|(slot, idle)| (slot, *idle))
        };
        upstream.idle.with(next).flatten()
    };
    while let Some((slot, Idle { conn, .. })) = next() {
        if all || !silent(conn) {
            let idle = upstream.idle.with(|pool| pool.remove(slot, |idle| idle.conn == conn)).flatten();
            idle.map(|idle| close_idle(upstream, idle, End::Check));
        }
    }
}

/// Closes all idle connections, as the worker exits.
pub(crate) fn close_all(upstream: &Upstream) {
    if upstream.mark_removed(|_| false) {
        close_removed(upstream, End::Exiting);
    }
}

/// Closes each connection to a marked server; one by one, so that the pool is not borrowed while
/// nginx closes it.
pub(crate) fn close_removed(upstream: &Upstream, why: End) {
    let mut from = 0;
    while let Some(idle) = upstream.idle.with(|idle| idle.take_removed(&mut from)).flatten() {
        close_idle(upstream, idle, why);
    }
}
