//! What an HTTP/2 server says of a request before it answers, or instead: that it has not processed it, and will not.
//!
//! nginx's protocol modules fail the request for that as for an invalid response, and keep to themselves what they have
//! read. So what they read is read here, too, but only as long as it is not the header of a response.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_request_t, ngx_int_t, ngx_uint_t, off_t, NGX_ERROR, NGX_HTTP_UPSTREAM_FT_ERROR,
    NGX_HTTP_UPSTREAM_FT_INVALID_HEADER, NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT, NGX_OK,
};

use crate::http2::frames::{is_http2, stream_of, Heard};
use crate::metrics::{Count, End};
use crate::reuse::stale::StaleRetry;

use crate::ffi::idle::close::close_suspect_idle;
use crate::ffi::nginx::conn::{Conn, Received};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::request::{HttpUpstream, Request};
use crate::ffi::nginx::response::{between, FirstBuffer};
use crate::ffi::nginx::this_module::module;
use crate::ffi::peer::retry::{pin_server, will_repeat, RetryDecision};
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::refusal::FrameListener;
use crate::ffi::state::reuse::Reuse;
use crate::ffi::waiting::enqueue::ServerReturn;

/// The body of a request up to which the first window of a connection lets it pass (RFC 9113, section 6.9.2).
const WINDOW: off_t = 65_535;

/// Listens, if the request is one of HTTP/2; without memory it is as before.
#[inline]
pub(crate) fn listen(r: Request, u: HttpUpstream, request: FirstBuffer) -> Option<NonNull<FrameListener>> {
    is_http2(request.bytes()).then(|| begin(r, u)).flatten()
}

fn begin(r: Request, u: HttpUpstream) -> Option<NonNull<FrameListener>> {
    // SAFETY: live by the type invariant; reads one field.
    let process_header = unsafe { (*u.as_ptr()).process_header }?;
    // SAFETY: the pool of the live request.
    let ear = unsafe { allocate::<FrameListener>(r.pool(), 1) }?.cast::<FrameListener>();
    let new = FrameListener {
        process_header,
        attempt: Cell::new(0),
        bytes: Cell::new(0),
        heard: Cell::default(),
        was_refused: Cell::new(false),
    };
    // SAFETY: allocated just now.
    unsafe { ear.write(new) };
    r.set_context_of(module(), ear.as_ptr().cast());
    // SAFETY: live by the type invariant; writes one field.
    unsafe { (*u.as_ptr()).process_header = Some(process) };
    Some(ear)
}

/// Lets the protocol module read what has come; reads it as well unless that was the header of a response.
unsafe extern "C" fn process(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: the core passes a live request.
    let Some(request) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
    // A redirect, which clears it, ends the upstream part of the request first.
    let Some(ear) = request.context_of(module()) else { return NGX_ERROR as ngx_int_t };
    // SAFETY: `begin` has put it there, with this hook; in the pool of the live request.
    let ear = unsafe { ear.cast::<FrameListener>().as_ref() };
    // SAFETY: live; reads one field.
    let u = unsafe { (*r).upstream };
    // SAFETY: the core calls the hook of the upstream part that the request has.
    let u = unsafe { HttpUpstream::from_ptr(u) };
    let read = u.all_read();
    // SAFETY: what the core would have called, with what it would have passed.
    let rc = unsafe { (ear.process_header)(r) };
    if rc != NGX_OK as ngx_int_t {
        guard((), || ear.hear(request, u, read));
    }
    rc
}

impl FrameListener {
    /// Reads what has come since the last time: the end of what was read then. The module has moved its marks since, but
    /// written nothing.
    #[cold]
    fn hear(&self, r: Request, u: HttpUpstream, read: (*const u8, *const u8)) {
        let mut heard = self.of(r);
        let bytes = u.bytes_received();
        let length = usize::try_from(bytes - self.bytes.replace(bytes)).unwrap_or(0);
        // SAFETY: the buffer, in the request's pool, is filled to there, and not written as long as this is read.
        let read = unsafe { between(read.0, read.1) };
        // A header from the cache has another length than what a server has sent.
        heard.read(read.get(read.len().saturating_sub(length)..).unwrap_or_default());
        self.heard.set(heard);
    }

    /// What was heard of the present attempt.
    fn of(&self, r: Request) -> Heard {
        if self.attempt.replace(r.attempts()) != r.attempts() {
            self.bytes.set(0);
            self.heard.take();
        }
        self.heard.get()
    }
}

fn ear(kp: &PeerData) -> Option<&FrameListener> {
    // SAFETY: in the pool of the request, which is alive as long as its hooks are called.
    kp.ear.map(|ear| unsafe { ear.as_ref() })
}

/// Whether a byte of the response has come, or what is in place of one. What is about the connection is not.
pub(crate) fn has_response(kp: &PeerData) -> bool {
    let is_about_connection = |ear: &FrameListener| ear.of(kp.request()).is_about_connection();
    // Of a whole header nothing was heard here.
    kp.u.has_response() && (kp.u.has_response_header() || !ear(kp).is_some_and(is_about_connection))
}

/// Whether the server has said that it has not processed the request.
#[inline]
pub(crate) fn is_refused(kp: &PeerData, conn: Conn) -> bool {
    ear(kp).is_some_and(|ear| hears_refusal(kp, ear, conn))
}

/// Whether the protocol module can send the request anew. A body of which it still has a part, as the server's window was
/// too small, would be sent from there on.
pub(crate) fn can_be_sent_anew(kp: &PeerData, conn: Conn) -> bool {
    let r = kp.request();
    kp.ear.is_none() || kp.u.request_body_sent() || (conn.sent() == 0 && r.has_body_within(WINDOW))
}

/// How many bytes of the connection were read in the present attempt.
pub(crate) fn bytes_read(kp: &PeerData) -> u64 {
    let heard = ear(kp).map(|ear| {
        ear.of(kp.request());
        ear.bytes.get()
    });
    u64::try_from(heard.unwrap_or(0).max(kp.u.bytes_received())).unwrap_or(0)
}

/// Numbers the request as the first one of a connection, as which it may be sent now. Over one that has carried others, the
/// protocol module numbers it itself.
#[cold]
pub(crate) fn number_anew(kp: &PeerData) {
    if kp.ear.is_some() {
        kp.u.ready_for_new_connection(kp.first_buffer.get());
    }
}

/// Frames that are ready, as answers to those of the server, belong to this connection, and not to the next one.
pub(crate) fn send_what_is_ready(kp: &PeerData, conn: Conn) {
    if kp.ear.is_some() && conn.sent() > 0 {
        kp.u.flush();
    }
}

#[cold]
fn hears_refusal(kp: &PeerData, ear: &FrameListener, conn: Conn) -> bool {
    let Some(stream) = stream_of(kp.first_buffer.get().bytes()) else { return false };
    let mut heard = ear.of(kp.request());
    // If it was the sending that failed, the reason may have come, and nobody has read it.
    let mut rest = [0; 4096];
    let may_be_told = !kp.u.has_response_header()
        && heard.is_about_connection()
        && !heard.refuses(stream)
        && conn.sent() > 0;
    if !may_be_told {
        return heard.refuses(stream);
    }
    if let Received::Bytes(length) = conn.receive(&mut rest) {
        heard.read(rest.get(..length).unwrap_or_default());
        ear.heard.set(heard);
        ear.bytes.set(ear.bytes.get().max(kp.u.bytes_received()) + length as off_t);
    }
    heard.refuses(stream)
}

/// The server has not processed the request. That is no failure of it, and the request is sent again: over a new connection
/// to the same server, if this one came from the pool, or if it is the first new one that the server has refused; otherwise
/// to the next server, as far as the core still has tries.
#[cold]
pub(crate) fn judge(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    reuse: Option<Reuse>,
    state: ngx_uint_t,
) -> RetryDecision {
    let upstream = kp.upstream();
    let Some(ear) = ear(kp) else {
        return RetryDecision::ReturnServer(ServerReturn::State(state), End::Failed);
    };
    let is_leaving = ear.of(kp.request()).has_goaway();
    let end = if is_leaving { End::ServerClosed } else { End::Failed };
    if let Some(reuse) = reuse {
        if let Some(meter) = kp.meter.get() {
            meter.count(Count::Stale);
        }
        kp.notes.was_stale();
        if is_leaving && !upstream.check {
            close_suspect_idle(upstream, peer.address(), reuse.then, false);
        }
    }
    let repeats = upstream.stale_retry != StaleRetry::Off
        && will_repeat(kp, true)
        && can_be_sent_anew(kp, conn)
        && kp.u.ready_for_new_connection(kp.first_buffer.get());
    if repeats {
        send_what_is_ready(kp, conn);
        kp.allow_repeating(
            NGX_HTTP_UPSTREAM_FT_ERROR
                | NGX_HTTP_UPSTREAM_FT_INVALID_HEADER
                | NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT,
        );
        kp.unsent.set(true);
    }
    if upstream.stale_fails && reuse.is_some() {
        return RetryDecision::ReturnServer(ServerReturn::State(state), end);
    }
    let again = repeats && (reuse.is_some() || !ear.was_refused.replace(true));
    match again.then(|| pin_server(kp, peer, reuse.is_some())).flatten() {
        Some(pinned) => RetryDecision::KeepServer(pinned, end),
        None => RetryDecision::ReturnServer(ServerReturn::without_failure(state), end),
    }
}
