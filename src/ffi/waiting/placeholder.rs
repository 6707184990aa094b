//! What the core holds while a request waits: a connection without a socket, and an address that is none.

use std::ptr::NonNull;

use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::waiter::Waiter;

/// A wait begins: the connection that stands in is made ready.
pub(crate) fn start_wait(kp: &PeerData, peer: Peer) -> Option<NonNull<Waiter>> {
    let waiter = match kp.waiter.get() {
        Some(waiter) => waiter,
        // SAFETY: the request is alive.
        None => unsafe { Waiter::new(kp.pool(), NonNull::from(kp)) }?,
    };
    kp.waiter.set(Some(waiter));
    // SAFETY: in the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    this.stand_in(peer.log());
    this.since.set(now());
    Some(waiter)
}

/// The core gets what stands in for a connection, and for a server.
pub(crate) fn install_placeholder(kp: &PeerData, peer: Peer, waiter: &Waiter) {
    peer.set_log_action(c"waiting in upstream queue");
    peer.set_connection(waiter.conn());
    // SAFETY: the upstream's cycle is alive while it is used; makes no reference.
    let name = unsafe { &raw mut (*kp.upstream().us.as_ptr()).host };
    peer.set_no_server(waiter.address(), name);
}
