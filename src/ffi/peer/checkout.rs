//! A request that has a server looks in the pool for an idle connection to it, with the identity that it needs.

use std::ptr::NonNull;

use crate::pool::{GroupRef, Key};
use crate::reuse::stale::Taken;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::elapsed;
use crate::ffi::peer::identity;
use crate::ffi::peer::retry;
use crate::ffi::state::handover::Protocol;
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::upstream::Idle;

/// Notes the identity of the new connection that the request gets.
#[cold]
pub(crate) fn note_identity(kp: &PeerData, peer: Peer) {
    find(kp, peer, |_, _, _| (None, None));
}

/// Looks, by `checkout`, for an idle connection with the identity that the request needs, and notes that identity.
#[inline(always)]
pub(crate) fn find(
    kp: &PeerData,
    peer: Peer,
    checkout: impl FnOnce(&PeerData, Peer, &Key<'_>) -> (Option<(Idle, Reuse)>, Option<GroupRef>),
) -> Option<Idle> {
    // SAFETY: the request that asks for a peer is live, and the balancer has chosen one.
    let identity = unsafe { identity::identity(kp.r, kp.u) }?;
    // SAFETY: written into the pool of the live request just now, or empty.
    let key = identity::key(&peer, kp.u, kp.location(), unsafe { identity.as_slice() });
    let (found, group) = checkout(kp, peer, &key);
    let (found, reuse) = found.unzip();
    if found.is_none() {
        learn_protocol(kp);
    }
    #[cfg(ngx_feature = "http_ssl")]
    // SAFETY: the request that asks for a peer is live, and uses TLS, as checked before.
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

/// Remembers the module of the protocol, by whose name other processes know it.
#[cold]
fn learn_protocol(kp: &PeerData) {
    if let Some(handover) = kp.upstream().handover() {
        handover.learn(Protocol { function: kp.u.protocol(), module: kp.u.module_address() });
    }
}

/// Takes a connection that fits from the pool. Connections that turn out to be closed by the server are closed, and so are those
/// that it may close before the request arrives.
#[inline]
pub(crate) fn checkout(
    kp: &PeerData,
    peer: Peer,
    key: &Key<'_>,
) -> (Option<(Idle, Reuse)>, Option<GroupRef>) {
    if retry::is_sent_once(kp) {
        return checkout_once(kp, peer, key);
    }
    take(kp, peer, key, || false, |_| None)
}

/// The same for a request that cannot be repeated.
#[inline(never)]
fn checkout_once(kp: &PeerData, peer: Peer, key: &Key<'_>) -> (Option<(Idle, Reuse)>, Option<GroupRef>) {
    take(kp, peer, key, || retry::wants_new(kp, key), |conn| retry::note_taken(kp, conn))
}

#[inline(always)]
fn take(
    kp: &PeerData,
    peer: Peer,
    key: &Key<'_>,
    wants_new: impl Fn() -> bool,
    proof: impl Fn(Conn) -> Option<NonNull<Taken>>,
) -> (Option<(Idle, Reuse)>, Option<GroupRef>) {
    let upstream = kp.upstream();
    loop {
        if wants_new() {
            return (None, None);
        }
        let mut since = 0;
        let (found, group) = upstream.checkout(key, &mut since);
        let Some(idle) = found else { return (None, group) };
        let known = upstream.known(idle.meter);
        let is_limited = !known.is_nothing();
        if is_limited && known.is_too_old(elapsed(since)) {
            retry::close_outdated(kp, peer, &idle);
            continue;
        }
        let taken = proof(idle.conn);
        let reuse = Reuse { since, is_limited, allowed: idle.allowed, round_trip: idle.round_trip, taken };
        if !upstream.check || retry::is_fresh(kp, peer, &idle, since) {
            return (Some((idle, reuse)), group);
        }
    }
}
