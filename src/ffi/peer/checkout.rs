//! A request that has a server looks in the pool for an idle connection to it, with the identity that it needs.

use crate::metrics::End;
use crate::pool::{GroupRef, Key};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::elapsed;
use crate::ffi::nginx::socket::pending_end;
use crate::ffi::peer::identity;
use crate::ffi::peer::retry;
use crate::ffi::state::handover::Protocol;
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::upstream::{Bytes, Idle};

/// Notes the identity of the new connection that the request gets.
#[cold]
pub(crate) fn note_identity(kp: &PeerData) {
    // SAFETY: the request that asks for a peer is live, and the balancer has chosen one.
    if let Some(identity) = unsafe { identity::identity(kp.r, kp.u) } {
        note_miss(kp, identity, None);
    }
}

/// Looks for an idle connection with the identity that the request needs, and notes that identity.
/// `PLAIN` says that the upstream is plain.
#[inline(always)]
pub(crate) fn find<const PLAIN: bool>(kp: &PeerData, peer: Peer) -> Option<Conn> {
    // SAFETY: the request that asks for a peer is live, and the balancer has chosen one.
    let identity = unsafe { identity::identity(kp.r, kp.u) }?;
    let location = if PLAIN { 0 } else { kp.extra().location() };
    // SAFETY: written into the pool of the live request just now, or empty.
    let key = identity::key(&peer, kp.u, location, unsafe { identity.as_slice() });
    let is_usual = PLAIN && !retry::is_sent_once(kp);
    let found = if is_usual { checkout(kp, peer, &key) } else { checkout_any(kp, peer, &key) };
    if found.is_none() {
        note_miss(kp, identity, kp.upstream().group_of(&key));
    }
    found
}

/// The same for an upstream that is not plain.
#[inline(never)]
pub(crate) fn find_any(kp: &PeerData, peer: Peer) -> Option<Conn> {
    find::<false>(kp, peer)
}

/// Notes that the request needs a new connection.
#[cold]
#[inline(never)]
fn note_miss(kp: &PeerData, identity: Bytes, group: Option<GroupRef>) {
    learn_protocol(kp);
    #[cfg(ngx_feature = "http_ssl")]
    // SAFETY: the request that asks for a peer is live, and uses TLS, as checked before.
    if kp.u.uses_tls() && unsafe { identity::tls::ask_for_handshake(kp.r, kp.u) }.is_some() {
        kp.without_sessions.set(true);
    }
    kp.attempt.set(Some(Attempt::new(identity, group)));
}

/// Remembers the module of the protocol, by whose name other processes know it.
#[cold]
fn learn_protocol(kp: &PeerData) {
    if let Some(handover) = kp.upstream().handover() {
        handover.learn(Protocol { function: kp.u.protocol(), module: kp.u.module_address() });
    }
}

/// Takes a connection that fits from the pool, and notes that. Connections that turn out to be closed by the server are closed, and
/// so are those that it may close before the request arrives.
#[inline(always)]
fn checkout(kp: &PeerData, peer: Peer, key: &Key<'_>) -> Option<Conn> {
    let conn = take::<0>(kp, key)?;
    match end_of(kp, conn) {
        None => Some(conn),
        Some(end) => close_and_go_on(kp, peer, key, conn, end),
    }
}

/// The first connection was not usable.
#[cold]
#[inline(never)]
fn close_and_go_on(kp: &PeerData, peer: Peer, key: &Key<'_>, conn: Conn, end: End) -> Option<Conn> {
    close(kp, peer, conn, end);
    loop {
        let conn = take_again(kp, key)?;
        match end_of(kp, conn) {
            None => return Some(conn),
            Some(end) => close(kp, peer, conn, end),
        }
    }
}

/// The same for any request, also for one that cannot be repeated.
#[cold]
#[inline(never)]
pub(super) fn checkout_any(kp: &PeerData, peer: Peer, key: &Key<'_>) -> Option<Conn> {
    let is_sent_once = retry::is_sent_once(kp);
    loop {
        if is_sent_once && retry::wants_new(kp, key) {
            return None;
        }
        let conn = take_again(kp, key)?;
        let taken = if is_sent_once { retry::note_taken(kp, conn) } else { None };
        match end_of(kp, conn) {
            None => {
                kp.attempt.set(kp.attempt.get().map(|attempt| attempt.with_proof(taken)));
                return Some(conn);
            }
            Some(end) => close(kp, peer, conn, end),
        }
    }
}

/// Each `COPY` of the code is compiled for itself.
#[inline(always)]
fn take<const COPY: u8>(kp: &PeerData, key: &Key<'_>) -> Option<Conn> {
    let upstream = kp.upstream();
    upstream.lend(key, |idle, slot, since| {
        let Idle { conn, meter, is_taken, allowed, round_trip, .. } = *idle;
        kp.is_limited.set(!upstream.known(meter).is_nothing());
        kp.is_taken.set(is_taken);
        kp.meter.set(meter);
        let reuse = Reuse { since, slot, allowed, round_trip };
        kp.attempt.set(Some(Attempt::reused(idle.identity, reuse)));
        conn
    })
}

/// The same where it is not in the usual way: one copy of the code for all.
#[cold]
#[inline(never)]
fn take_again(kp: &PeerData, key: &Key<'_>) -> Option<Conn> {
    take::<1>(kp, key)
}

/// Why a connection that was taken cannot be used: it is not open and silent any more, or the server may close it at once. `None` if it
/// can.
#[inline(always)]
fn end_of(kp: &PeerData, conn: Conn) -> Option<End> {
    let end = if kp.upstream().check { pending_end(conn) } else { None };
    if kp.is_limited.get() && is_outdated(kp) {
        return Some(End::Learned);
    }
    end
}

/// Whether the server may close the connection before the request arrives, by what was learned.
#[inline(never)]
fn is_outdated(kp: &PeerData) -> bool {
    let since = kp.attempt.get().and_then(|attempt| attempt.reuse()).map(|reuse| reuse.since);
    since.is_some_and(|since| kp.upstream().known(kp.meter.get()).is_too_old(elapsed(since)))
}

/// Closes the connection that was taken, and that the request cannot use.
#[cold]
fn close(kp: &PeerData, peer: Peer, conn: Conn, end: End) {
    let reuse = kp.attempt.take().and_then(|attempt| attempt.reuse());
    kp.meter.set(None);
    let Some(Reuse { slot, since, .. }) = reuse else { return };
    let Some(idle) = kp.upstream().forget(slot, conn) else { return };
    match end {
        End::Learned => retry::close_outdated(kp, peer, &idle),
        end => retry::close_ended(kp, peer, &idle, elapsed(since), end),
    }
}
