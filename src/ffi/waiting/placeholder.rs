//! The placeholder that the core holds while a request waits: a connection without a socket, and an empty address.

use std::ptr::NonNull;

use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::waiter::Waiter;

/// Begins a wait, and prepares its placeholder. `None` if there is no memory.
pub(crate) fn start_wait(kp: &PeerData, peer: Peer) -> Option<NonNull<Waiter>> {
    let waiter = match kp.extra().waiter() {
        Some(waiter) => waiter,
        // SAFETY: the pool of the live request, in which `kp` lies.
        None => unsafe { Waiter::new(kp.pool(), NonNull::from(kp)) }?,
    };
    kp.set_waiter(waiter)?;
    // SAFETY: made above or in an earlier wait, in the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    this.stand_in(peer.log());
    this.since.set(now());
    Some(waiter)
}

/// Gives the core the placeholder instead of a connection, and of a server.
pub(crate) fn install_placeholder(kp: &PeerData, peer: Peer, waiter: &Waiter) {
    peer.set_log_action(c"waiting in upstream queue");
    peer.set_connection(waiter.conn());
    // SAFETY: the live request keeps the cycle of its upstream alive; tells an address, and makes no reference.
    let name = unsafe { &raw mut (*kp.upstream().us.as_ptr()).host };
    peer.set_no_server(waiter.address(), name);
}
