//! A connection that a request gives back: whether it may be kept, and for whom.

use nginx_sys::{ngx_uint_t, NGX_PEER_FAILED};

use crate::base::clock::Msec;
use crate::drain::{Drain, Progress};
use crate::http1::keep_alive::Hint;
use crate::ledger::Server;
use crate::lessons::{Bound, Lesson, Verdict, BEHIND_WATCH};
use crate::metrics::{End, Phase};
use crate::pool::{Expiry, GroupRef, Key, Offer};
use crate::reuse::lifetime::{NotKept, Remaining, Returned};

use crate::ffi::idle::drain;
use crate::ffi::idle::learn;
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
use crate::ffi::peer::not_stored::{failure_reason, not_stored_reason, note_end, note_request};
use crate::ffi::peer::put_back::{is_broken, is_exiting, release};
use crate::ffi::peer::warnings::{warn_of_hint, warn_of_no_time};
use crate::ffi::state::lessons::lesson_of;
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::upstream::{Bytes, Idle, RoundTrip, Upstream};

/// Takes the connection from the request, into the pool, or to be drained before.
///
/// # Errors
/// Why the connection may not be kept. The request has it still.
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
        let end = not_stored_reason(kp, conn, refusal, state, attempt.is_reused());
        // A server that ends its response by closing the connection has no limit for that.
        if end == End::ServerClosed && kp.u.keepalive() && upstream.learns() {
            let lesson = lesson_of(kp.meter.get()).unwrap_or_default();
            learn::on_close(upstream, peer.address(), lesson, (conn, conn.requests()), 0);
        }
        return Err(end);
    }
    let said = kp.u.said(r, kp.first_buffer.get());
    let has_user = bound::has_user(kp, said.as_ref());
    let hint = said.map(|said| said.hint).unwrap_or_default();
    let rest = rest(kp, peer, conn, attempt, &returned, hint)?;
    if !read.wait_readable() {
        return Err(End::Error);
    }
    let (identity, group) = identity_from_now_on(kp, peer, conn, attempt, has_user)?;
    // SAFETY: in the pool of the connection, which is open.
    let key = identity::key(&peer, kp.u, kp.extra().location(), unsafe { identity.as_slice() });
    let idle = Idle {
        conn,
        identity,
        server: kp.extra().server().into(),
        meter: kp.meter.get(),
        hinted: rest.is_hinted,
        round_trip: rest.round_trip,
        allowed: rest.allowed,
        is_taken: false,
    };
    let reused = attempt.is_reused();
    if !reused && upstream.closes_for.get().is_some() {
        note_request(kp);
    }
    let offer = Offer { conn: idle, group, reused, now, expiry: Expiry::after(rest.idle, limits.timeout) };
    let (key, offer) = if rest.watches { watching(key, offer) } else { (key, offer) };
    match unread {
        None => save(kp, peer, &key, offer),
        Some(unread) => drain(kp, peer, &unread, &key, offer),
    }
}

/// The state of the connection, and what is unread of the response, if it can be drained.
fn look_at(kp: &PeerData, conn: Conn, attempt: Attempt, state: ngx_uint_t) -> (Returned, Option<Unread<'_>>) {
    let (upstream, r) = (kp.upstream(), kp.request());
    let is_read = kp.u.is_response_read(r, kp.first_buffer.get());
    let can_drain = !is_read && upstream.drain.size > 0;
    let unread = if can_drain { kp.u.unread_response(r, kp.first_buffer.get()) } else { None };
    let returned = Returned {
        failed: state & NGX_PEER_FAILED as ngx_uint_t != 0,
        broken: is_broken(conn),
        requests: conn.requests(),
        allowed: attempt.reuse().map_or(usize::MAX, |reuse| reuse.allowed as usize),
        opened: conn.start_time(),
        keepalive: is_read || unread.is_some(),
        request_sent: kp.u.is_request_sent(r, kp.first_buffer.get(), conn),
        exiting: is_exiting(upstream),
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
    if !has_user || kp.extra().binding().is_some() {
        return Ok((identity, attempt.group()));
    }
    let bound = bound::bind(kp, peer, conn, identity).inspect_err(|_| {
        debug_conn(peer.log(), c"free keepalive peer: not saving connection %p: it has a user", conn);
    });
    Ok((bound?, None))
}

#[inline]
fn save(kp: &PeerData, peer: Peer, key: &Key<'_>, offer: Offer<Idle>) -> Result<(), End> {
    store(kp.upstream(), key, offer, Origin::Phase(Phase::Active), kp.extra().generation(), || {
        release(peer, offer.conn.conn);
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
        Ok((Progress::More, drain)) => {
            drain::begin(upstream, drain, key, offer, kp.extra().generation(), || {
                debug_conn(peer.log(), c"free keepalive peer: draining connection %p", offer.conn.conn);
                peer.release_connection();
            })
        }
        Err(why) => {
            let (text, end) = drain::reason(why);
            drain::log_refusal(upstream, peer.log(), text);
            Err(end)
        }
    }
}

/// What a connection that may be kept can still do.
struct Rest {
    /// How long it may be idle, in milliseconds.
    idle: Msec,
    /// That is less than `keepalive_timeout`, because of what the server has announced.
    is_hinted: bool,
    /// It stays only to see if the server closes it now.
    watches: bool,
    /// The number of the last request that the server accepts on it, if the server said so.
    allowed: u32,
    /// How long a round trip takes, if that was measured.
    round_trip: Option<RoundTrip>,
}

/// What a connection that may be kept can still do, after what its server has said, and what was learned of the server. When it
/// was taken from the pool, that was looked up.
#[inline(always)]
fn rest(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    attempt: Attempt,
    returned: &Returned,
    hint: Hint,
) -> Result<Rest, End> {
    let upstream = kp.upstream();
    let (allowed, is_limited, round_trip) = match attempt.reuse() {
        Some(Reuse { allowed, round_trip, .. }) => (allowed, kp.is_limited.get(), round_trip),
        None => (u32::MAX, true, None),
    };
    if hint.timeout.is_some() || hint.requests.is_some() || returned.requests >= allowed as usize {
        return if is_limited {
            limited_rest(kp, peer, conn, returned, hint, round_trip)
        } else {
            rest_of(kp, peer, conn, returned, hint, None, round_trip)
        };
    }
    let mut idle = upstream.limits.map_or(0, |limits| limits.timeout);
    if is_limited {
        let known = upstream.known(kp.meter.get());
        if !known.is_nothing() {
            if known.is_reached(returned.requests) {
                return limited_rest(kp, peer, conn, returned, hint, round_trip);
            }
            idle = idle.min(known.next_look());
        }
    }
    Ok(Rest { idle, is_hinted: false, watches: false, allowed, round_trip })
}

/// The same, if something was learned of the server.
#[inline(never)]
fn limited_rest(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    returned: &Returned,
    hint: Hint,
    round_trip: Option<RoundTrip>,
) -> Result<Rest, End> {
    let lesson = lesson_of(kp.meter.get()).filter(|lesson| !lesson.known().is_nothing());
    rest_of(kp, peer, conn, returned, hint, lesson, round_trip)
}

/// The same, with what was learned of the server, if anything was.
#[inline(always)]
fn rest_of(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    returned: &Returned,
    hint: Hint,
    lesson: Option<Lesson>,
    mut round_trip: Option<RoundTrip>,
) -> Result<Rest, End> {
    let Some(limits) = kp.upstream().limits else { return Err(End::Disabled) };
    let ask = || Msec::from(round_trip.get_or_insert_with(|| ask_round_trip(conn)).get());
    match limits.remaining((returned.requests, returned.allowed), &hint, lesson, ask) {
        Ok(Remaining { idle, is_hinted, allowed }) => {
            if let Some(announced) = hint.timeout.filter(|timeout| *timeout < limits.timeout) {
                warn_of_hint(kp, limits.timeout, announced);
            }
            let watches = match lesson {
                None => false,
                Some(lesson) => part_at_number(kp, peer, conn, lesson)?,
            };
            let allowed = u32::try_from(allowed).unwrap_or(u32::MAX);
            Ok(Rest { idle, is_hinted, watches, allowed, round_trip })
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

/// The connection has served a number of requests. Returns whether it stays only to see if the server closes it now.
///
/// # Errors
/// If the server would close it, by what was learned.
#[cold]
#[inline(never)]
fn part_at_number(kp: &PeerData, peer: Peer, conn: Conn, lesson: Lesson) -> Result<bool, End> {
    let Some(Bound::Limit(number) | Bound::Watch(number)) = lesson.requests() else { return Ok(false) };
    if conn.requests() < number as usize {
        return Ok(false);
    }
    let upstream = kp.upstream();
    let can_watch = kp.extra().binding().is_none() && has_room(upstream, kp.extra().server());
    let (verdict, change) = lesson.reach(&upstream.witness(), now(), conn.requests(), can_watch);
    learn::log_change(upstream, peer.address(), change);
    match verdict {
        Verdict::Keep(_) => Ok(false),
        Verdict::Watch(_) => Ok(true),
        Verdict::Close => Err(End::Learned),
    }
}

/// Whether one more idle connection takes nothing away: neither a place in the pool, nor a slot at its server.
fn has_room(upstream: &Upstream, server: Option<Server>) -> bool {
    let is_full = |server| upstream.counts.ledger.get().is_some_and(|ledger| ledger.is_full(server));
    !server.is_some_and(is_full) && upstream.idle.with(|idle| idle.len() < idle.capacity()).unwrap_or(false)
}

/// The connection stays in the pool where no request finds it, once its response has been read.
#[cold]
fn watching(key: Key<'_>, offer: Offer<Idle>) -> (Key<'_>, Offer<Idle>) {
    let key = Key { protocol: learn::WATCHES_REQUESTS, ..key };
    (key, Offer { group: None, reused: false, expiry: Expiry::Other(BEHIND_WATCH), ..offer })
}

/// How long a round trip takes. The kernel is asked once per connection, and only if the server says how long it keeps it.
#[cold]
fn ask_round_trip(conn: Conn) -> RoundTrip {
    let measured = tcp_info::round_trip(conn).unwrap_or(0);
    RoundTrip::new(u16::try_from(measured).unwrap_or(u16::MAX)).unwrap_or(RoundTrip::MIN)
}

/// The identity under which a connection is stored: the one with which it was opened. `None` if it is unknown.
#[inline(always)]
pub(super) fn identity_to_keep(kp: &PeerData, attempt: Attempt, conn: Conn) -> Option<Bytes> {
    if attempt.is_reused() || attempt.identity.is_empty() {
        return Some(attempt.identity);
    }
    keep_new_identity(kp, attempt, conn)
}

/// The same for a new connection.
#[cold]
#[inline(never)]
fn keep_new_identity(kp: &PeerData, attempt: Attempt, conn: Conn) -> Option<Bytes> {
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
    if !kp.extra().is_reclaimed() {
        upstream.counts.end_request(server);
    }
}

/// Counts the end of the request's connection.
#[cold]
pub(crate) fn count_close(kp: &PeerData, peer: Peer, why: End) {
    note_end(kp, peer.connection(), why);
    if let Some(meter) = kp.meter.take() {
        meter.end(Phase::Active, why);
    }
    if let Some(binding) = kp.extra().binding() {
        kp.set_binding(None);
        kp.upstream().unbind(binding);
    }
}
