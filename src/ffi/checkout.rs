//! A request that has a server looks for an idle connection to it, of the shape that it needs.

use crate::pool::{ClassRef, Wanted};

use super::peer_connection::Peer;
use super::peer_data::{Attempt, PeerData};
use super::shape;
use super::stale::{self, Reuse};
use super::upstream::Idle;

/// Notes the shape of the new connection that the request gets.
#[cold]
pub(super) fn note_shape(kp: &PeerData, peer: Peer) {
    find(kp, peer, |_, _, _| (None, None));
}

/// Looks, by `checkout`, for an idle connection of the shape that the request needs, and notes that shape.
#[inline(always)]
pub(super) fn find(
    kp: &PeerData,
    peer: Peer,
    checkout: impl FnOnce(&PeerData, Peer, &Wanted<'_>) -> (Option<(Idle, Reuse)>, Option<ClassRef>),
) -> Option<Idle> {
    // SAFETY: the request that is asking for a peer.
    let identity = unsafe { shape::identity(kp.r, kp.u) }?;
    // SAFETY: just written into the pool of the live request.
    let wanted = shape::wanted(&peer, kp.u, kp.location(), unsafe { identity.as_slice() });
    let (found, class) = checkout(kp, peer, &wanted);
    let (found, reuse) = found.unzip();
    #[cfg(ngx_feature = "http_ssl")]
    // SAFETY: the request that is asking for a peer.
    if found.is_none() && kp.u.uses_tls() && unsafe { shape::tls::ask_for_handshake(kp.r, kp.u) }.is_some() {
        kp.without_sessions.set(true);
    }
    let identity = found.map_or(identity, |idle| idle.identity);
    kp.attempt.set(Some(Attempt {
        identity,
        #[cfg(ngx_feature = "http_ssl")]
        from_handshake: false,
        class,
        reuse,
    }));
    found
}

/// Takes a connection that fits from the pool, and closes those that turn out to be closed by the server.
#[inline]
pub(super) fn checkout(
    kp: &PeerData,
    peer: Peer,
    wanted: &Wanted<'_>,
) -> (Option<(Idle, Reuse)>, Option<ClassRef>) {
    let upstream = kp.upstream();
    loop {
        let (found, class) = upstream.checkout(wanted);
        let Some(idle) = found else { return (None, class) };
        let reuse = Reuse::of(kp, &idle);
        if !upstream.check || stale::is_fresh(kp, peer, &idle) {
            return (Some((idle, reuse)), class);
        }
    }
}
