//! A connection that a request gives back: whether it may be kept, and for whom.

use nginx_sys::{ngx_uint_t, NGX_PEER_FAILED};

use crate::base::clock::Msec;
use crate::drain::{Drain, Progress};
use crate::http1::keep_alive::Hint;
use crate::ledger::Server;
use crate::metrics::{End, Phase};
use crate::pool::{GroupRef, Key, Offer};
use crate::reuse::lifetime::{Limits, NotKept, Remaining, Returned};

use crate::ffi::idle::drain;
use crate::ffi::idle::store::{store, Origin};
use crate::ffi::max_conns::slots::{close_and_release, release_slot};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::response::Unread;
use crate::ffi::nginx::tcp_info;
use crate::ffi::peer::bound;
#[cfg(ngx_feature = "http_ssl")]
use crate::ffi::peer::handshake::handshake_agrees;
use crate::ffi::peer::identity;
use crate::ffi::peer::not_stored::{failure_reason, not_stored_reason};
use crate::ffi::peer::warnings::{warn_of_hint, warn_of_no_time};
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::upstream::{Bytes, Idle, RoundTrip};

/// Takes the connection from the request, into the pool, or to be drained before.
///
/// # Errors
/// Why the connection may not be kept. The request has it still.
#[inline(always)]
pub(crate) fn release_to_pool(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    attempt: Attempt,
    state: ngx_uint_t,
) -> Result<(), End> {
    let upstream = kp.upstream();
    let Some(limits) = upstream.limits else {
        return Err(failure_reason(kp, state, false).unwrap_or(End::Disabled));
    };
    let (r, read) = (kp.request(), conn.read());
    let (returned, unread) = look_at(kp, conn, attempt, state);
    let now = now();
    if let Some(refusal) = limits.refusal(&returned, now) {
        debug_conn(peer.log(), not_saving(refusal), conn);
        return Err(not_stored_reason(kp, conn, refusal, state, attempt.reuse.is_some()));
    }
    let said = kp.u.said(r, kp.first_buffer.get());
    let has_user = bound::has_user(kp, said.as_ref());
    let hint = said.map(|said| said.hint).unwrap_or_default();
    let (rest, round_trip) = rest(kp, peer, conn, attempt, &limits, &returned, hint)?;
    if !read.wait_readable() {
        return Err(End::Error);
    }
    let server = kp.server.get();
    let (identity, group) = identity_from_now_on(kp, peer, conn, attempt, has_user)?;
    // SAFETY: in the pool of the connection, which is open.
    let key = identity::key(&peer, kp.u, kp.location(), unsafe { identity.as_slice() });
    let idle = Idle {
        conn,
        identity,
        server,
        meter: kp.meter.get(),
        hinted: rest.idle < limits.timeout,
        round_trip,
        allowed: u32::try_from(rest.allowed).unwrap_or(u32::MAX),
        is_taken: false,
    };
    let reused = attempt.reuse.is_some();
    let offer = Offer { conn: idle, group, reused, now, timeout: rest.idle, server };
    match unread {
        None => save(kp, peer, &key, offer),
        Some(unread) => drain(kp, peer, &unread, &key, offer),
    }
}

/// The state of the connection, and what is unread of the response, if it can be drained.
#[inline(always)]
fn look_at(kp: &PeerData, conn: Conn, attempt: Attempt, state: ngx_uint_t) -> (Returned, Option<Unread<'_>>) {
    let (upstream, r) = (kp.upstream(), kp.request());
    let (read, write) = (conn.read(), conn.write());
    let is_read = kp.u.is_response_read(r, kp.first_buffer.get());
    let can_drain = !is_read && upstream.drain.size > 0;
    let unread = if can_drain { kp.u.unread_response(r, kp.first_buffer.get()) } else { None };
    let returned = Returned {
        failed: state & NGX_PEER_FAILED as ngx_uint_t != 0,
        broken: read.eof() || read.error() || read.timed_out() || write.error() || write.timed_out(),
        requests: conn.requests(),
        allowed: attempt.reuse.map_or(usize::MAX, |reuse| reuse.allowed as usize),
        opened: conn.start_time(),
        keepalive: is_read || unread.is_some(),
        request_sent: kp.u.is_request_sent(r, kp.first_buffer.get(), conn),
        // Requests that wait are served even if the worker exits, and others by the workers of a later configuration. Without a
        // pool each would open a connection.
        exiting: upstream.is_ending() && !upstream.has_heir(),
    };
    (returned, unread)
}

/// The identity under which the connection is stored, and its group in the pool, if that is known. A connection that has got
/// a user is bound to the client of the request.
#[inline(always)]
fn identity_from_now_on(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    attempt: Attempt,
    has_user: bool,
) -> Result<(Bytes, Option<GroupRef>), End> {
    let Some(identity) = identity_to_keep(kp, attempt, conn) else {
        debug_conn(peer.log(), c"free keepalive peer: not saving connection %p: identity unknown", conn);
        return Err(End::Identity);
    };
    if !has_user || kp.binding.get().is_some() {
        return Ok((identity, attempt.group));
    }
    let bound = bound::bind(kp, peer, conn, identity).inspect_err(|_| {
        debug_conn(peer.log(), c"free keepalive peer: not saving connection %p: it has a user", conn);
    });
    Ok((bound?, None))
}

#[inline]
fn save(kp: &PeerData, peer: Peer, key: &Key<'_>, offer: Offer<Idle>) -> Result<(), End> {
    store(kp.upstream(), key, offer, Origin::Phase(Phase::Active), kp.generation(), || {
        debug_conn(peer.log(), c"free keepalive peer: saving connection %p", offer.conn.conn);
        peer.release_connection();
    })
}

/// Reads the rest of a response of which a part, or all, came with its header.
#[cold]
fn drain(
    kp: &PeerData,
    peer: Peer,
    unread: &Unread<'_>,
    key: &Key<'_>,
    offer: Offer<Idle>,
) -> Result<(), End> {
    let upstream = kp.upstream();
    let drain = Drain::new(unread.framing, upstream.drain.size);
    match drain.and_then(|mut drain| Ok((drain.read(unread.preread)?, drain))) {
        Ok((Progress::Done, _)) => save(kp, peer, key, offer),
        Ok((Progress::More, drain)) => drain::begin(upstream, drain, key, offer, kp.generation(), || {
            debug_conn(peer.log(), c"free keepalive peer: draining connection %p", offer.conn.conn);
            peer.release_connection();
        }),
        Err(why) => {
            let (text, end) = drain::reason(why);
            drain::log_refusal(upstream, peer.log(), text);
            Err(end)
        }
    }
}

/// How long a connection that may be kept can still be used, after what its server has said; and how long a round trip takes,
/// if that was measured.
#[inline(always)]
fn rest(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    attempt: Attempt,
    limits: &Limits,
    returned: &Returned,
    hint: Hint,
) -> Result<(Remaining, Option<RoundTrip>), End> {
    let mut round_trip = attempt.reuse.and_then(|reuse| reuse.round_trip);
    let ask = || Msec::from(round_trip.get_or_insert_with(|| ask_round_trip(conn)).get());
    match limits.remaining(returned, &hint, ask) {
        Ok(rest) => {
            if let Some(announced) = hint.timeout.filter(|timeout| *timeout < limits.timeout) {
                warn_of_hint(kp, limits.timeout, announced);
            }
            Ok((rest, round_trip))
        }
        Err(refusal) => {
            debug_conn(peer.log(), not_saving(refusal), conn);
            if refusal == NotKept::ClosesSoon {
                warn_of_no_time(kp, limits.margin, hint.timeout, round_trip);
            }
            Err(End::Hint)
        }
    }
}

/// How long a round trip takes. The kernel is asked once per connection, and only if the server says how long it keeps it.
#[cold]
fn ask_round_trip(conn: Conn) -> RoundTrip {
    let measured = tcp_info::round_trip(conn).unwrap_or(0);
    RoundTrip::new(u16::try_from(measured).unwrap_or(u16::MAX)).unwrap_or(RoundTrip::MIN)
}

/// The identity under which a connection is stored: the one with which it was opened. `None` if it is unknown.
#[inline]
pub(super) fn identity_to_keep(kp: &PeerData, attempt: Attempt, conn: Conn) -> Option<Bytes> {
    if attempt.reuse.is_some() || attempt.identity.is_empty() {
        return Some(attempt.identity);
    }
    // SAFETY: the identity of a new connection is in the pool of the live request.
    let identity = unsafe { attempt.identity.as_slice() };
    #[cfg(ngx_feature = "http_ssl")]
    handshake_agrees(kp, attempt, identity)?;
    identity::keep_identity(conn, identity)
}

#[cold]
#[inline(never)]
fn not_saving(refusal: NotKept) -> &'static std::ffi::CStr {
    match refusal {
        NotKept::Failed => c"free keepalive peer: not saving connection %p: request failed",
        NotKept::Broken => c"free keepalive peer: not saving connection %p: closed or broken",
        NotKept::Requests => c"free keepalive peer: not saving connection %p: keepalive_requests reached",
        NotKept::Time => c"free keepalive peer: not saving connection %p: keepalive_time reached",
        NotKept::Hint => c"free keepalive peer: not saving connection %p: the server keeps it no longer",
        NotKept::ClosesSoon => {
            c"free keepalive peer: not saving connection %p: the server closes it too soon"
        }
        NotKept::NotKeepalive => c"free keepalive peer: not saving connection %p: no keepalive response",
        NotKept::RequestUnsent => c"free keepalive peer: not saving connection %p: request not fully sent",
        NotKept::Exiting => c"free keepalive peer: not saving connection %p: worker exiting",
    }
}

/// A request has stopped using a server that limits its connections.
#[inline(never)]
pub(crate) fn leave_server(kp: &PeerData, peer: Peer, server: Server, kept: bool) {
    let upstream = kp.upstream();
    match peer.connection() {
        _ if kept => {}
        // The core would close it at a time that we do not learn.
        Some(conn) => {
            peer.release_connection();
            close_and_release(upstream, conn, Some(server));
        }
        None => release_slot(upstream, server),
    }
    // Just before the balancer hears of it: if a worker is killed in between, the balancer counts its request for ever.
    if !kp.is_reclaimed.get() {
        upstream.counts.end_request(server);
    }
}

/// Counts the end of the request's connection.
#[cold]
pub(crate) fn count_close(kp: &PeerData, why: End) {
    if let Some(meter) = kp.meter.take() {
        meter.end(Phase::Active, why);
    }
    if let Some(binding) = kp.binding.take() {
        kp.upstream().unbind(binding);
    }
}
