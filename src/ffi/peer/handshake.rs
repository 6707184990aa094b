//! The TLS part of a new connection: its session, and the identity that the handshake has given it.

use std::ffi::c_void;

use nginx_sys::{ngx_int_t, ngx_peer_connection_t, NGX_ERROR, NGX_OK};

use crate::directive::Http2Mode;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::tls::offer_protocols;
use crate::ffi::peer::identity;
use crate::ffi::state::peer_data::{Attempt, PeerData};

/// Whether the handshake had the identity that was evaluated before it; `None` if not. If a variable has changed in between,
/// the identity of the connection is unknown, and the connection is not used again.
pub(crate) fn handshake_agrees(kp: &PeerData, attempt: Attempt, identity: &[u8]) -> Option<()> {
    if attempt.is_from_handshake() || !kp.u.uses_tls() {
        return Some(());
    }
    // The core keeps the name that it used, but not the certificate.
    if identity::tls::certificate_varies(kp.u) {
        return None;
    }
    // SAFETY: the request that gives the connection back is live, and its handshake is done.
    let used = unsafe { identity::identity_of_handshake(kp.r, kp.u) }?;
    // SAFETY: written into the pool of the live request just now.
    (unsafe { used.as_slice() } == identity).then_some(())
}

/// Offers the server a TLS session for resumption: one of exactly the same identity, or none. The balancer's own store has
/// one session per server, for all identities.
///
/// The core calls this right after it has given name and certificate to the handshake, so the identity is evaluated now: only
/// a variable that is different each time it is read can still differ from what the handshake was given.
pub(crate) unsafe extern "C" fn set_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    let (Some(conn), Some(attempt)) = (peer.connection(), kp.attempt.take()) else {
        return NGX_OK as ngx_int_t;
    };
    guard(NGX_ERROR as ngx_int_t, || {
        if !offer_http2(kp, conn) {
            return NGX_ERROR as ngx_int_t;
        }
        // SAFETY: the request whose handshake begins is live.
        let Some(identity) = (unsafe { identity::identity_of_handshake(kp.r, kp.u) }) else {
            return NGX_OK as ngx_int_t;
        };
        // SAFETY: the identity of a new connection is in the pool of the live request.
        let before = unsafe { attempt.identity.as_slice() };
        // SAFETY: written into the pool of the live request just now.
        let now = unsafe { identity.as_slice() };
        let group = attempt.group().filter(|_| before == now);
        kp.attempt.set(Some(Attempt::of_handshake(identity, group)));
        if kp.without_sessions.get() {
            return NGX_OK as ngx_int_t;
        }
        kp.upstream().sessions.offer(&identity::key(&peer, kp.u, 0, now), conn)
    })
}

/// Offers HTTP/2 to the server, if the connection is to carry many requests. `false` on failure.
fn offer_http2(kp: &PeerData, conn: Conn) -> bool {
    let is_planned = kp.extra().stream().is_some_and(|stream| stream.output.get().is_some());
    !is_planned
        || match kp.upstream().http2.get().mode {
            Http2Mode::Off => true,
            Http2Mode::On => offer_protocols(conn, b"\x02h2"),
            Http2Mode::Auto => offer_protocols(conn, b"\x02h2\x08http/1.1"),
        }
}

/// Keeps a TLS session for resumption.
pub(crate) unsafe extern "C" fn save_session(pc: *mut ngx_peer_connection_t, data: *mut c_void) {
    // SAFETY: the core passes the peer of a live request.
    let peer = unsafe { Peer::from_ptr(pc) };
    // SAFETY: the core passes the `data` that `init_keepalive_peer` has set.
    let kp = unsafe { PeerData::from_ptr(data) };
    let (Some(conn), Some(attempt)) = (peer.connection(), kp.attempt.get()) else { return };
    // The identity of a reused connection comes from a handshake as well.
    if !kp.without_sessions.get() && (attempt.is_from_handshake() || attempt.is_reused()) {
        // SAFETY: in the pool of the live request, or of its open connection.
        let key = identity::key(&peer, kp.u, 0, unsafe { attempt.identity.as_slice() });
        guard((), || kp.upstream().sessions.keep(&key, conn));
    }
}
