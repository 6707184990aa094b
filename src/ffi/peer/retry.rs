//! A connection from the pool that failed before the first byte of the response: it was stale.
//!
//! That is no failure of its server. If the request can be sent again, it keeps its server and gets a new connection to
//! it. The balancer has not heard of the end of the first connection, and is not asked again:
//!
//! ```text
//!   get: connection from the pool --> failure --> free: retry_stale --> the balancer gets the server back
//!                                                         |
//!                                                         +-----> Stage::Again --> get: take_pinned, a new connection
//!                                                                     |
//!                                                                     +--> the request ends instead: unpin_server
//! ```

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_uint_t, NGX_HTTP_LOCK, NGX_HTTP_PATCH, NGX_HTTP_POST, NGX_HTTP_UPSTREAM_FT_ERROR,
    NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT,
};
#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::{SSL_get_shutdown, SSL_RECEIVED_SHUTDOWN};

use crate::base::clock::Msec;
use crate::lessons::BEHIND;
use crate::metrics::{Count, End};
use crate::pool::{IdlePool, Key};
use crate::reuse::identity::client_of;
use crate::reuse::stale::{ConnectionFailure, Failed, FailureKind, StaleRetry, Taken, UnreadInput};

use crate::ffi::idle::close::close_suspect_idle;
use crate::ffi::idle::learn;
use crate::ffi::idle::shortage::yield_after_failure;
use crate::ffi::max_conns::slots::{close_idle, release_slot};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::memory::{add_cleanup, allocate};
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::{elapsed, now};
use crate::ffi::nginx::socket;
use crate::ffi::nginx::tcp_info::{unacknowledged, TcpState};
use crate::ffi::peer::not_stored::failure_reason;
use crate::ffi::peer::refusal;
use crate::ffi::state::extra::Stage;
use crate::ffi::state::hints;
use crate::ffi::state::lessons::lesson_of;
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::reuse::{PinnedServer, Reuse};
use crate::ffi::state::upstream::Idle;
use crate::ffi::waiting::enqueue::ServerReturn;
use crate::ffi::waiting::outlook::look_again;

/// What becomes of a request whose connection has failed.
pub(crate) enum RetryDecision {
    /// The balancer gets its server back.
    ReturnServer(ServerReturn, End),
    /// The request keeps its server, and the core asks for another connection.
    KeepServer(NonNull<PinnedServer>, End),
}

/// Notes what may be needed if the connection turns out to be stale, for a request that nginx does not repeat by itself. This is
/// called *before* the check: if that finds the connection open, no FIN was counted here.
#[cold]
pub(crate) fn note_taken(kp: &PeerData, conn: Conn) -> Option<NonNull<Taken>> {
    if kp.upstream().stale_retry == StaleRetry::Off || kp.request().is_unbuffered() {
        return None;
    }
    let counts = TcpState::about(conn)?.counts;
    // With `keepalive_check off` nobody looks at the connection, so its state is asked for now.
    let has_fin = !kp.upstream().check && TcpState::about(conn)?.has_fin;
    // SAFETY: the pool of the live request.
    let mut memory = unsafe { allocate::<Taken>(kp.pool(), 1) }?;
    // SAFETY: allocated above for a `Taken`.
    Some(NonNull::from(unsafe { memory.as_mut() }.write(Taken { counts, has_fin })))
}

/// The kind of a failed connection, as `ngx_http_upstream_next()` looks for it in `proxy_next_upstream`.
#[inline]
fn failure_of(kp: &PeerData, sent: bool) -> ngx_uint_t {
    const ONCE: ngx_uint_t = (NGX_HTTP_POST | NGX_HTTP_LOCK | NGX_HTTP_PATCH) as ngx_uint_t;
    let mut failure = NGX_HTTP_UPSTREAM_FT_ERROR as ngx_uint_t;
    if sent && kp.request().method() & ONCE != 0 {
        failure |= NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT as ngx_uint_t;
    }
    failure
}

/// The end of an attempt whose connection cannot be stored: it came from the pool and has failed, there is none, or its
/// identity is unknown.
#[cold]
pub(crate) fn on_connection_failed(
    kp: &PeerData,
    peer: Peer,
    attempt: Option<Attempt>,
    conn: Option<Conn>,
    state: ngx_uint_t,
    unsent: bool,
) -> RetryDecision {
    let tell = |end| RetryDecision::ReturnServer(ServerReturn::State(state), end);
    let reuse = attempt.and_then(|attempt| attempt.reuse());
    match (reuse, conn) {
        (reuse, Some(conn)) if attempt.is_some() && refusal::is_refused(kp, conn) => {
            guard(tell(End::Error), || refusal::retry_refused(kp, peer, conn, reuse, state))
        }
        (Some(reuse), Some(conn)) => {
            let taken = attempt.and_then(|attempt| attempt.taken);
            guard(tell(End::Error), || retry_stale(kp, peer, conn, (reuse, taken), state))
        }
        // Its identity is unknown.
        (None, Some(_)) => tell(failure_reason(kp, state, false).unwrap_or(End::Identity)),
        (_, None) => {
            if state == 0 {
                yield_after_failure(kp.upstream());
            }
            if unsent {
                // The server has refused the connection at once, and has not received the request either.
                kp.unsent.set(true);
                kp.allow_repeating(NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
            }
            tell(End::Connect)
        }
    }
}

/// Decides about a request whose connection came from the pool and has failed.
#[cold]
fn retry_stale(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    (reuse, taken): (Reuse, Option<NonNull<Taken>>),
    state: ngx_uint_t,
) -> RetryDecision {
    if refusal::has_response(kp) {
        return RetryDecision::ReturnServer(ServerReturn::State(state), End::Failed);
    }
    let failure = examine(kp, conn, taken);
    if !failure.is_about_connection() {
        return RetryDecision::ReturnServer(ServerReturn::State(state), End::Failed);
    }
    if let Some(meter) = kp.meter.get() {
        meter.count(Count::Stale);
    }
    kp.notes.was_stale();
    let is_closed = failure.end == FailureKind::Closed || conn.read().eof();
    let end = if is_closed { End::ServerClosed } else { End::Error };
    let upstream = kp.upstream();
    let is_silent = failure.end == FailureKind::TimedOut;
    if !is_silent {
        // The last request does not count.
        hints::note_end(upstream, conn.requests().saturating_sub(1), End::ServerClosed, elapsed(reuse.since));
    }
    if !is_silent && upstream.learns() {
        learn_from_stale(kp, peer, conn, (reuse, is_closed), failure.acknowledged);
    }
    // With `keepalive_check` each one is checked when it is taken. A silent one would pass that check.
    if is_silent || !upstream.check {
        close_suspect_idle(upstream, peer.address(), reuse.since, is_silent);
    }
    let proven = upstream.stale_retry.repeats(&failure);
    let keeps_server = !is_silent
        && upstream.stale_retry != StaleRetry::Off
        && will_repeat(kp, proven)
        && refusal::can_be_sent_anew(kp, conn)
        && kp.u.ready_for_new_connection(kp.first_buffer.get());
    if keeps_server {
        refusal::send_what_is_ready(kp, conn);
    }
    if keeps_server && proven {
        kp.allow_repeating(NGX_HTTP_UPSTREAM_FT_ERROR | NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
        kp.unsent.set(true);
    }
    if upstream.stale_fails {
        return RetryDecision::ReturnServer(ServerReturn::State(state), end);
    }
    match keeps_server.then(|| pin_server(kp, peer, true)).flatten() {
        Some(pinned) => {
            debug_conn(
                peer.log(),
                c"free keepalive peer: connection %p was stale, another one is used",
                conn,
            );
            RetryDecision::KeepServer(pinned, end)
        }
        None => RetryDecision::ReturnServer(ServerReturn::without_failure(state), end),
    }
}

/// The server has closed the connection when the request was on its way, if nothing of it was acknowledged: so it was idle until
/// then, as far as the server knows. Or it closes connections right behind an answer: then a reset may have come too.
fn learn_from_stale(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    (reuse, is_closed): (Reuse, bool),
    acknowledged: Option<bool>,
) {
    let has_arrived = match acknowledged {
        Some(any) => any,
        None => unacknowledged(conn).is_none_or(|bytes| bytes < conn.sent()),
    };
    let age = elapsed(reuse.since);
    // If it has arrived, the server may have closed the connection because of this very request.
    if !has_arrived && (is_closed || age <= BEHIND) {
        let lesson = lesson_of(kp.meter.get()).unwrap_or_default();
        // The last request does not count.
        let served = conn.requests().saturating_sub(1);
        learn::on_close(kp.upstream(), peer.address(), lesson, (conn, served), age);
    }
}

fn examine(kp: &PeerData, conn: Conn, taken: Option<NonNull<Taken>>) -> ConnectionFailure {
    let sent = conn.sent();
    let written = sent > 0;
    if conn.read().timed_out() || conn.write().timed_out() {
        let acknowledged = unacknowledged(conn).map(|bytes| bytes < sent);
        return ConnectionFailure { end: FailureKind::TimedOut, written, acknowledged };
    }
    // SAFETY: `note_taken` has put it into the pool of the live request.
    let taken = taken.map(|taken| unsafe { taken.read() });
    let Some((taken, now)) = taken.and_then(|taken| Some((taken, TcpState::about(conn)?))) else {
        return ConnectionFailure { end: FailureKind::Reset, written, acknowledged: None };
    };
    let failed = Failed { counts: now.counts, has_fin: now.has_fin, read: refusal::bytes_read(kp) };
    let closed = match failed.unread(&taken) {
        UnreadInput::Nothing => false,
        UnreadInput::Fin => true,
        UnreadInput::OneByte => !socket::has_data(conn),
        UnreadInput::Bytes => has_tls_end(conn),
    };
    ConnectionFailure {
        end: if closed { FailureKind::Closed } else { FailureKind::Reset },
        written,
        acknowledged: Some(failed.has_acknowledged(&taken)),
    }
}

/// Whether the bytes before a FIN are the end of TLS (`close_notify`), and no data.
fn has_tls_end(conn: Conn) -> bool {
    #[cfg(ngx_feature = "http_ssl")]
    if let Some(ssl) = NonNull::new(conn.ssl()) {
        // After a failed write, the bytes that came before are still unread.
        let no_data = !matches!(conn.receive(&mut [0]), crate::ffi::nginx::conn::Received::Bytes(_));
        // SAFETY: the TLS state lives as long as its connection; reads one field.
        let connection = unsafe { (*ssl.as_ptr()).connection };
        // SAFETY: the TLS state of an open connection has its OpenSSL object.
        return no_data && unsafe { SSL_get_shutdown(connection) } & SSL_RECEIVED_SHUTDOWN as i32 != 0;
    }
    let _ = conn;
    false
}

/// Whether the core will ask for a connection again, as `ngx_http_upstream_next()` decides it. That function adds a try for
/// a connection that came from the pool.
pub(crate) fn will_repeat(kp: &PeerData, proven: bool) -> bool {
    let (u, r) = (kp.u, kp.request());
    let sent = u.request_sent();
    let is_gone = sent && r.is_unbuffered();
    !is_gone && !r.client().has_failed() && u.has_time_left() && (proven || u.repeats(failure_of(kp, sent)))
}

/// Keeps the server for the request. `None` if the balancer has not given it, as for a connection that was found for its
/// client, or if there is no memory.
pub(crate) fn pin_server(kp: &PeerData, peer: Peer, was_stale: bool) -> Option<NonNull<PinnedServer>> {
    if kp.extra().is_reclaimed() {
        return None;
    }
    kp.prepare_stages()?;
    // SAFETY: the pool of the live request.
    let cleanup = unsafe { add_cleanup(kp.pool(), size_of::<PinnedServer>()) }?;
    // SAFETY: a new cleanup record of the pool; reads one field.
    let pinned = NonNull::new(unsafe { (*cleanup.as_ptr()).data }.cast::<PinnedServer>())?;
    // The core has not touched yet the fields that the balancer wrote when it gave the server.
    let (request, peer) = (NonNull::from(kp), peer.save());
    // SAFETY: the record's memory has the size that was asked for, and is aligned as all memory of nginx's pools.
    unsafe { pinned.write(PinnedServer { request, peer, is_held: Cell::new(true), was_stale }) };
    // SAFETY: a new cleanup record of the pool; writes one field.
    unsafe { (*cleanup.as_ptr()).handler = Some(unpin_server) };
    Some(pinned)
}

/// The request keeps its server. If connections are counted there, the next connection takes over the slot of this one.
#[cold]
pub(crate) fn keep_server(kp: &PeerData, peer: Peer, pinned: NonNull<PinnedServer>) {
    kp.set_stage(Stage::Again(pinned));
    if let (Some(_), Some(conn)) = (kp.extra().server(), peer.connection()) {
        peer.release_connection();
        socket::close(conn);
    }
}

/// The core asks again: the request has its server again, and no connection. It also has the try that the core gives back
/// for a connection that came from the pool: if the server fails now, the next one is asked as usual. Returns whether the
/// connection that has failed was a stale one.
pub(crate) fn take_pinned(peer: Peer, pinned: NonNull<PinnedServer>) -> bool {
    // SAFETY: `pin_server` has put it into the pool of the request that asks.
    let pinned = unsafe { pinned.as_ref() };
    pinned.is_held.set(false);
    peer.restore(&pinned.peer);
    pinned.was_stale
}

/// The request has ended without asking again: its server goes back to the balancer.
unsafe extern "C" fn unpin_server(data: *mut c_void) {
    // SAFETY: `pin_server` has put it there; nginx calls this before it frees the pool that holds it.
    let pinned = unsafe { &*data.cast::<PinnedServer>() };
    if !pinned.is_held.replace(false) {
        return;
    }
    // SAFETY: it lies in the same pool, which nginx frees later.
    let kp = unsafe { pinned.request.as_ref() };
    let server = kp.take_server();
    let peer = kp.u.peer();
    // The balancer may read the fields that it has written there.
    peer.restore(&pinned.peer);
    kp.balancer.get().free_untried(peer);
    peer.set_no_server(std::ptr::null_mut(), std::ptr::null_mut());
    guard((), || {
        let upstream = kp.upstream();
        if let Some(server) = server {
            upstream.counts.end_request(server);
            release_slot(upstream, server);
        }
        look_again(kp);
        if upstream.can_wait() {
            upstream.schedule_dispatch(None);
        }
    });
}

/// Closes a connection that has ended before a request could use it.
#[cold]
#[inline(never)]
pub(crate) fn close_ended(kp: &PeerData, peer: Peer, idle: &Idle, age: Msec, end: End) {
    debug_conn(peer.log(), c"get keepalive peer: connection %p was closed by the server", idle.conn);
    if kp.upstream().learns() && learn::is_close(end, age) {
        let served = idle.conn.requests();
        learn::on_close(kp.upstream(), peer.address(), idle.lesson(), (idle.conn, served), age);
    }
    hints::note_end(kp.upstream(), idle.conn.requests(), end, age);
    close_idle(kp.upstream(), *idle, End::Check);
}

/// Closes an idle connection that the server may close before the request arrives, by what was learned of it.
#[cold]
pub(crate) fn close_outdated(kp: &PeerData, peer: Peer, idle: &Idle) {
    debug_conn(peer.log(), c"get keepalive peer: connection %p is too old for the server", idle.conn);
    close_idle(kp.upstream(), *idle, End::Learned);
}

/// Whether the request, which cannot be repeated, is to have none of the connections that fit it: the server has closed some that
/// were younger.
#[cold]
#[inline(never)]
pub(crate) fn wants_new(kp: &PeerData, key: &Key<'_>) -> bool {
    // A new connection would not have the client's user.
    if !kp.upstream().learns() || client_of(key.identity).is_some() {
        return false;
    }
    let newest =
        |pool: &mut IdlePool<Idle>| pool.newest_like(key).map(|(idle, since)| (idle.lesson(), since));
    let newest = kp.upstream().idle.with(newest).flatten();
    newest.is_some_and(|(lesson, since)| lesson.cautious_age(now()).is_some_and(|age| elapsed(since) > age))
}

/// Whether the core sends the request once only.
#[inline]
pub(crate) fn is_sent_once(kp: &PeerData) -> bool {
    kp.request().is_unbuffered() || !kp.u.repeats(failure_of(kp, true))
}
