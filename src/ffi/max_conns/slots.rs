//! `max_conns` with idle connections: a server has as many slots as its limit says, and each connection takes one. This file
//! decides who gets the next slot, and when one is free again.

use crate::base::clock::Msec;
use crate::ledger::{Ledger, Server};
use crate::metrics::{End, Phase};

use crate::ffi::nginx::conn::Conn;
#[cfg(nginx_resolve)]
use crate::ffi::nginx::process::is_gone;
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::socket;
use crate::ffi::state::upstream::{Idle, Upstream};
use crate::ffi::state::waits::INTERVAL;

use super::linger::linger;

/// Whether a connection may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reservation {
    /// It may, and is counted now.
    Reserved,
    /// The server has as many as it allows, but one will be closed soon.
    Wait,
}

/// The server at an address, if it has `max_conns`.
#[inline(always)]
pub(crate) fn limited_server(upstream: &Upstream, address: &[u8]) -> Option<Server> {
    upstream.counts.ledger.get().and_then(|ledger| find_limited(upstream, ledger, address))
}

#[inline(never)]
fn find_limited(upstream: &Upstream, ledger: &Ledger, address: &[u8]) -> Option<Server> {
    #[cfg(nginx_resolve)]
    if let Some(watch) = upstream.watch.as_ref().filter(|_| ledger.is_changing()) {
        return changing_server(upstream, ledger, watch.generation() as u64, address);
    }
    #[cfg(not(nginx_resolve))]
    let _ = upstream;
    ledger.find(address, 0).filter(|(_, limited)| *limited).map(|(server, _)| server)
}

/// The same when servers come and go: the balancer has to be asked for the limit of a new server.
#[cfg(nginx_resolve)]
fn changing_server(upstream: &Upstream, ledger: &Ledger, generation: u64, address: &[u8]) -> Option<Server> {
    if let Some((server, limited)) = ledger.find(address, generation) {
        return limited.then_some(server);
    }
    let limit = upstream.servers_in_zone()?.limit(address);
    ledger.note(address, limit, generation, now(), is_gone).filter(|_| limit > 0)
}

/// Reserves a slot for a new connection to the server. An idle connection that does not fit the request is closed for it.
/// `within` says that the requests at the server are within its limit. If they are not, the balancer does not know the
/// limit, and waiting would not help. `parked` is how long the request has waited for a slot, in milliseconds, if it has.
pub(crate) fn reserve_slot(
    upstream: &Upstream,
    server: Server,
    within: bool,
    parked: Option<Msec>,
) -> Reservation {
    let Some(ledger) = upstream.counts.ledger.get() else { return Reservation::Reserved };
    if within && parked.is_none() && ledger.has_parked(server) {
        return Reservation::Wait;
    }
    loop {
        if ledger.open(server) {
            return Reservation::Reserved;
        }
        // A worker that hangs must not keep others from a server that has nothing to do.
        let in_vain = parked.is_some_and(|time| time >= INTERVAL) && ledger.is_out_of_reach(server, now());
        if !within || in_vain {
            ledger.open_over_limit(server);
            return Reservation::Reserved;
        }
        if ledger.room_is_coming(server) {
            return Reservation::Wait;
        }
        let Some(idle) = upstream.take_oldest_of(server) else { return Reservation::Wait };
        if !close_idle(upstream, idle, End::Evicted) {
            return Reservation::Wait;
        }
    }
}

/// The worker that needs an idle connection to the server, or its slot, more than this one. A request that has been granted the
/// server comes first, then the one that has waited longest for any server.
pub(crate) fn neediest(upstream: &Upstream, server: Server) -> Option<usize> {
    let ledger = upstream.counts.shared()?;
    let parked = || ledger.parked(server).next();
    if ledger.take_close_request(server) {
        return parked();
    }
    if !ledger.is_full(server) || ledger.has_parked(server) {
        return None;
    }
    let lacks_room = |_: &usize| ledger.lacks_room(server, now());
    parked().filter(lacks_room).or_else(|| ledger.another_waits_longest(now()))
}

/// Closes a connection that was in the pool. Returns whether its slot is free at once.
pub(crate) fn close_idle(upstream: &Upstream, idle: Idle, why: End) -> bool {
    if let Some(meter) = idle.meter {
        meter.end(Phase::Idle, why);
    }
    if let Some(binding) = idle.binding() {
        upstream.unbind(binding);
    }
    upstream.counts.remove_idle(idle.server.get());
    close_and_release(upstream, idle.conn, idle.server.get())
}

/// Closes a connection that is neither in the pool nor in use. Returns whether its slot is free at once.
pub(crate) fn close_and_release(upstream: &Upstream, conn: Conn, server: Option<Server>) -> bool {
    // A worker that ends waits for nothing any more.
    if server.is_some_and(|server| !upstream.is_ending() && linger(conn, upstream, server)) {
        return false;
    }
    socket::close(conn);
    if let Some(server) = server {
        release_slot(upstream, server);
    }
    true
}

/// Frees the slot of a closed connection, and wakes the workers and requests that wait for it.
pub(crate) fn release_slot(upstream: &Upstream, server: Server) {
    let Some(ledger) = upstream.counts.ledger.get() else { return };
    ledger.close(server);
    if ledger.is_shared() {
        ledger.parked(server).for_each(|worker| upstream.counts.ring(worker));
    }
    if upstream.waits.any_parked() {
        upstream.post_dispatch();
    }
}
