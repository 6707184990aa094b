//! `max_conns` with idle connections: a server has so many slots, and a connection needs one to be opened. Who gets the
//! next one, and when one is free again.

use crate::base::clock::Msec;
use crate::ledger::Server;
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
    /// It is counted now.
    Reserved,
    /// Others have as many as the server allows, but soon there will be one less.
    Wait,
}

/// The server at an address, if its `max_conns` limits it.
pub(crate) fn limited_server(upstream: &Upstream, address: &[u8]) -> Option<Server> {
    let ledger = upstream.counts.ledger.get()?;
    #[cfg(nginx_resolve)]
    if let Some(watch) = upstream.watch.as_ref().filter(|_| ledger.is_changing()) {
        return changing_server(upstream, ledger, watch.generation() as u64, address);
    }
    ledger.find(address, 0).filter(|(_, limited)| *limited).map(|(server, _)| server)
}

/// Servers come and go, so that the balancer has to be asked for the limit of a new one.
#[cfg(nginx_resolve)]
fn changing_server(
    upstream: &Upstream,
    ledger: &crate::ledger::Ledger,
    generation: u64,
    address: &[u8],
) -> Option<Server> {
    if let Some((server, limited)) = ledger.find(address, generation) {
        return limited.then_some(server);
    }
    // SAFETY: the upstream's cycle is alive while it is used.
    let limit = unsafe { crate::ffi::nginx::balancer::Servers::in_zone(upstream.us) }?.limit(address);
    ledger.note(address, limit, generation, now(), is_gone).filter(|_| limit > 0)
}

/// Reserves a slot for a new connection to the server; an idle one that is of no use to the request
/// is closed for it. `within` says that the requests at the server are within its limit: if they
/// are not, the balancer does not know the limit, and nothing is to be waited for. `parked`: how
/// long the request has waited for a slot, if it has.
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
        // A worker that hangs is not to keep others from a server that has nothing to do.
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

/// Whether a connection that could be stored is to be closed, because another worker needs its slot.
pub(crate) fn must_yield(upstream: &Upstream, server: Option<Server>) -> bool {
    let (Some(ledger), Some(server)) = (upstream.counts.shared(), server) else { return false };
    let waits_elsewhere = || ledger.another_waits_longest(now()).is_some();
    let parked_elsewhere = || ledger.parked(server).next().is_some() && ledger.lacks_room(server, now());
    ledger.take_close_request(server) || ledger.is_full(server) && (waits_elsewhere() || parked_elsewhere())
}

/// Closes a connection that was in the pool. Returns whether its slot is free at once.
pub(crate) fn close_idle(upstream: &Upstream, idle: Idle, why: End) -> bool {
    if let Some(meter) = idle.meter {
        meter.end(Phase::Idle, why);
    }
    if let Some(binding) = idle.binding() {
        upstream.unbind(binding);
    }
    upstream.counts.remove_idle(idle.server);
    close_and_release(upstream, idle.conn, idle.server)
}

/// Closes a connection that nobody has. Returns whether its slot is free at once.
pub(crate) fn close_and_release(upstream: &Upstream, conn: Conn, server: Option<Server>) -> bool {
    // At the end of a worker nothing is waited for any more.
    if server.is_some_and(|server| !upstream.is_ending() && linger(conn, upstream, server)) {
        return false;
    }
    socket::close(conn);
    if let Some(server) = server {
        release_slot(upstream, server);
    }
    true
}

/// There is room for one more connection to the server.
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
