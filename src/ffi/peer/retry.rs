//! A connection that was used again, and failed before the first byte of the response.
//!
//! That is no failure of its server. If the request can be sent again, it keeps the server and gets a new connection to
//! it, and the balancer, which has not heard of the end of the first one, has nothing to choose anew:
//!
//! ```text
//!   get: connection from the pool --> failure --> free: judge --> the balancer is told
//!                                                         |
//!                                                         +-----> Stage::Again --> get: resume, with a new connection
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

use crate::metrics::{Count, End};
use crate::reuse::stale::{ConnectionFailure, Failed, FailureKind, StaleRetry, Taken, UnreadInput};

use crate::ffi::idle::close::close_suspect_idle;
use crate::ffi::max_conns::shortage::yield_after_failure;
use crate::ffi::max_conns::slots::{close_idle, release_slot};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::memory::{add_cleanup, allocate};
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::socket;
use crate::ffi::nginx::tcp_info::{unacknowledged, TcpState};
use crate::ffi::peer::not_stored::why_failed;
use crate::ffi::peer::refusal;
use crate::ffi::state::peer_data::{Attempt, PeerData, Stage};
use crate::ffi::state::reuse::{PinnedServer, Reuse};
use crate::ffi::state::upstream::Idle;
use crate::ffi::waiting::enqueue::ServerReturn;

/// What becomes of a request whose connection has failed.
pub(crate) enum RetryDecision {
    /// The balancer gets its server back.
    ReturnServer(ServerReturn, End),
    /// The request keeps its server, and the core asks for another connection.
    KeepServer(NonNull<PinnedServer>, End),
}

impl Reuse {
    /// Notes what may be needed if the connection turns out to be stale. What nginx repeats by itself needs no proof. This is to
    /// be noted *before* [`is_fresh`] looks: what finds the connection open then proves that no FIN was counted here.
    #[inline]
    pub(crate) fn of(kp: &PeerData, idle: &Idle) -> Self {
        let proves = kp.upstream().stale_retry != StaleRetry::Off
            && !kp.request().is_unbuffered()
            && !kp.u.repeats(failure_of(kp, true));
        let taken = if proves { note_taken(kp, idle.conn) } else { None };
        Self { then: now(), allowed: idle.allowed, round_trip: idle.round_trip, taken }
    }
}

#[cold]
fn note_taken(kp: &PeerData, conn: Conn) -> Option<NonNull<Taken>> {
    let counts = TcpState::about(conn)?.counts;
    // Nobody looks at the connection with `keepalive_check off`, so it is asked for its state now.
    let has_fin = !kp.upstream().check && TcpState::about(conn)?.has_fin;
    // SAFETY: the pool of the live request.
    let mut memory = unsafe { allocate::<Taken>(kp.pool(), 1) }?;
    // SAFETY: allocated above.
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

/// The end of an attempt that leaves nothing to keep: its connection came from the pool and has failed, or there is none, or
/// it is from another pool.
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
    let reuse = attempt.and_then(|attempt| attempt.reuse);
    match (reuse, conn) {
        (reuse, Some(conn)) if attempt.is_some() && refusal::is_refused(kp, conn) => {
            guard(tell(End::Error), || refusal::judge(kp, peer, conn, reuse, state))
        }
        (Some(reuse), Some(conn)) => guard(tell(End::Error), || judge(kp, peer, conn, reuse, state)),
        // Its identity is unknown.
        (None, Some(_)) => tell(why_failed(kp, state, false).unwrap_or(End::Identity)),
        (_, None) => {
            if state == 0 {
                yield_after_failure(kp.upstream());
            }
            if unsent {
                // The server has refused the connection at once, and has not got the request either.
                kp.unsent.set(true);
                kp.allow_repeating(NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
            }
            tell(End::Connect)
        }
    }
}

/// The core gives back a connection that came from the pool, and tells of a failure.
#[cold]
pub(crate) fn judge(kp: &PeerData, peer: Peer, conn: Conn, reuse: Reuse, state: ngx_uint_t) -> RetryDecision {
    if refusal::has_response(kp) {
        return RetryDecision::ReturnServer(ServerReturn::State(state), End::Failed);
    }
    let failure = examine(kp, conn, reuse);
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
    // Otherwise each is looked at when it is taken. One that is silent would not tell.
    if is_silent || !upstream.check {
        close_suspect_idle(upstream, peer.address(), reuse.then, is_silent);
    }
    let proven = upstream.stale_retry.repeats(&failure);
    let again = !is_silent
        && upstream.stale_retry != StaleRetry::Off
        && will_repeat(kp, proven)
        && refusal::can_be_sent_anew(kp, conn)
        && kp.u.ready_for_new_connection(kp.first_buffer.get());
    if again {
        refusal::send_what_is_ready(kp, conn);
    }
    if again && proven {
        kp.allow_repeating(NGX_HTTP_UPSTREAM_FT_ERROR | NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
        kp.unsent.set(true);
    }
    if upstream.stale_fails {
        return RetryDecision::ReturnServer(ServerReturn::State(state), end);
    }
    match again.then(|| pin_server(kp, peer, true)).flatten() {
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

fn examine(kp: &PeerData, conn: Conn, reuse: Reuse) -> ConnectionFailure {
    let sent = conn.sent();
    let written = sent > 0;
    if conn.read().timed_out() || conn.write().timed_out() {
        let acknowledged = unacknowledged(conn).map(|bytes| bytes < sent);
        return ConnectionFailure { end: FailureKind::TimedOut, written, acknowledged };
    }
    // SAFETY: `note_taken` has put it into the pool of the live request.
    let taken = reuse.taken.map(|taken| unsafe { taken.read() });
    let Some((taken, now)) = taken.and_then(|taken| Some((taken, TcpState::about(conn)?))) else {
        return ConnectionFailure { end: FailureKind::Reset, written, acknowledged: None };
    };
    let failed = Failed { counts: now.counts, has_fin: now.has_fin, read: refusal::bytes_read(kp) };
    let closed = match failed.unread(&taken) {
        UnreadInput::Nothing => false,
        UnreadInput::Fin => true,
        UnreadInput::OneByte => !socket::has_data(conn),
        UnreadInput::Bytes => says_goodbye(conn),
    };
    ConnectionFailure {
        end: if closed { FailureKind::Closed } else { FailureKind::Reset },
        written,
        acknowledged: Some(failed.has_acknowledged(&taken)),
    }
}

/// Whether what has come besides a FIN is the end of TLS.
fn says_goodbye(conn: Conn) -> bool {
    #[cfg(ngx_feature = "http_ssl")]
    if let Some(ssl) = NonNull::new(conn.ssl()) {
        // A failure to write leaves unread what has come before.
        let nothing = !matches!(conn.receive(&mut [0]), crate::ffi::nginx::conn::Received::Bytes(_));
        // SAFETY: the TLS state lives as long as its connection; reads one field.
        let connection = unsafe { (*ssl.as_ptr()).connection };
        // SAFETY: as above.
        return nothing && unsafe { SSL_get_shutdown(connection) } & SSL_RECEIVED_SHUTDOWN as i32 != 0;
    }
    let _ = conn;
    false
}

/// Whether the core will ask for a connection again, as `ngx_http_upstream_next()` decides it. There it has one more try
/// for a connection that came from the pool.
pub(crate) fn will_repeat(kp: &PeerData, proven: bool) -> bool {
    let (u, r) = (kp.u, kp.request());
    let sent = u.request_sent();
    let is_gone = sent && r.is_unbuffered();
    !is_gone && !r.client().has_failed() && u.has_time_left() && (proven || u.repeats(failure_of(kp, sent)))
}

/// Keeps the server for the request, if the balancer has given it: that of a connection that was found for its client it has
/// not.
pub(crate) fn pin_server(kp: &PeerData, peer: Peer, was_stale: bool) -> Option<NonNull<PinnedServer>> {
    if kp.is_reclaimed.get() {
        return None;
    }
    // SAFETY: the pool of the live request.
    let cleanup = unsafe { add_cleanup(kp.pool(), size_of::<PinnedServer>()) }?;
    // SAFETY: a new cleanup record of the pool, which has come with as much memory.
    let held = NonNull::new(unsafe { (*cleanup.as_ptr()).data }.cast::<PinnedServer>())?;
    // The core has not touched yet what the balancer wrote when it gave the server.
    let (request, peer) = (NonNull::from(kp), peer.save());
    // SAFETY: as above, and aligned as all memory of nginx's pools.
    unsafe { held.write(PinnedServer { request, peer, is_held: Cell::new(true), was_stale }) };
    // SAFETY: a new cleanup record of the pool.
    unsafe { (*cleanup.as_ptr()).handler = Some(unpin_server) };
    Some(held)
}

/// The request keeps its server. If connections are counted there, the place of this one is for the next.
#[cold]
pub(crate) fn keep_server(kp: &PeerData, peer: Peer, pinned: NonNull<PinnedServer>) {
    kp.stage.set(Stage::Again(pinned));
    if let (Some(_), Some(conn)) = (kp.server.get(), peer.connection()) {
        peer.release_connection();
        socket::close(conn);
    }
}

/// The core asks again: the request has the server that it had, and no connection. (It also has the try that the core gives
/// back for a connection that came from the pool: should the server fail now, the next one is asked as ever.) Whether the
/// connection that has failed was a stale one.
pub(crate) fn resume(peer: Peer, held: NonNull<PinnedServer>) -> bool {
    // SAFETY: in the pool of the request that is asking.
    let held = unsafe { held.as_ref() };
    held.is_held.set(false);
    peer.restore(&held.peer);
    held.was_stale
}

/// The request has ended without asking again: its server goes back to the balancer.
unsafe extern "C" fn unpin_server(data: *mut c_void) {
    // SAFETY: `pin_server` has put it there; nginx calls this before it frees the pool in which it lies.
    let held = unsafe { &*data.cast::<PinnedServer>() };
    if !held.is_held.replace(false) {
        return;
    }
    // SAFETY: in the same pool.
    let kp = unsafe { held.request.as_ref() };
    let server = kp.server.take();
    let peer = kp.u.peer();
    // The balancer may look at what it has written there.
    peer.restore(&held.peer);
    kp.balancer.get().free_untried(peer);
    peer.set_no_server(std::ptr::null_mut(), std::ptr::null_mut());
    guard((), || {
        let upstream = kp.upstream();
        if let Some(server) = server {
            upstream.counts.end_request(server);
            release_slot(upstream, server);
        }
        if upstream.can_wait() {
            upstream.schedule_dispatch();
        }
    });
}

/// Looks whether an idle connection is still one; if not, it is closed.
#[inline]
pub(crate) fn is_fresh(kp: &PeerData, peer: Peer, idle: &Idle) -> bool {
    if socket::silent(idle.conn) {
        return true;
    }
    debug_conn(peer.log(), c"get keepalive peer: connection %p was closed by the server", idle.conn);
    close_idle(kp.upstream(), *idle, End::Check);
    false
}
