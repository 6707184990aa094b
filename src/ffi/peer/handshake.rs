//! The TLS part of a new connection: its session, and the identity that the handshake has given it.

use std::ffi::c_void;

use nginx_sys::{ngx_int_t, ngx_peer_connection_t, NGX_ERROR, NGX_OK};

use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::peer::identity;
use crate::ffi::state::peer_data::{Attempt, PeerData};

/// What the handshake was to be given was evaluated before it. If a variable has changed in between,
/// it is not known what the connection has got, and nobody gets it again.
pub(crate) fn handshake_agrees(kp: &PeerData, attempt: Attempt, identity: &[u8]) -> Option<()> {
    if attempt.from_handshake || !kp.u.uses_tls() {
        return Some(());
    }
    // Of the name the core keeps what it used, of the certificate it does not.
    if identity::tls::certificate_varies(kp.u) {
        return None;
    }
    // SAFETY: the request that gives the connection back, after its handshake.
    let really = unsafe { identity::identity_of_handshake(kp.r, kp.u) }?;
    // SAFETY: just written into the pool of the live request.
    (unsafe { really.as_slice() } == identity).then_some(())
}

/// Offers the server a TLS session for resumption: one of the very same identity, or none. The
/// balancer's own store has one session for each server, whoever it was made for.
///
/// The core calls this right after it has given name and certificate to the handshake, so this is
/// the moment to tell the identity: only a variable that is different each time it is read can still
/// differ from what the handshake was given.
pub(crate) unsafe extern "C" fn set_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    let (Some(conn), Some(attempt)) = (peer.connection(), kp.attempt.take()) else {
        return NGX_OK as ngx_int_t;
    };
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: the request whose handshake begins.
        let Some(identity) = (unsafe { identity::identity_of_handshake(kp.r, kp.u) }) else {
            return NGX_OK as ngx_int_t;
        };
        // SAFETY: in the pool of the live request.
        let before = unsafe { attempt.identity.as_slice() };
        // SAFETY: as above.
        let now = unsafe { identity.as_slice() };
        let group = attempt.group.filter(|_| before == now);
        kp.attempt.set(Some(Attempt { identity, from_handshake: true, group, reuse: None }));
        if kp.without_sessions.get() {
            return NGX_OK as ngx_int_t;
        }
        kp.upstream().sessions.offer(&identity::key(&peer, kp.u, 0, now), conn)
    })
}

/// Keeps a TLS session for resumption.
pub(crate) unsafe extern "C" fn save_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    let (Some(conn), Some(attempt)) = (peer.connection(), kp.attempt.get()) else { return };
    // A reused connection has got its identity from a handshake as well.
    if !kp.without_sessions.get() && (attempt.from_handshake || attempt.reuse.is_some()) {
        // SAFETY: in the pool of the live request, or of its connection.
        let key = identity::key(&peer, kp.u, 0, unsafe { attempt.identity.as_slice() });
        guard((), || kp.upstream().sessions.keep(&key, conn));
    }
}
