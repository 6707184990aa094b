//! A request that has a server looks for an idle connection to it, of the shape that it needs.

use crate::pool::{GroupRef, Key};

use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::peer::identity;
use crate::ffi::peer::retry::{self};
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::upstream::Idle;

/// Notes the shape of the new connection that the request gets.
#[cold]
pub(crate) fn note_identity(kp: &PeerData, peer: Peer) {
    find(kp, peer, |_, _, _| (None, None));
}

/// Looks, by `checkout`, for an idle connection of the shape that the request needs, and notes that shape.
#[inline(always)]
pub(crate) fn find(
    kp: &PeerData,
    peer: Peer,
    checkout: impl FnOnce(&PeerData, Peer, &Key<'_>) -> (Option<(Idle, Reuse)>, Option<GroupRef>),
) -> Option<Idle> {
    // SAFETY: the request that is asking for a peer.
    let identity = unsafe { identity::identity(kp.r, kp.u) }?;
    // SAFETY: just written into the pool of the live request.
    let key = identity::key(&peer, kp.u, kp.location(), unsafe { identity.as_slice() });
    let (found, group) = checkout(kp, peer, &key);
    let (found, reuse) = found.unzip();
    #[cfg(ngx_feature = "http_ssl")]
    // SAFETY: the request that is asking for a peer.
    if found.is_none() && kp.u.uses_tls() && unsafe { identity::tls::ask_for_handshake(kp.r, kp.u) }.is_some()
    {
        kp.without_sessions.set(true);
    }
    let identity = found.map_or(identity, |idle| idle.identity);
    kp.attempt.set(Some(Attempt {
        identity,
        #[cfg(ngx_feature = "http_ssl")]
        from_handshake: false,
        group,
        reuse,
    }));
    found
}

/// Takes a connection that fits from the pool, and closes those that turn out to be closed by the server.
#[inline]
pub(crate) fn checkout(
    kp: &PeerData,
    peer: Peer,
    key: &Key<'_>,
) -> (Option<(Idle, Reuse)>, Option<GroupRef>) {
    let upstream = kp.upstream();
    loop {
        let (found, group) = upstream.checkout(key);
        let Some(idle) = found else { return (None, group) };
        let reuse = Reuse::of(kp, &idle);
        if !upstream.check || retry::is_fresh(kp, peer, &idle) {
            return (Some((idle, reuse)), group);
        }
    }
}
