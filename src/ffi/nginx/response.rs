//! How far a request and its response, of HTTP/1 or FastCGI, are when the core gives back the connection: whether all of
//! the request was sent, and how much of the response nobody has read.

use std::ptr::NonNull;

#[cfg(ngx_feature = "http_cache")]
use nginx_sys::NGX_HTTP_CACHE_REVALIDATED;
use nginx_sys::{
    ngx_buf_t, ngx_event_pipe_t, ngx_http_headers_in_t, ngx_http_upstream_headers_in_t, ngx_http_upstream_t,
    ngx_msec_t, ngx_output_chain, NGX_HTTP_OK,
};

use crate::drain::Framing;
use crate::fastcgi::{asks_to_close, Records};
use crate::ffi::nginx::handle::{field_ptr, get_bit, get_field, Handle};
use crate::http1::keep_alive::Hint;
use crate::http1::request_head::{is_http1, may_announce_body, says_close, RequestHead};
use crate::http1::stateful_auth;
use crate::http2::frames::number_as_first;

use crate::ffi::nginx::bits;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::headers::{bytes, hash_of, may_have, Headers};
use crate::ffi::nginx::request::{HttpUpstream, Request};

/// A response whose header is complete, and whose body nobody has read.
pub(crate) struct Unread<'a> {
    pub(crate) framing: Framing,
    /// What came of the body along with the header.
    pub(crate) preread: &'a [u8],
}

/// What a server says of its connection.
#[derive(Default)]
pub(crate) struct Said {
    /// How long it keeps it.
    pub(crate) hint: Hint,
    /// It has a user, or would get one by the next request.
    pub(crate) has_user: bool,
}

/// What in an HTTP/1 response says that the server closes the connection.
pub(crate) enum Closes {
    Version,
    Header,
}

const KEEP_ALIVE: &[u8] = b"keep-alive";
const CHALLENGES: [&[u8]; 2] = [b"www-authenticate", b"proxy-authenticate"];
const PERSISTENT: &[u8] = b"persistent-auth";
/// Those of them that nginx does not look for itself.
const OF_INTEREST: [usize; 3] = [hash_of(KEEP_ALIVE), hash_of(CHALLENGES[1]), hash_of(PERSISTENT)];

/// Where the head of the request is. The chain that begins with it is gone once a body was sent that is not buffered.
#[derive(Clone, Copy)]
pub(crate) struct FirstBuffer(Option<NonNull<ngx_buf_t>>);

impl FirstBuffer {
    /// Where it begins, and how much is in it, as it was written; the connection may have taken it.
    #[inline]
    fn range(self) -> (*mut u8, usize) {
        let Some(buf) = self.0 else { return (NonNull::dangling().as_ptr(), 0) };
        // SAFETY: lies in the request's pool; reads one field.
        let start = unsafe { (*buf.as_ptr()).start };
        // SAFETY: as above.
        let last = unsafe { (*buf.as_ptr()).last };
        match (last as usize).saturating_sub(start as usize) {
            0 => (NonNull::dangling().as_ptr(), 0),
            length => (start, length),
        }
    }

    /// What is in it.
    #[inline]
    pub(crate) fn bytes<'a>(self) -> &'a [u8] {
        let (start, length) = self.range();
        // SAFETY: filled by `create_request`, which has allocated it in the request's pool; nobody writes it meanwhile.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// What is in it, to be changed.
    ///
    /// # Safety
    /// Nobody else reads or writes it meanwhile.
    unsafe fn bytes_mut<'a>(self) -> &'a mut [u8] {
        let (start, length) = self.range();
        // SAFETY: as above; nobody else has it, says the caller.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }
}

impl Request {
    /// Whether the core sends the body in chunks.
    fn is_sent_in_chunks(self) -> bool {
        let headers = field_ptr!(self.headers_in);
        // SAFETY: as above; reads one bit.
        self.is_unbuffered() && unsafe { ngx_http_headers_in_t::chunked_raw(headers) != 0 }
    }

    /// Whether the response comes from the cache, although a server was asked: then nothing tells of what the
    /// server has sent. (If it said that the cached one is still good, that has no body.)
    #[cfg(ngx_feature = "http_cache")]
    pub(crate) fn has_cached_response(self, u: HttpUpstream) -> bool {
        // SAFETY: live by the type invariant; reads some bits.
        self.is_cached()
            && unsafe { ngx_http_upstream_t::cache_status_raw(u.as_ptr()) } != NGX_HTTP_CACHE_REVALIDATED
    }

    #[cfg(not(ngx_feature = "http_cache"))]
    pub(crate) fn has_cached_response(self, _: HttpUpstream) -> bool {
        false
    }

    /// Whether the header of the response is that of the cache.
    fn is_cached(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { bits::CACHED.is_set(self.as_ptr()) }
    }

    /// How much the cache keeps of the buffer for itself, before the response.
    fn cached_length(self) -> usize {
        #[cfg(ngx_feature = "http_cache")]
        {
            let cache = NonNull::new(get_field!(self.cache));
            // SAFETY: in the pool of the live request.
            cache.map_or(0, |cache| unsafe { (*cache.as_ptr()).header_start })
        }
        #[cfg(not(ngx_feature = "http_cache"))]
        0
    }

    fn is_header_only(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { bits::HEADER_ONLY.is_set(self.as_ptr()) }
    }
}

impl HttpUpstream {
    /// Whether the server got exactly what it was announced. The core thinks so too if it has no body to send,
    /// though the head of the request announces one: as `auth_request` does with that of a POST.
    #[inline]
    pub(crate) fn is_request_sent(self, r: Request, request: FirstBuffer, conn: Conn) -> bool {
        if !self.request_body_sent() {
            return false;
        }
        let head = request.bytes();
        let is_head_only = conn.sent() == head.len() as u64 && !may_announce_body(head);
        is_head_only || self.is_announced_sent(r, request, conn)
    }

    fn is_announced_sent(self, r: Request, request: FirstBuffer, conn: Conn) -> bool {
        let Some(head) = self.http1_request(request) else { return true };
        let chunks = r.is_sent_in_chunks();
        RequestHead::read(head).is_some_and(|head| head.is_all_sent(conn.sent(), chunks))
    }

    /// Whether the protocol module allows another request on the connection, and nothing contradicts it.
    #[inline]
    pub(crate) fn is_response_read(self, r: Request, request: FirstBuffer) -> bool {
        self.keepalive()
            && !self.is_interim()
            && !r.has_cached_response(self)
            && (self.is_body_read(r) || !self.has_surplus(request))
    }

    /// Whether nginx has taken an interim response for the whole: the real one is yet to come.
    #[inline]
    fn is_interim(self) -> bool {
        let status = get_field!(self.headers_in.status_n);
        (1..NGX_HTTP_OK as usize).contains(&status)
    }

    /// Whether something follows a response that has no body.
    #[cold]
    fn has_surplus(self, request: FirstBuffer) -> bool {
        !self.preread().is_empty() && self.http1_request(request).is_some()
    }

    /// The response, if its rest can be told from what follows it.
    pub(crate) fn unread_response<'a>(self, r: Request, request: FirstBuffer) -> Option<Unread<'a>> {
        if self.keepalive()
            || !self.has_response_header()
            || self.is_body_read(r)
            || r.has_cached_response(self)
        {
            return None;
        }
        let upgraded = get_bit!(self: ngx_http_upstream_t::upgrade_raw);
        if upgraded || self.is_interim() {
            return None;
        }
        let framing = if self.module() == b"fastcgi" {
            self.records_framing(r, request)?
        } else {
            self.http1_framing(request)?
        };
        Some(Unread { framing, preread: self.preread() })
    }

    fn http1_framing(self, request: FirstBuffer) -> Option<Framing> {
        let headers = field_ptr!(self.headers_in);
        // It is set for HTTP/1.0 as well.
        // SAFETY: as above; reads one bit.
        let closes = unsafe { ngx_http_upstream_headers_in_t::connection_close_raw(headers) != 0 };
        if closes || self.http1_request(request).is_none() {
            return None;
        }
        // SAFETY: as above; reads one bit.
        if unsafe { ngx_http_upstream_headers_in_t::chunked_raw(headers) != 0 } {
            return Some(Framing::Chunked);
        }
        // SAFETY: as above; reads one field.
        u64::try_from(unsafe { (*headers).content_length_n }).ok().map(Framing::Length)
    }

    /// How far nginx is in a record, it tells nobody: but all that it has read is in the buffer still, unless the application
    /// has complained before it answered. (A header `Connection` is not about this connection.)
    fn records_framing(self, r: Request, request: FirstBuffer) -> Option<Framing> {
        if asks_to_close(request.bytes()) {
            return None;
        }
        let state = NonNull::new(get_field!(self.state))?;
        // SAFETY: the present state of a live request; `ngx_http_upstream_process_header()` counts there what it reads.
        let received = usize::try_from(unsafe { (*state.as_ptr()).bytes_received }).ok()?;
        let buffer = field_ptr!(self.buffer);
        // SAFETY: as above; reads one field.
        let start = unsafe { (*buffer).start };
        // SAFETY: as above.
        let pos = unsafe { (*buffer).pos };
        // SAFETY: as above.
        let last = unsafe { (*buffer).last };
        let first = start.wrapping_add(r.cached_length());
        if start.is_null() || (last as usize).checked_sub(first as usize)? != received {
            return None;
        }
        // SAFETY: a buffer in the request's pool, filled from `first`, from where the core has read into it, to `last`, and
        // `pos` is in between; nobody writes it meanwhile.
        Records::behind(unsafe { between(first, pos) }).map(Framing::Records)
    }

    /// What a server says of its connection, if it says something.
    #[inline]
    pub(crate) fn said(self, r: Request, request: FirstBuffer) -> Option<Said> {
        let list = field_ptr!(self.headers_in.headers);
        let challenges = !get_field!(self.headers_in.www_authenticate).is_null();
        // SAFETY: the list of a live request.
        let told = challenges || unsafe { may_have(list, OF_INTEREST) };
        told.then(|| self.read_said(r, request))
    }

    #[cold]
    fn read_said(self, r: Request, request: FirstBuffer) -> Said {
        let list = field_ptr!(self.headers_in.headers);
        // What the cache remembers of another connection says nothing of how long this one is kept.
        let hints = !r.is_cached() && self.http1_request(request).is_some();
        let mut said = Said::default();
        // SAFETY: the list of a live request, which nobody changes meanwhile.
        for header in unsafe { Headers::of(list) } {
            let (name, value) = (header.name(), bytes(header.value()));
            let is = |key: &[u8]| name.eq_ignore_ascii_case(key);
            if hints && is(KEEP_ALIVE) {
                said.hint.read(value);
            } else if CHALLENGES.into_iter().any(is) {
                said.has_user |= stateful_auth::challenges(value);
            } else if is(PERSISTENT) {
                said.has_user |= stateful_auth::persists(value);
            }
        }
        said
    }

    pub(crate) fn has_response_header(self) -> bool {
        const NOT_MEASURED: ngx_msec_t = ngx_msec_t::MAX;
        let Some(state) = NonNull::new(get_field!(self.state)) else { return false };
        // SAFETY: the present state of a live request; `ngx_http_upstream_process_header()` sets the field.
        unsafe { (*state.as_ptr()).header_time != NOT_MEASURED }
    }

    /// Whether the client has got the header of the response.
    #[inline]
    pub(crate) fn is_header_sent(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::header_sent_raw)
    }

    /// Whether the core has begun to pass on the body, or to store it.
    pub(crate) fn is_body_read(self, r: Request) -> bool {
        if self.is_header_sent() && !r.is_header_only() {
            return true;
        }
        let pipe = NonNull::new(get_field!(self.pipe));
        // SAFETY: in the pool of the live request; the core sets the field when it begins to read.
        pipe.is_some_and(|pipe| unsafe { !(*pipe.as_ptr()).upstream.is_null() })
    }

    /// What was read past the header.
    fn preread<'a>(self) -> &'a [u8] {
        let buffer = field_ptr!(self.buffer);
        // SAFETY: as above; reads one field.
        let pos = unsafe { (*buffer).pos };
        // SAFETY: as above.
        let last = unsafe { (*buffer).last };
        // SAFETY: a buffer in the request's pool, filled from `pos` to `last`; nobody writes it meanwhile.
        unsafe { between(pos, last) }
    }

    /// The first buffer of the request; to be asked before anything is sent.
    #[inline]
    pub(crate) fn first_buffer(self) -> FirstBuffer {
        let chain = NonNull::new(get_field!(self.request_bufs));
        // SAFETY: `create_request` has made the chain, in the request's pool.
        FirstBuffer(chain.and_then(|chain| NonNull::new(unsafe { (*chain.as_ptr()).buf })))
    }

    /// Readies the request to be sent over a new connection. What of it is different from one connection to the other are the
    /// numbers of HTTP/2; `false` if it is of HTTP/2 and they are not where they should be.
    pub(crate) fn ready_for_new_connection(self, request: FirstBuffer) -> bool {
        let is_http2 = match self.module() {
            b"grpc" => true,
            b"proxy" => self.http1_request(request).is_none(),
            _ => false,
        };
        // SAFETY: the connection for which it was written has failed, and nobody reads it before it is sent again.
        !is_http2 || number_as_first(unsafe { request.bytes_mut() })
    }

    /// The request from its first byte on, as the proxy module has written it, if that is HTTP/1.
    pub(crate) fn http1_request<'a>(self, request: FirstBuffer) -> Option<&'a [u8]> {
        if self.module() != b"proxy" {
            return None;
        }
        let request = request.bytes();
        let end = request.iter().position(|byte| *byte == b'\r')?;
        request.get(..end).is_some_and(is_http1).then_some(request)
    }

    pub(crate) fn closes(self) -> Option<Closes> {
        let headers = field_ptr!(self.headers_in);
        // SAFETY: as above; reads one bit.
        if unsafe { ngx_http_upstream_headers_in_t::connection_close_raw(headers) == 0 } {
            return None;
        }
        // SAFETY: as above; makes no reference.
        let list = unsafe { &raw const (*headers).headers };
        // SAFETY: the list of a live request.
        let mut headers = unsafe { Headers::of(list) };
        let says = headers.any(|header| {
            header.name().eq_ignore_ascii_case(b"connection") && says_close(bytes(header.value()))
        });
        Some(if says { Closes::Header } else { Closes::Version })
    }

    /// Whether only the end of the connection tells that of the response.
    pub(crate) fn ends_with_connection(self) -> bool {
        let headers = field_ptr!(self.headers_in);
        // SAFETY: as above; reads one bit.
        let chunked = unsafe { ngx_http_upstream_headers_in_t::chunked_raw(headers) != 0 };
        // SAFETY: as above; reads one field.
        !chunked && self.has_response_header() && unsafe { (*headers).content_length_n } < 0
    }

    /// Whether the core has found the end of the body that it began to read.
    pub(crate) fn is_body_complete(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        if unsafe { ngx_http_upstream_t::buffering_raw(self.as_ptr()) } == 0 {
            return get_field!(self.length) == 0;
        }
        let pipe = NonNull::new(get_field!(self.pipe));
        // SAFETY: in the pool of the live request; reads one bit.
        pipe.is_some_and(|pipe| unsafe { ngx_event_pipe_t::upstream_done_raw(pipe.as_ptr()) != 0 })
    }

    pub(crate) fn is_upgraded(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::upgrade_raw)
    }

    /// Where the buffer for the header of the response begins, and where it is filled to.
    #[inline]
    pub(crate) fn all_read(self) -> (*const u8, *const u8) {
        let start = get_field!(self.buffer.start);
        (start, get_field!(self.buffer.last))
    }

    /// Sends what the protocol module has ready, as the core does when the connection takes more.
    pub(crate) fn flush(self) {
        let output = field_ptr!(self.output);
        // SAFETY: the core has set it up for the connection, and sent by it; nothing is added.
        unsafe { ngx_output_chain(output, std::ptr::null_mut()) };
    }
}

/// # Safety
/// Null, or a buffer that is filled from `start` to `end`, and not written as long as the slice is used.
pub(crate) unsafe fn between<'a>(start: *const u8, end: *const u8) -> &'a [u8] {
    let length = (end as usize).saturating_sub(start as usize);
    if start.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: filled, says the caller.
    unsafe { std::slice::from_raw_parts(start, length) }
}
