//! A request and its upstream part: copyable handles that read and write one field at a time, as those
//! of [`crate::ffi::nginx::conn`].

use std::ffi::{c_void, CStr};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_finalize_request, ngx_http_log_ctx_t, ngx_http_request_t, ngx_http_run_posted_requests,
    ngx_http_upstream_conf_t, ngx_http_upstream_t, ngx_int_t, ngx_log_error_core, ngx_log_t, ngx_module_t,
    ngx_pool_t, ngx_uint_t, off_t, NGX_HTTP_VERSION_20, NGX_LOG_CRIT, NGX_LOG_ERR, NGX_LOG_INFO,
};

use ngx::http::{HttpModuleLocationConf, NgxHttpCoreModule};

use crate::ffi::nginx::bits;
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::handle::{field_ptr, get_bit, get_field, handle, set_field, Handle};
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::peer_connection::Peer;

/// A request.
///
/// # Invariants
/// Points at an `ngx_http_request_t` that is alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request(NonNull<ngx_http_request_t>);

/// An upstream request, `r->upstream`.
///
/// # Invariants
/// Points at an `ngx_http_upstream_t` whose request is alive; it lies in the request's pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpUpstream(NonNull<ngx_http_upstream_t>);

handle!(Request, ngx_http_request_t);

impl Request {
    /// # Safety
    /// `ptr` points at a live request, and the handle is not used after it.
    pub(crate) unsafe fn from_ptr(ptr: NonNull<ngx_http_request_t>) -> Self {
        Self(ptr)
    }

    /// # Safety
    /// `ptr` is null, or what nginx passes to a handler: a live request.
    pub(crate) unsafe fn from_raw(ptr: *mut ngx_http_request_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    pub(crate) fn pool(self) -> *mut ngx_pool_t {
        get_field!(self.pool)
    }

    #[inline]
    pub(crate) fn method(self) -> ngx_uint_t {
        get_field!(self.method)
    }

    /// Whether another location follows when the response is sent.
    #[inline]
    pub(crate) fn has_post_action(self) -> bool {
        // SAFETY: a live request.
        let conf = NgxHttpCoreModule::location_conf(unsafe { &*self.as_ptr() });
        conf.is_some_and(|conf| conf.post_action.len > 0)
    }

    /// Whether its body is known to have at most so many bytes.
    pub(crate) fn has_body_within(self, limit: off_t) -> bool {
        let length = get_field!(self.headers_in.content_length_n);
        let body = NonNull::new(get_field!(self.request_body));
        // SAFETY: in the pool of the live request; reads one field.
        let has_body = body.is_some_and(|body| unsafe { !(*body.as_ptr()).bufs.is_null() });
        (0..=limit).contains(&length) || !has_body
    }

    /// The length of `r->upstream_states`.
    #[inline]
    pub(crate) fn attempts(self) -> u32 {
        let states = get_field!(self.upstream_states);
        // SAFETY: null, or an array in the request's pool.
        unsafe { states.as_ref() }.map_or(0, |states| states.nelts as u32)
    }

    /// The body is sent while it comes, and is not there to be sent again.
    #[inline]
    pub(crate) fn is_unbuffered(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { bits::REQUEST_BODY_NO_BUFFERING.is_set(self.as_ptr()) }
    }

    /// The request of the client, of which this one may be a part.
    pub(crate) fn main(self) -> Self {
        let main = get_field!(self.main);
        // SAFETY: the main request lives as long as its parts, and is its own main request.
        unsafe { Self::from_raw(main) }.unwrap_or(self)
    }

    /// Refers to it once more, so that it lives on when a part of it ends.
    pub(crate) fn retain(self) {
        let main = self.main();
        // SAFETY: live by the type invariant; reads some bits.
        let count = unsafe { ngx_http_request_t::count_raw(main.as_ptr()) };
        // SAFETY: as above; writes some bits.
        unsafe { ngx_http_request_t::set_count_raw(main.as_ptr(), count + 1) };
    }

    /// Its upstream part, if it ever had one.
    pub(crate) fn upstream(self) -> Option<HttpUpstream> {
        let u: *mut ngx_http_upstream_t = get_field!(self.upstream);
        // SAFETY: that of a live request.
        (!u.is_null()).then(|| unsafe { HttpUpstream::from_ptr(u) })
    }

    /// What a module has attached to it.
    pub(crate) fn context_of(self, module: &ngx_module_t) -> Option<NonNull<c_void>> {
        let contexts = get_field!(self.ctx);
        // SAFETY: it has a place for each module.
        let place = unsafe { contexts.add(module.ctx_index) };
        // SAFETY: as above.
        NonNull::new(unsafe { *place })
    }

    pub(crate) fn set_context_of(self, module: &ngx_module_t, context: *mut c_void) {
        let contexts = get_field!(self.ctx);
        // SAFETY: it has a place for each module.
        let place = unsafe { contexts.add(module.ctx_index) };
        // SAFETY: as above.
        unsafe { *place = context };
    }

    /// Whether the client speaks HTTP/1: its connection carries one request after the other.
    pub(crate) fn is_http1(self) -> bool {
        // SAFETY: live by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).http_version < NGX_HTTP_VERSION_20 as ngx_uint_t }
    }

    /// The value of `Authorization`.
    #[inline]
    pub(crate) fn authorization<'a>(self) -> Option<&'a [u8]> {
        let header = get_field!(self.headers_in.authorization);
        // SAFETY: null, or a header of the request, in its pool or that of its main request; reads one field.
        NonNull::new(header).map(|header| bytes(unsafe { (*header.as_ptr()).value }))
    }

    /// The connection to the client.
    pub(crate) fn client(self) -> Conn {
        let client = get_field!(self.connection);
        // SAFETY: a live request has its connection, and it is open.
        unsafe { Conn::from_open(client) }
    }

    pub(crate) fn log(self) -> *mut ngx_log_t {
        // SAFETY: an open connection; reads one field.
        unsafe { (*self.client().as_ptr()).log }
    }

    /// Lets the error log tell of this request, as `ngx_http_set_log_request()`: of several requests
    /// of one client it may have told of another.
    pub(crate) fn set_logged(self) {
        // SAFETY: a live connection has its log.
        let context = unsafe { (*self.log()).data }.cast::<ngx_http_log_ctx_t>();
        // SAFETY: what a log of an HTTP connection has there while it has requests.
        unsafe { (*context).current_request = self.as_ptr() };
    }

    /// Writes a line without formats to the error log, at `error`.
    pub(crate) fn log_error(self, line: &'static CStr) {
        self.log_at(NGX_LOG_ERR, line);
    }

    /// Writes a line without formats to the error log, at `crit`.
    pub(crate) fn log_crit(self, line: &'static CStr) {
        self.log_at(NGX_LOG_CRIT, line);
    }

    /// Writes a line without formats to the error log, at `info`.
    pub(crate) fn log_info(self, line: &'static CStr) {
        self.log_at(NGX_LOG_INFO, line);
    }

    fn log_at(self, level: u32, line: &'static CStr) {
        // SAFETY: a live log; reads one field.
        if unsafe { (*self.log()).log_level } >= level as usize {
            // SAFETY: a live log; the line has no formats.
            unsafe { ngx_log_error_core(level as usize, self.log(), 0, line.as_ptr()) };
        }
    }

    /// Ends the upstream part of the request, and the request with `status`. Both may be gone then.
    pub(crate) fn finalize(self, u: HttpUpstream, status: ngx_int_t) {
        u.set_status(status);
        let main = get_field!(self.main);
        // The end of the upstream part ends the request once, the status another time.
        // SAFETY: as above.
        let count = unsafe { (*main).count() };
        // SAFETY: as above; nobody else has a reference.
        unsafe { (*main).set_count(count + 1) };
        let client = self.client();
        u.clean_up(self);
        // SAFETY: it was counted once more, so that it is alive.
        unsafe { ngx_http_finalize_request(self.as_ptr(), status) };
        // SAFETY: as nginx's own handlers, which end with this whatever has become of the request.
        unsafe { ngx_http_run_posted_requests(client.as_ptr()) };
    }
}

handle!(HttpUpstream, ngx_http_upstream_t);

impl HttpUpstream {
    /// # Safety
    /// `ptr` is the `r->upstream` of a live request that has one, and the handle is not used after it.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_http_upstream_t) -> Self {
        // SAFETY: not null, says the caller.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// The peer part of the request.
    pub(crate) fn peer(self) -> Peer {
        let peer = field_ptr!(self.peer);
        // SAFETY: the `&u->peer` of a live request.
        unsafe { Peer::from_ptr(peer) }
    }

    /// The protocol module allows another request on the connection.
    pub(crate) fn keepalive(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::keepalive_raw)
    }

    pub(crate) fn request_body_sent(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::request_body_sent_raw)
    }

    /// A number for the protocol module and its version: each has a function of its own that writes
    /// requests, and so has HTTP/2 in the proxy module.
    pub(crate) fn protocol(self) -> usize {
        get_field!(self.create_request).map_or(0, |function| function as usize)
    }

    pub(crate) fn uses_tls(self) -> bool {
        #[cfg(ngx_feature = "http_ssl")]
        return get_bit!(self: ngx_http_upstream_t::ssl_raw);
        #[cfg(not(ngx_feature = "http_ssl"))]
        false
    }

    /// Lets `evaluate` see the peer that the balancer has just chosen, as the core will show it: for
    /// variables that come from `$upstream_addr`, which nginx may evaluate only once.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn with_peer_shown<T>(self, evaluate: impl FnOnce() -> T) -> T {
        let Some(state) = NonNull::new(get_field!(self.state)) else { return evaluate() };
        // SAFETY: the present state of a live request, in its pool.
        let before = unsafe { (*state.as_ptr()).peer };
        let name = get_field!(self.peer.name);
        // SAFETY: as above. A name in a zone can be freed, so it is not left there.
        unsafe { (*state.as_ptr()).peer = name };
        let result = evaluate();
        // SAFETY: as above.
        unsafe { (*state.as_ptr()).peer = before };
        result
    }

    /// The configuration of the location.
    pub(crate) fn conf(self) -> NonNull<ngx_http_upstream_conf_t> {
        let conf = get_field!(self.conf);
        // SAFETY: the protocol module sets it before it starts the upstream request.
        unsafe { NonNull::new_unchecked(conf) }
    }

    /// # Safety
    /// `conf` is equal to the present one in all that matters to the request, and lives as long.
    #[inline]
    pub(crate) unsafe fn set_conf(self, conf: NonNull<ngx_http_upstream_conf_t>) {
        set_field!(self.conf = conf.as_ptr());
    }

    /// Whether `proxy_next_upstream` allows another try after a failure of these kinds.
    #[inline]
    pub(crate) fn repeats(self, failure: ngx_uint_t) -> bool {
        let conf = get_field!(self.conf);
        // SAFETY: the protocol module sets it before it starts the upstream request.
        unsafe { (*conf).next_upstream & failure == failure }
    }

    /// The TLS name: that of the upstream, and after a handshake the one that was used.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn ssl_name(self) -> nginx_sys::ngx_str_t {
        get_field!(self.ssl_name)
    }
}
