//! How connections leave the pool without a request: something has happened to one, its server has left, or they are stale.

use crate::base::clock::Msec;
use crate::metrics::End;
use crate::pool::IdlePool;

use crate::ffi::max_conns::slots::close_idle;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::process::{elapsed, Cycle};
use crate::ffi::nginx::socket::{self, is_silent};
use crate::ffi::state::handover::Handover;
use crate::ffi::state::hints;
use crate::ffi::state::upstream::{Idle, Upstream};

use super::learn;

/// Takes the connection out of the pool and closes it, unless an heir of this worker takes it, or its time is not over yet. If
/// its slot holds another one, as after a panic, it is closed all the same.
pub(crate) fn close_in_slot(upstream: &Upstream, slot: u32, conn: Conn, why: End) {
    let is_given = |handover: &Handover| (handover.give_instead_of_closing)(upstream, slot, conn);
    if why == End::Exiting && upstream.handover().is_some_and(is_given) {
        return;
    }
    let why = match why {
        End::Timeout => match learn::on_timer(upstream, slot, conn) {
            Some(why) => why,
            None => return,
        },
        why => {
            learn::on_end(upstream, slot, conn, why);
            why
        }
    };
    let since = upstream.idle.with(|idle| idle.entry(slot).map(|entry| entry.since)).flatten();
    let removed = upstream.idle.with(|idle| idle.remove(slot, |idle| idle.is(conn))).flatten();
    match removed {
        Some(idle) => {
            hints::note_end(upstream, conn.requests(), why, since.map_or(Msec::MAX, elapsed));
            close_idle(upstream, idle, why);
        }
        None => socket::close(conn),
    }
}

/// A connection that had been idle until `then` was stale. Looks at the connections to the same server that are idle for
/// longer, and closes those that the server has closed too; or, with `all`, all of them.
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
        if all || !is_silent(conn) {
            let idle = upstream.idle.with(|pool| pool.remove(slot, |idle| idle.is(conn))).flatten();
            idle.map(|idle| close_idle(upstream, idle, End::Check));
        }
    }
}

/// Closes all idle connections, as the worker exits.
pub(crate) fn close_all(upstream: &Upstream) {
    match upstream.idle.with(|idle| !idle.is_empty() && idle.mark_removed(|_| false)) {
        Some(true) => close_removed(upstream, End::Exiting),
        Some(false) => {}
        None => close_lost(upstream),
    }
}

/// Closes the connections of a pool that cannot be used any more since a panic.
#[cold]
pub(super) fn close_lost(upstream: &Upstream) {
    let own: *const Upstream = upstream;
    Cycle::current().each_connection(|conn| {
        // Only `sleep` puts the upstream there.
        if conn.is_idle() && std::ptr::eq(conn.data().cast(), own) {
            socket::close(conn);
        }
    });
}

/// Closes each connection to a marked server. It takes them one by one, so that the pool is not borrowed while nginx
/// closes one.
pub(crate) fn close_removed(upstream: &Upstream, why: End) {
    let mut from = 0;
    while let Some(idle) = upstream.idle.with(|idle| idle.take_removed(&mut from)).flatten() {
        close_idle(upstream, idle, why);
    }
}
