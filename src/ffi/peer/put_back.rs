//! The usual end of an attempt: the request has used a connection from the pool, and nothing has changed about it.

use crate::base::clock::Msec;
use crate::drain::is_complete;
use crate::http1::keep_alive::Margin;
use crate::metrics::Phase;
use crate::pool::Expiry;
use crate::reuse::lifetime::{Limits, Remaining};

#[cfg(nginx_resolve)]
use crate::ffi::idle::resolve;
use crate::ffi::idle::shortage::yield_to_clients;
use crate::ffi::idle::store::{put_to_sleep, Origin, Sleeper};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::response::Unread;
use crate::ffi::peer::bound;
use crate::ffi::peer::identity;
use crate::ffi::peer::warnings::warn_of_hint;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::upstream::Upstream;

/// The usual end of an attempt: the request has used a connection from the pool, and nothing has changed about it. It goes back to
/// the slot that it had. `false` if something is different: then nothing has happened. `PLAIN` says that the upstream is plain.
#[inline(always)]
pub(crate) fn put_back<const PLAIN: bool>(kp: &PeerData, peer: Peer) -> bool {
    let (Some(reuse), Some(conn)) = (kp.reuse_without_more::<PLAIN>(), peer.connection()) else {
        return false;
    };
    let Some(limits) = kp.upstream().limits.as_ref() else { return false };
    if !is_usual(kp, limits, conn, reuse) {
        return false;
    }
    let has_announced = kp.u.says_something();
    if has_announced || kp.is_limited.get() {
        return put_back_for_other_time::<PLAIN>(kp, peer, limits, (conn, reuse), has_announced);
    }
    put_into_slot::<PLAIN>(kp, peer, (conn, reuse), Expiry::Usual, false)
}

/// The same, if the server has announced how long it keeps the connection, or something was learned of it.
#[inline(never)]
fn put_back_for_other_time<const PLAIN: bool>(
    kp: &PeerData,
    peer: Peer,
    limits: &Limits,
    (conn, reuse): (Conn, Reuse),
    has_announced: bool,
) -> bool {
    let (expiry, is_hinted) = match (kp.is_limited.get(), has_announced) {
        (true, false) => (limited_expiry(kp, limits.timeout, conn.requests()), false),
        (false, true) => announced_expiry(kp, conn, reuse, limits),
        _ => return false,
    };
    expiry.is_some_and(|expiry| put_into_slot::<PLAIN>(kp, peer, (conn, reuse), expiry, is_hinted))
}

/// The connection goes back to its slot. `is_hinted` says whether it expires as the server has announced.
#[inline(always)]
fn put_into_slot<const PLAIN: bool>(
    kp: &PeerData,
    peer: Peer,
    (conn, reuse): (Conn, Reuse),
    expiry: Expiry,
    is_hinted: bool,
) -> bool {
    let server = if PLAIN { None } else { kp.extra().server() };
    match kp.upstream().put_back(reuse.slot, conn, server, now(), (expiry, is_hinted)) {
        Some(hash) => leave_in_slot::<PLAIN>(kp, peer, conn, (reuse.slot, hash), expiry),
        None => put_into_slot_by_key::<PLAIN>(kp, peer, (conn, reuse), (expiry, is_hinted)),
    }
}

/// The same for a connection with an identity, whose group may be gone.
#[cold]
#[inline(never)]
fn put_into_slot_by_key<const PLAIN: bool>(
    kp: &PeerData,
    peer: Peer,
    (conn, reuse): (Conn, Reuse),
    expiry: (Expiry, bool),
) -> bool {
    let identity = kp.attempt.get().map(|attempt| attempt.identity).filter(|identity| !identity.is_empty());
    let Some(identity) = identity else { return false };
    // SAFETY: in the pool of the connection, which is open.
    let key = identity::key(&peer, kp.u, kp.extra().location(), unsafe { identity.as_slice() });
    let server = if PLAIN { None } else { kp.extra().server() };
    match kp.upstream().put_back_by_key((reuse.slot, conn), &key, server, now(), expiry) {
        Some(hash) => leave_in_slot::<PLAIN>(kp, peer, conn, (reuse.slot, hash), expiry.0),
        None => false,
    }
}

/// The connection is in its slot: it is the request's no longer. Returns `true`.
#[inline(always)]
fn leave_in_slot<const PLAIN: bool>(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    (slot, hash): (u32, u32),
    expiry: Expiry,
) -> bool {
    let (upstream, server) = (kp.upstream(), if PLAIN { None } else { kp.extra().server() });
    kp.attempt.set(None);
    release(peer, conn);
    let from = Origin::Phase(Phase::Active);
    put_to_sleep(upstream, &Sleeper { conn, server, meter: kp.meter.get(), slot, hash, from, expiry });
    #[cfg(nginx_resolve)]
    if let (Some(watch), false) = (&upstream.watch, PLAIN) {
        resolve::stored(upstream, watch, kp.extra().generation());
    }
    yield_to_clients(upstream);
    true
}

/// Whether this is the usual end, but for what the server says. The rules are those of
/// [`release_to_pool`](super::release::release_to_pool).
#[inline(always)]
fn is_usual(kp: &PeerData, limits: &Limits, conn: Conn, reuse: Reuse) -> bool {
    let (r, request) = (kp.request(), kp.first_buffer.get());
    let requests = conn.requests();
    (kp.u.is_response_read(r, request) || is_all_here(kp))
        && !is_broken(conn)
        && requests < reuse.allowed as usize
        && limits.allows_more(requests)
        && !limits.is_too_old(conn.start_time(), now())
        && !bound::may_have_user(kp)
        && kp.u.is_request_sent(r, request, conn)
        && !is_exiting(kp.upstream())
        && conn.read().wait_readable()
}

/// When the connection expires by what the server has announced, and whether that is earlier than usual. `None` if this is not
/// the usual end.
fn announced_expiry(kp: &PeerData, conn: Conn, reuse: Reuse, limits: &Limits) -> (Option<Expiry>, bool) {
    let has_to_ask = limits.margin == Some(Margin::Share) && reuse.round_trip.is_none();
    let hint = if has_to_ask { None } else { kp.u.announced(kp.request(), kp.first_buffer.get()) };
    let Some(hint) = hint else { return (None, false) };
    let round_trip = || reuse.round_trip.map_or(0, |time| time.get().into());
    let served = (conn.requests(), reuse.allowed as usize);
    let Ok(Remaining { idle, is_hinted, allowed }) = limits.remaining(served, &hint, None, round_trip) else {
        return (None, false);
    };
    if let Some(announced) = hint.timeout.filter(|timeout| *timeout < limits.timeout) {
        warn_of_hint(kp, limits.timeout, announced);
    }
    let allowed = u32::try_from(allowed).unwrap_or(u32::MAX);
    if allowed != reuse.allowed {
        kp.upstream().set_allowed(reuse.slot, conn, allowed);
    }
    (Some(Expiry::after(idle, limits.timeout)), is_hinted)
}

/// Whether the core has left a response unread which has come with its header, to its end.
#[inline(never)]
fn is_all_here(kp: &PeerData) -> bool {
    let size = kp.upstream().drain.size;
    let unread = if size > 0 { kp.u.unread_response(kp.request(), kp.first_buffer.get()) } else { None };
    unread.is_some_and(|Unread { framing, preread }| is_complete(framing, size, preread))
}

/// When the connection expires by what was learned of the server. `None` if it is to be closed.
fn limited_expiry(kp: &PeerData, timeout: Msec, requests: usize) -> Option<Expiry> {
    let known = kp.upstream().known(kp.meter.get());
    (!known.is_reached(requests)).then(|| Expiry::after(known.next_look(), timeout))
}

/// Whether nothing can be sent or read any more.
#[inline(always)]
pub(super) fn is_broken(conn: Conn) -> bool {
    let (read, write) = (conn.read(), conn.write());
    read.eof() || read.error() || read.timed_out() || write.error() || write.timed_out()
}

/// Whether connections are no longer kept. Requests that wait are served even if the worker exits, and others by the workers of a
/// later configuration. Without a pool each would open a connection.
#[inline(always)]
pub(super) fn is_exiting(upstream: &Upstream) -> bool {
    upstream.is_ending() && !upstream.has_heir()
}

/// The request has no connection any more.
#[inline(always)]
pub(super) fn release(peer: Peer, conn: Conn) {
    debug_conn(peer.log(), c"free keepalive peer: saving connection %p", conn);
    peer.release_connection();
}
