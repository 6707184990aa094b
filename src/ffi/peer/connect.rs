//! A request that has a server gets a connection: a stream of one that carries many, one from the pool, or a new one; or it
//! waits.

use std::ptr::NonNull;

use nginx_sys::{ngx_int_t, NGX_AGAIN, NGX_DONE, NGX_ERROR, NGX_OK};

use crate::base::clock::Msec;
use crate::ledger::Server;
use crate::metrics::{Cause, Count, Meter};

use crate::ffi::idle::shortage::yield_to_request;
use crate::ffi::idle::sleep::wake;
use crate::ffi::max_conns::slots::{reserve_slot, Reservation};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::peer::bound::reclaim;
use crate::ffi::peer::checkout::{find, find_any, note_identity};
use crate::ffi::peer::identity;
use crate::ffi::peer::retry;
use crate::ffi::peer::stream::connect_stream;
use crate::ffi::state::extra::Stage;
use crate::ffi::state::handover::Handover;
use crate::ffi::state::hints;
use crate::ffi::state::notes::Status;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::reuse::PinnedServer;
use crate::ffi::streams::idle::close_oldest_to;
use crate::ffi::waiting::enqueue::park;
use crate::ffi::waiting::inquire::inquire;

/// The request has a server. It gets a connection from the pool, or a new one, or waits for a slot.
#[inline(always)]
pub(super) fn connect(kp: &PeerData, peer: Peer, is_within_limit: bool) -> ngx_int_t {
    let has_waited = !matches!(kp.extra().stage(), Stage::Asking | Stage::Informed(_));
    if kp.upstream().http2.get().is_on() {
        if let Some(rc) = join_or_open(kp, peer, is_within_limit) {
            return rc;
        }
    }
    // If the pool fails, a new connection is opened.
    if let Some(conn) = guard(None, || find_any(kp, peer)) {
        return reuse::<false>(kp, peer, conn, has_waited);
    }
    connect_anew(kp, peer, is_within_limit, has_waited)
}

/// The same, if the upstream is plain: the request gets a connection from the pool, or a new one.
#[inline(always)]
pub(super) fn connect_plain(kp: &PeerData, peer: Peer) -> ngx_int_t {
    match guard(None, || find::<true>(kp, peer)) {
        Some(conn) => reuse::<true>(kp, peer, conn, false),
        None => connect_anew(kp, peer, true, false),
    }
}

/// The pool has no connection for the request.
#[inline(never)]
fn connect_anew(kp: &PeerData, peer: Peer, is_within_limit: bool, has_waited: bool) -> ngx_int_t {
    if kp.attempt.get().is_some_and(|attempt| attempt.is_reused()) {
        // The pool has failed with a connection that it had found.
        kp.attempt.set(None);
        kp.meter.set(None);
    }
    if kp.upstream().handover().is_some_and(Handover::can_ask) && is_within_limit {
        if let Some(rc) = ask_others(kp, peer) {
            return rc;
        }
    }
    match kp.extra().server() {
        Some(server) if !has_slot(kp, server, is_within_limit) => park_for_slot(kp, peer, server),
        _ => {
            guard((), || open(kp, peer, if has_waited { Status::Queued } else { Status::Miss }));
            NGX_OK as ngx_int_t
        }
    }
}

/// The request becomes a stream, or opens a connection for streams. `None` if it gets a connection in the usual way.
#[inline(never)]
fn join_or_open(kp: &PeerData, peer: Peer, is_within_limit: bool) -> Option<ngx_int_t> {
    let rc = guard(Some(NGX_ERROR as ngx_int_t), || connect_stream(kp, peer, is_within_limit));
    if rc == Some(NGX_ERROR as ngx_int_t) {
        // It has no slot that could be released.
        if let Some(server) = kp.take_server() {
            kp.upstream().counts.end_request(server);
        }
    }
    rc
}

/// Asks another worker for a connection, if one may have it. `None` if the request has to do without.
#[cold]
fn ask_others(kp: &PeerData, peer: Peer) -> Option<ngx_int_t> {
    guard(None, || {
        let attempt = kp.attempt.get()?;
        // SAFETY: in the pool of the live request, or empty.
        let identity = unsafe { attempt.identity.as_slice() };
        let key = identity::key(&peer, kp.u, kp.extra().location(), identity);
        inquire(kp, peer, &key)
    })
}

/// Reserves a slot for a new connection to the server.
#[inline(always)]
pub(super) fn has_slot(kp: &PeerData, server: Server, is_within_limit: bool) -> bool {
    let parked = match kp.extra().stage() {
        Stage::Resuming(_) => kp.extra().waited(),
        _ => None,
    };
    reserve_slot(kp.upstream(), server, is_within_limit, parked) == Reservation::Reserved
        || (kp.upstream().http2.get().is_on() && has_slot_of_carrier(kp, server, is_within_limit, parked))
}

/// A carrier without streams, which does not fit the request, gives up its slot for it.
#[cold]
fn has_slot_of_carrier(kp: &PeerData, server: Server, is_within_limit: bool, parked: Option<Msec>) -> bool {
    close_oldest_to(kp.upstream(), server)
        && reserve_slot(kp.upstream(), server, is_within_limit, parked) == Reservation::Reserved
}

/// Parks the request. If that fails, it does not use the server any more.
#[inline(always)]
pub(super) fn park_for_slot(kp: &PeerData, peer: Peer, server: Server) -> ngx_int_t {
    let rc = park(kp, peer, server);
    if rc != NGX_AGAIN as ngx_int_t {
        kp.set_server(None);
        kp.upstream().counts.end_request(server);
    }
    rc
}

/// The request is sent again: to the server that it had, over a new connection. `None` if it looks for a stream first.
#[cold]
pub(super) fn repeat(kp: &PeerData, peer: Peer, pinned: NonNull<PinnedServer>) -> Option<ngx_int_t> {
    let was_stale = retry::take_pinned(peer, pinned);
    kp.set_stage(Stage::Asking);
    if kp.upstream().http2.get().is_on() {
        // The stream of the attempt before had no slot of its own.
        return None;
    }
    guard((), || note_identity(kp));
    guard((), || open(kp, peer, Status::Miss));
    if let Some(meter) = kp.meter.get().filter(|_| was_stale) {
        meter.count(Count::Repeats);
    }
    Some(NGX_OK as ngx_int_t)
}

/// Takes the connection that is bound to the client of the request, if there is one.
#[cold]
#[inline(never)]
pub(super) fn reuse_own(kp: &PeerData, peer: Peer) -> Option<ngx_int_t> {
    let is_asking = kp.extra().stage() == Stage::Asking;
    let conn = is_asking.then(|| guard(None, || reclaim(kp, peer))).flatten()?;
    Some(reuse::<false>(kp, peer, conn, false))
}

/// The request gets a connection from the pool. `PLAIN` says that the upstream is plain.
#[inline(always)]
fn reuse<const PLAIN: bool>(kp: &PeerData, peer: Peer, conn: Conn, has_waited: bool) -> ngx_int_t {
    debug_conn(peer.log(), c"get keepalive peer: using connection %p", conn);
    if !PLAIN {
        let slot = kp.attempt.get().and_then(|attempt| attempt.reuse()).map(|reuse| reuse.slot);
        let server = slot.and_then(|slot| kp.upstream().server_of(slot));
        kp.upstream().counts.reuse(server, kp.extra().server());
    }
    if let Some(meter) = kp.meter.get() {
        meter.reuse();
    }
    let status = match has_waited {
        _ if kp.is_taken.get() => Status::Taken,
        true => Status::Queued,
        false => Status::Hit,
    };
    kp.note(status, conn.requests() + 1);
    wake(conn, peer.log());
    peer.use_cached(conn);
    NGX_DONE as ngx_int_t
}

/// The request gets a new connection.
#[inline(never)]
pub(super) fn open(kp: &PeerData, peer: Peer, status: Status) {
    let upstream = kp.upstream();
    yield_to_request(upstream);
    let meter = upstream.meter(peer.address());
    if let Some(meter) = meter {
        meter.open();
        if status == Status::Miss && meter.has_idle() {
            note_other_identity(kp, peer, meter);
        }
    }
    kp.meter.set(meter);
    let bypasses = upstream.limits.is_none() || kp.attempt.get().is_none();
    kp.note(if bypasses && status == Status::Miss { Status::Bypass } else { status }, 1);
}

/// There are idle connections to the server. Notes it if none of them fits the request, as it needs another identity.
#[cold]
#[inline(never)]
fn note_other_identity(kp: &PeerData, peer: Peer, meter: Meter) {
    let upstream = kp.upstream();
    let is_shared = upstream.records.get().is_none_or(|records| records.is_shared(meter));
    // A request that is sent once may refuse one that fits, and a client's own connection is for nobody else.
    if is_shared || upstream.bindings.is_some() || retry::is_sent_once(kp) {
        return;
    }
    let any = upstream.idle.with(|idle| idle.any_to(peer.address(), |protocol| protocol == kp.u.protocol()));
    if any == Some(true) {
        hints::note(upstream, Cause::Identity);
    }
}
