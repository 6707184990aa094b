//! A request that an HTTP/2 server refuses: it says, before a response or instead of one, that it has not processed the
//! request.
//!
//! nginx's protocol modules fail such a request as for an invalid response, and do not tell which frames they have read. So
//! the same bytes are read here, too, until they contain the header of a response.

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
use crate::ffi::nginx::handle::{get_field, set_field};
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

/// The largest body, in bytes, that the initial window of a connection lets pass (RFC 9113, section 6.9.2).
const WINDOW: off_t = 65_535;

/// Listens to the server's frames, if the request is one of HTTP/2. `None` if it is not, or there is no memory.
#[inline]
pub(crate) fn listen(r: Request, u: HttpUpstream, request: FirstBuffer) -> Option<NonNull<FrameListener>> {
    is_http2(request.bytes()).then(|| start_listening(r, u)).flatten()
}

fn start_listening(r: Request, u: HttpUpstream) -> Option<NonNull<FrameListener>> {
    let process_header = get_field!(u.process_header)?;
    // SAFETY: the pool of the live request.
    let listener = unsafe { allocate::<FrameListener>(r.pool(), 1) }?.cast::<FrameListener>();
    let new = FrameListener {
        process_header,
        attempt: Cell::new(0),
        bytes: Cell::new(0),
        heard: Cell::default(),
        was_refused: Cell::new(false),
    };
    // SAFETY: allocated just now for a `FrameListener`.
    unsafe { listener.write(new) };
    r.set_context_of(module(), listener.as_ptr().cast());
    let hook: unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t = process_header_hook;
    set_field!(u.process_header = Some(hook));
    Some(listener)
}

/// Lets the protocol module read what the server has sent, and reads the same unless it was the header of a response.
unsafe extern "C" fn process_header_hook(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: the core passes a live request.
    let Some(request) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
    // A redirect, which clears it, ends the upstream part of the request first.
    let Some(listener) = request.context_of(module()) else { return NGX_ERROR as ngx_int_t };
    // SAFETY: `start_listening` has put it there, with this hook; in the pool of the live request.
    let listener = unsafe { listener.cast::<FrameListener>().as_ref() };
    let Some(u) = request.upstream() else { return NGX_ERROR as ngx_int_t };
    let read = u.all_read();
    // SAFETY: the protocol module's own function, with the request that the core has passed.
    let rc = unsafe { (listener.process_header)(r) };
    if rc != NGX_OK as ngx_int_t {
        guard((), || listener.read_new(request, u, read));
    }
    rc
}

impl FrameListener {
    /// Reads the bytes that have come since the last call: the end of `read`, which the module has processed, but not written.
    #[cold]
    fn read_new(&self, r: Request, u: HttpUpstream, read: (*const u8, *const u8)) {
        let mut heard = self.in_attempt(r);
        let bytes = u.bytes_received();
        let length = usize::try_from(bytes - self.bytes.replace(bytes)).unwrap_or(0);
        // SAFETY: both point into the buffer, in the pool of the live request, which is filled to the second; nothing writes
        // it while it is read.
        let read = unsafe { between(read.0, read.1) };
        // A header from the cache has another length than what a server has sent.
        heard.read(read.get(read.len().saturating_sub(length)..).unwrap_or_default());
        self.heard.set(heard);
    }

    /// The frames of the present attempt.
    fn in_attempt(&self, r: Request) -> Heard {
        if self.attempt.replace(r.attempts()) != r.attempts() {
            self.bytes.set(0);
            self.heard.take();
        }
        self.heard.get()
    }
}

fn listener(kp: &PeerData) -> Option<&FrameListener> {
    kp.extra().listener()
}

/// Whether a byte of a response has come, or of what stands for one. Frames about the connection do not count.
pub(crate) fn has_response(kp: &PeerData) -> bool {
    let is_about_connection =
        |listener: &FrameListener| listener.in_attempt(kp.request()).is_about_connection();
    // A whole header is not read here.
    kp.u.has_response() && (kp.u.has_response_header() || !listener(kp).is_some_and(is_about_connection))
}

/// Whether the server has said that it has not processed the request.
#[inline]
pub(crate) fn is_refused(kp: &PeerData, conn: Conn) -> bool {
    listener(kp).is_some_and(|listener| hears_refusal(kp, listener, conn))
}

/// Whether the protocol module can send the request from its beginning. If it still holds a part of the body, because the
/// server's window was too small, it would send only that part.
pub(crate) fn can_be_sent_anew(kp: &PeerData, conn: Conn) -> bool {
    let r = kp.request();
    listener(kp).is_none() || kp.u.request_body_sent() || (conn.sent() == 0 && r.has_body_within(WINDOW))
}

/// The number of bytes that were read from the connection in the present attempt.
pub(crate) fn bytes_read(kp: &PeerData) -> u64 {
    let heard = listener(kp).map(|listener| {
        listener.in_attempt(kp.request());
        listener.bytes.get()
    });
    u64::try_from(heard.unwrap_or(0).max(kp.u.bytes_received())).unwrap_or(0)
}

/// Gives the request the number of the first one of a connection, as it may be sent over a new one next. Over a connection
/// that has carried others, the protocol module numbers the request itself.
#[cold]
pub(crate) fn number_anew(kp: &PeerData) {
    if listener(kp).is_some() {
        kp.u.ready_for_new_connection(kp.first_buffer.get());
    }
}

/// Sends the frames that are ready, as answers to frames of the server: they belong to this connection, not to the next one.
pub(crate) fn send_what_is_ready(kp: &PeerData, conn: Conn) {
    if listener(kp).is_some() && conn.sent() > 0 {
        kp.u.flush();
    }
}

#[cold]
fn hears_refusal(kp: &PeerData, listener: &FrameListener, conn: Conn) -> bool {
    let Some(stream) = stream_of(kp.first_buffer.get().bytes()) else { return false };
    let mut heard = listener.in_attempt(kp.request());
    // If sending has failed, the server's reason may have come, and nobody has read it.
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
        listener.heard.set(heard);
        listener.bytes.set(listener.bytes.get().max(kp.u.bytes_received()) + length as off_t);
    }
    heard.refuses(stream)
}

/// Decides about a request that the server has not processed. That is no failure of the server. The request is sent again:
/// over a new connection to the same server, if this one came from the pool, or was the first new one on which the server
/// has refused the request; otherwise to the next server, if the core has tries left.
#[cold]
pub(crate) fn retry_refused(
    kp: &PeerData,
    peer: Peer,
    conn: Conn,
    reuse: Option<Reuse>,
    state: ngx_uint_t,
) -> RetryDecision {
    let upstream = kp.upstream();
    let Some(listener) = listener(kp) else {
        return RetryDecision::ReturnServer(ServerReturn::State(state), End::Failed);
    };
    let is_leaving = listener.in_attempt(kp.request()).has_goaway();
    let end = if is_leaving { End::ServerClosed } else { End::Failed };
    if let Some(reuse) = reuse {
        if let Some(meter) = kp.meter.get() {
            meter.count(Count::Stale);
        }
        kp.notes.was_stale();
        if is_leaving && !upstream.check {
            close_suspect_idle(upstream, peer.address(), reuse.since, false);
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
    let keeps_server = repeats && (reuse.is_some() || !listener.was_refused.replace(true));
    match keeps_server.then(|| pin_server(kp, peer, reuse.is_some())).flatten() {
        Some(pinned) => RetryDecision::KeepServer(pinned, end),
        None => RetryDecision::ReturnServer(ServerReturn::without_failure(state), end),
    }
}
