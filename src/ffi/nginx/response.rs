//! How far a request and its response, of HTTP/1 or FastCGI, have got when the core returns the connection: whether the
//! whole request was sent, and how much of the response was not read.

use std::ptr::NonNull;

#[cfg(ngx_feature = "http_cache")]
use nginx_sys::NGX_HTTP_CACHE_REVALIDATED;
use nginx_sys::{
    ngx_buf_t, ngx_event_pipe_t, ngx_http_headers_in_t, ngx_http_upstream_headers_in_t, ngx_http_upstream_t,
    ngx_output_chain, NGX_HTTP_OK,
};

use crate::drain::Framing;
use crate::fastcgi::{asks_to_close, Records};
use crate::http1::keep_alive::Hint;
use crate::http1::request_head::{is_http1, may_announce_body, says_close, RequestHead};
use crate::http1::stateful_auth;
use crate::http2::frames::number_as_first;

use super::bits;
use super::conn::Conn;
#[cfg(ngx_feature = "http_cache")]
use super::handle::get_bits;
use super::handle::{field_ptr, get_bit, get_field, Live};
use super::headers::{bytes, hash_of, may_have, only, Headers};
use super::request::{HttpUpstream, Request};
use super::upstream_state::NOT_MEASURED;

/// A response whose header is complete, and whose body nobody has read.
pub(crate) struct Unread<'a> {
    pub(crate) framing: Framing,
    /// The part of the body that arrived together with the header.
    pub(crate) preread: &'a [u8],
}

/// What a server says about its connection.
#[derive(Default)]
pub(crate) struct Said {
    /// How long the server keeps the connection.
    pub(crate) hint: Hint,
    /// The connection has an authenticated user, or would get one by the next request.
    pub(crate) has_user: bool,
}

/// Which part of an HTTP/1 response says that the server closes the connection.
pub(crate) enum Closes {
    Version,
    Header,
}

const KEEP_ALIVE: &[u8] = b"keep-alive";
const CHALLENGES: [&[u8]; 2] = [b"www-authenticate", b"proxy-authenticate"];
const PERSISTENT: &[u8] = b"persistent-auth";
/// Hashes of the names that nginx does not look for itself.
const OF_INTEREST: [usize; 3] = [hash_of(KEEP_ALIVE), hash_of(CHALLENGES[1]), hash_of(PERSISTENT)];

/// The buffer with the head of the request. The chain that begins with it is gone once an unbuffered body was sent.
#[derive(Clone, Copy)]
pub(crate) struct FirstBuffer(Option<Live<ngx_buf_t>>);

impl FirstBuffer {
    /// The start and the length of what was written to it, whether or not the connection has sent it.
    #[inline]
    fn range(self) -> (*mut u8, usize) {
        let Some(buf) = self.0 else { return (NonNull::dangling().as_ptr(), 0) };
        let (start, last) = (get_field!(buf.start), get_field!(buf.last));
        if start.is_null() || last < start {
            return (NonNull::dangling().as_ptr(), 0);
        }
        (start, last as usize - start as usize)
    }

    /// Its contents.
    #[inline]
    pub(crate) fn bytes<'a>(self) -> &'a [u8] {
        let (start, length) = self.range();
        // SAFETY: `create_request` has allocated and filled the memory, in the request's pool; nothing writes it meanwhile.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// Its contents, to be changed.
    ///
    /// # Safety
    /// Nothing else reads or writes them meanwhile.
    unsafe fn bytes_mut<'a>(self) -> &'a mut [u8] {
        let (start, length) = self.range();
        // SAFETY: `create_request` has allocated and filled the memory; the caller says that nothing else uses it.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }
}

impl Request {
    /// Whether the core sends the body chunked.
    fn is_sent_in_chunks(self) -> bool {
        self.is_unbuffered() && get_bit!(self.headers_in: ngx_http_headers_in_t::chunked_raw)
    }

    /// Whether the response comes from the cache although a server was asked: then nothing tells what the server has
    /// sent. (A response that revalidates the cached one has no body.)
    #[cfg(ngx_feature = "http_cache")]
    pub(crate) fn has_cached_response(self, u: HttpUpstream) -> bool {
        self.is_cached() && get_bits!(u: ngx_http_upstream_t::cache_status_raw) != NGX_HTTP_CACHE_REVALIDATED
    }

    #[cfg(not(ngx_feature = "http_cache"))]
    pub(crate) fn has_cached_response(self, _: HttpUpstream) -> bool {
        false
    }

    /// Whether the header of the response is from the cache.
    fn is_cached(self) -> bool {
        self.has_bit(bits::CACHED)
    }

    /// The length of the cache's own header at the start of the buffer, before the response.
    fn cached_length(self) -> usize {
        #[cfg(ngx_feature = "http_cache")]
        {
            let cache = get_field!(self.cache);
            // SAFETY: null, or a structure in the pool of the live request.
            let cache = unsafe { Live::from_ptr(cache) };
            cache.map_or(0, |cache| get_field!(cache.header_start))
        }
        #[cfg(not(ngx_feature = "http_cache"))]
        0
    }

    fn is_header_only(self) -> bool {
        self.has_bit(bits::HEADER_ONLY)
    }
}

impl HttpUpstream {
    /// Whether exactly the announced request was sent. The core also believes so when it has no body to send although the
    /// head of the request announces one, as with `auth_request` and a POST.
    #[inline(always)]
    pub(crate) fn is_request_sent(self, r: Request, request: FirstBuffer, conn: Conn) -> bool {
        if !self.request_body_sent() {
            return false;
        }
        let head = request.bytes();
        let is_head_only = conn.sent() == head.len() as u64 && !may_announce_body(head);
        is_head_only || self.is_announced_sent(r, request, conn)
    }

    #[inline(never)]
    fn is_announced_sent(self, r: Request, request: FirstBuffer, conn: Conn) -> bool {
        let Some(head) = self.http1_request(request) else { return true };
        let chunks = r.is_sent_in_chunks();
        RequestHead::read(head).is_some_and(|head| head.is_all_sent(conn.sent(), chunks))
    }

    /// Whether the protocol module allows another request on the connection, and nothing contradicts it.
    #[inline(always)]
    pub(crate) fn is_response_read(self, r: Request, request: FirstBuffer) -> bool {
        self.keepalive()
            && !self.is_interim()
            && !r.has_cached_response(self)
            && (self.is_body_read(r) || !self.has_surplus(request))
    }

    /// Whether nginx has taken an interim response (1xx) for the final one, which is still to come.
    #[inline]
    fn is_interim(self) -> bool {
        let status = get_field!(self.headers_in.status_n);
        (1..NGX_HTTP_OK as usize).contains(&status)
    }

    /// Whether bytes follow a response that has no body.
    #[cold]
    fn has_surplus(self, request: FirstBuffer) -> bool {
        !self.preread().is_empty() && self.http1_request(request).is_some()
    }

    /// The response, if it is known where it ends.
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
        if self.is_to_be_closed() || self.http1_request(request).is_none() {
            return None;
        }
        if self.is_chunked() {
            return Some(Framing::Chunked);
        }
        u64::try_from(get_field!(self.headers_in.content_length_n)).ok().map(Framing::Length)
    }

    /// Whether the server announces to close the connection, by `Connection: close` or by HTTP/1.0.
    fn is_to_be_closed(self) -> bool {
        get_bit!(self.headers_in: ngx_http_upstream_headers_in_t::connection_close_raw)
    }

    fn is_chunked(self) -> bool {
        get_bit!(self.headers_in: ngx_http_upstream_headers_in_t::chunked_raw)
    }

    /// nginx does not show how far it has got in a record. But all that it has read is still in the buffer, unless the
    /// application has written to stderr before it answered. (A header `Connection` is not about this connection.)
    fn records_framing(self, r: Request, request: FirstBuffer) -> Option<Framing> {
        if asks_to_close(request.bytes()) {
            return None;
        }
        // `ngx_http_upstream_process_header()` counts there what it reads.
        let state = self.state()?;
        let received = usize::try_from(get_field!(state.bytes_received)).ok()?;
        let (start, pos) = (get_field!(self.buffer.start), get_field!(self.buffer.pos));
        let last = get_field!(self.buffer.last);
        let first = start.wrapping_add(r.cached_length());
        if start.is_null() || (last as usize).checked_sub(first as usize)? != received {
            return None;
        }
        // SAFETY: a buffer in the request's pool, which the core has filled from `first` to `last`, with `pos` in between;
        // nothing writes it meanwhile.
        Records::behind(unsafe { between(first, pos) }).map(Framing::Records)
    }

    /// Whether the server may say something about its connection.
    #[inline(always)]
    pub(crate) fn says_something(self) -> bool {
        let list = field_ptr!(self.headers_in.headers);
        // SAFETY: a list in the live request, which changes only when the core reads a header.
        !get_field!(self.headers_in.www_authenticate).is_null() || unsafe { may_have(list, OF_INTEREST) }
    }

    /// How long the server says that it keeps the connection, if it says so in the usual way, and nothing else about the connection.
    pub(crate) fn announced(self, r: Request, request: FirstBuffer) -> Option<Hint> {
        if !get_field!(self.headers_in.www_authenticate).is_null() || !self.may_hint(r, request) {
            return None;
        }
        let list = field_ptr!(self.headers_in.headers);
        // SAFETY: a list in the live request, which changes only when the core reads a header.
        let header = unsafe { only(list, OF_INTEREST) }?;
        header.is_named(KEEP_ALIVE).then(|| Hint::of_usual(bytes(header.value())))?
    }

    /// Whether `Keep-Alive` is about the connection of the request. What the cache stores of another one says nothing about it.
    fn may_hint(self, r: Request, request: FirstBuffer) -> bool {
        !r.is_cached() && self.http1_request(request).is_some()
    }

    /// What the server says about its connection, if it says something.
    pub(crate) fn said(self, r: Request, request: FirstBuffer) -> Option<Said> {
        self.says_something().then(|| self.read_said(r, request))
    }

    #[cold]
    fn read_said(self, r: Request, request: FirstBuffer) -> Said {
        let hints = self.may_hint(r, request);
        let mut said = Said::default();
        for header in self.headers() {
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

    /// Whether the header of the response is complete.
    pub(crate) fn has_response_header(self) -> bool {
        // `ngx_http_upstream_process_header()` sets the field.
        self.state().is_some_and(|state| get_field!(state.header_time) != NOT_MEASURED)
    }

    /// Whether the header of the response was sent to the client.
    #[inline]
    pub(crate) fn is_header_sent(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::header_sent_raw)
    }

    /// Whether the core has begun to pass on the body, or to store it.
    pub(crate) fn is_body_read(self, r: Request) -> bool {
        if self.is_header_sent() && !r.is_header_only() {
            return true;
        }
        // The core sets the field when it begins to read.
        self.pipe().is_some_and(|pipe| !get_field!(pipe.upstream).is_null())
    }

    /// `u->pipe`, if the response is buffered.
    fn pipe(self) -> Option<Live<ngx_event_pipe_t>> {
        let pipe = get_field!(self.pipe);
        // SAFETY: null, or a structure in the pool of the live request.
        unsafe { Live::from_ptr(pipe) }
    }

    /// The bytes that were read behind the header.
    fn preread<'a>(self) -> &'a [u8] {
        let (pos, last) = (get_field!(self.buffer.pos), get_field!(self.buffer.last));
        // SAFETY: a buffer in the request's pool, filled from `pos` to `last`; nothing writes it meanwhile.
        unsafe { between(pos, last) }
    }

    /// The first buffer of the request; to be called before anything is sent.
    #[inline]
    pub(crate) fn first_buffer(self) -> FirstBuffer {
        let request_bufs = get_field!(self.request_bufs);
        // SAFETY: null, or the chain that `create_request` has made in the request's pool.
        let chain = unsafe { Live::from_ptr(request_bufs) };
        let Some(buf) = chain.map(|chain| get_field!(chain.buf)) else { return FirstBuffer(None) };
        // SAFETY: null, or a buffer that `create_request` has made in the request's pool.
        FirstBuffer(unsafe { Live::from_ptr(buf) })
    }

    /// Prepares the request to be sent over a new connection. Only the stream numbers of HTTP/2 differ between connections;
    /// `false` if the request is HTTP/2 and they are not where they are expected.
    pub(crate) fn ready_for_new_connection(self, request: FirstBuffer) -> bool {
        let is_http2 = match self.module() {
            b"grpc" => true,
            b"proxy" => self.http1_request(request).is_none(),
            _ => false,
        };
        // SAFETY: the connection for which it was written has failed, and nothing reads it before it is sent again.
        !is_http2 || number_as_first(unsafe { request.bytes_mut() })
    }

    /// The head of the request as the proxy module has written it, if it is HTTP/1.
    pub(crate) fn http1_request<'a>(self, request: FirstBuffer) -> Option<&'a [u8]> {
        if self.module() != b"proxy" {
            return None;
        }
        let request = request.bytes();
        let end = memchr::memchr(b'\r', request)?;
        request.get(..end).is_some_and(is_http1).then_some(request)
    }

    /// The headers that the server has sent.
    pub(crate) fn headers(self) -> Headers {
        let list = field_ptr!(self.headers_in.headers);
        // SAFETY: a list in the live request, which changes only when the core reads a header.
        unsafe { Headers::of(list) }
    }

    /// How the server announces to close the connection, if it does.
    pub(crate) fn closes(self) -> Option<Closes> {
        if !self.is_to_be_closed() {
            return None;
        }
        let says = self.headers().any(|header| {
            header.name().eq_ignore_ascii_case(b"connection") && says_close(bytes(header.value()))
        });
        Some(if says { Closes::Header } else { Closes::Version })
    }

    /// Whether the response ends where the connection ends.
    pub(crate) fn ends_with_connection(self) -> bool {
        !self.is_chunked() && self.has_response_header() && get_field!(self.headers_in.content_length_n) < 0
    }

    /// Whether the core has read the body to its end.
    pub(crate) fn is_body_complete(self) -> bool {
        if !get_bit!(self: ngx_http_upstream_t::buffering_raw) {
            return get_field!(self.length) == 0;
        }
        self.pipe().is_some_and(|pipe| get_bit!(pipe: ngx_event_pipe_t::upstream_done_raw))
    }

    pub(crate) fn is_upgraded(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::upgrade_raw)
    }

    /// The start of the buffer for the header of the response, and the end of its filled part.
    #[inline]
    pub(crate) fn all_read(self) -> (*const u8, *const u8) {
        let start = get_field!(self.buffer.start);
        (start, get_field!(self.buffer.last))
    }

    /// Sends the pending output, as the core does when the connection is writable again.
    pub(crate) fn flush(self) {
        let output = field_ptr!(self.output);
        // SAFETY: the core has set up the context for the connection, and has sent with it; nothing is added to it.
        unsafe { ngx_output_chain(output, std::ptr::null_mut()) };
    }
}

/// The bytes of a buffer from `start` to `end`.
///
/// # Safety
/// `start` is null, or points into a buffer that is filled up to `end`, and not written as long as the slice is used.
pub(crate) unsafe fn between<'a>(start: *const u8, end: *const u8) -> &'a [u8] {
    let length = (end as usize).saturating_sub(start as usize);
    if start.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller says that the buffer is filled from `start` to `end`.
    unsafe { std::slice::from_raw_parts(start, length) }
}
