//! A request and its upstream part.

use std::ffi::{c_void, CStr};
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_finalize_request, ngx_http_log_ctx_t, ngx_http_request_body_t, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_http_upstream_conf_t, ngx_http_upstream_state_t, ngx_http_upstream_t,
    ngx_int_t, ngx_log_t, ngx_module_t, ngx_output_chain_filter_pt, ngx_pool_t, ngx_table_elt_t, ngx_uint_t,
    off_t, NGX_HTTP_VERSION_20, NGX_LOG_CRIT, NGX_LOG_ERR, NGX_LOG_INFO,
};

use ngx::http::{HttpModuleLocationConf, NgxHttpCoreModule};

use super::bits;
use super::conn::Conn;
use super::handle::{field_ptr, get_bit, get_bits, get_field, handle, set_bit, set_field, Handle, Live};
use super::headers::{bytes, Header};
use super::log::{takes, write_line};
use super::memory::Pool;
use super::peer_connection::Peer;

/// A request.
///
/// # Invariants
/// Points at an `ngx_http_request_t` that is alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request(NonNull<ngx_http_request_t>);

/// An upstream request, `r->upstream`.
///
/// # Invariants
/// Points at an `ngx_http_upstream_t` in the pool of a request that is alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpUpstream(NonNull<ngx_http_upstream_t>);

/// A function that sends, and its data.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) filter: ngx_output_chain_filter_pt,
    pub(crate) data: *mut c_void,
}

handle!(Request, ngx_http_request_t);

impl Request {
    /// # Safety
    /// `ptr` points at a request that is alive as long as the handle is used.
    pub(crate) unsafe fn from_ptr(ptr: NonNull<ngx_http_request_t>) -> Self {
        Self(ptr)
    }

    /// # Safety
    /// `ptr` is null, or points at a request that is alive as long as the handle is used, as nginx passes it to a handler.
    pub(crate) unsafe fn from_raw(ptr: *mut ngx_http_request_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    pub(crate) fn pool(self) -> *mut ngx_pool_t {
        get_field!(self.pool)
    }

    /// Its memory pool.
    #[inline]
    pub(crate) fn memory(self) -> Pool {
        // SAFETY: a live request has its pool, which nginx destroys with the request.
        unsafe { Pool::from_non_null(self.pool()) }
    }

    #[inline]
    pub(crate) fn method(self) -> ngx_uint_t {
        get_field!(self.method)
    }

    /// Whether another location is run once the response is sent (`post_action`).
    #[inline]
    pub(crate) fn has_post_action(self) -> bool {
        // SAFETY: live by the type invariant; the reference ends with this line, which does not call nginx.
        let conf = NgxHttpCoreModule::location_conf(unsafe { &*self.as_ptr() });
        conf.is_some_and(|conf| conf.post_action.len > 0)
    }

    /// Whether its body is known to have at most `limit` bytes.
    pub(crate) fn has_body_within(self, limit: off_t) -> bool {
        let length = get_field!(self.headers_in.content_length_n);
        let has_body = self.body().is_some_and(|body| !get_field!(body.bufs).is_null());
        (0..=limit).contains(&length) || !has_body
    }

    /// `r->request_body`, once nginx has begun to read the body.
    fn body(self) -> Option<Live<ngx_http_request_body_t>> {
        let request_body = get_field!(self.request_body);
        // SAFETY: null, or a structure in the pool of the live request.
        unsafe { Live::from_ptr(request_body) }
    }

    /// The number of records in `r->upstream_states`.
    #[inline]
    pub(crate) fn attempts(self) -> u32 {
        let upstream_states = get_field!(self.upstream_states);
        // SAFETY: null, or an array in the pool of the live request.
        let states = unsafe { Live::from_ptr(upstream_states) };
        states.map_or(0, |states| get_field!(states.nelts) as u32)
    }

    /// Whether the body is sent while it arrives (`proxy_request_buffering off`), so that it cannot be sent again.
    #[inline]
    pub(crate) fn is_unbuffered(self) -> bool {
        self.has_bit(bits::REQUEST_BODY_NO_BUFFERING)
    }

    /// The main request: the request of the client, or this one itself.
    pub(crate) fn main(self) -> Self {
        let main = get_field!(self.main);
        // SAFETY: the main request lives as long as its subrequests.
        unsafe { Self::from_raw(main) }.unwrap_or(self)
    }

    /// Counts one more reference to the main request, so that it lives on when a subrequest ends.
    pub(crate) fn retain(self) {
        let main = self.main();
        let count = get_bits!(main: ngx_http_request_t::count_raw);
        set_bit!(main: ngx_http_request_t::set_count_raw, count + 1);
    }

    /// Its upstream part, if it ever had one.
    pub(crate) fn upstream(self) -> Option<HttpUpstream> {
        // SAFETY: null, or a structure in the pool of the live request.
        NonNull::new(get_field!(self.upstream)).map(HttpUpstream)
    }

    /// The context that a module has attached to it. Mirrors `ngx_http_get_module_ctx()`.
    pub(crate) fn context_of(self, module: &ngx_module_t) -> Option<NonNull<c_void>> {
        // SAFETY: an element of `r->ctx`; only this thread writes it.
        NonNull::new(unsafe { *self.context_place(module) })
    }

    /// Attaches the context of a module. Mirrors `ngx_http_set_ctx()`.
    pub(crate) fn set_context_of(self, module: &ngx_module_t, context: *mut c_void) {
        // SAFETY: an element of `r->ctx`; no reference to it exists.
        unsafe { *self.context_place(module) = context };
    }

    /// The element of `r->ctx` for a module.
    fn context_place(self, module: &ngx_module_t) -> *mut *mut c_void {
        let contexts = get_field!(self.ctx);
        // SAFETY: `ngx_http_alloc_request()` makes an element for each HTTP module, and `ctx_index` belongs to one.
        unsafe { contexts.add(module.ctx_index) }
    }

    /// Whether the client uses HTTP/1, where a connection carries one request after another.
    pub(crate) fn is_http1(self) -> bool {
        get_field!(self.http_version) < NGX_HTTP_VERSION_20 as ngx_uint_t
    }

    /// The value of the header `Authorization`.
    #[inline]
    pub(crate) fn authorization<'a>(self) -> Option<&'a [u8]> {
        let header: *mut ngx_table_elt_t = get_field!(self.headers_in.authorization);
        // SAFETY: null, or a header in the pool of the main request, which lives as long as its subrequests.
        unsafe { Header::from_ptr(header) }.map(|header| bytes(header.value()))
    }

    /// The connection to the client.
    pub(crate) fn client(self) -> Conn {
        let client = get_field!(self.connection);
        // SAFETY: a live request has its connection to the client, which is closed only after the request.
        unsafe { Conn::from_open(client) }
    }

    pub(crate) fn log(self) -> *mut ngx_log_t {
        let client = self.client();
        get_field!(client.log)
    }

    /// Makes lines of the error log name this request: the client may have several requests on its connection. Mirrors
    /// `ngx_http_set_log_request()`.
    pub(crate) fn set_logged(self) {
        // SAFETY: an open connection has its log.
        let context = unsafe { (*self.log()).data }.cast::<ngx_http_log_ctx_t>();
        // SAFETY: while an HTTP connection has requests, its log has the context that `ngx_http_init_connection()` has made.
        unsafe { (*context).current_request = self.as_ptr() };
    }

    /// Writes a line to the error log, at `error`.
    pub(crate) fn log_error(self, line: &'static CStr) {
        self.log_at(NGX_LOG_ERR, line);
    }

    /// Writes a line to the error log, at `crit`.
    pub(crate) fn log_crit(self, line: &'static CStr) {
        self.log_at(NGX_LOG_CRIT, line);
    }

    /// Writes a line to the error log, at `info`.
    pub(crate) fn log_info(self, line: &'static CStr) {
        self.log_at(NGX_LOG_INFO, line);
    }

    fn log_at(self, level: u32, line: &'static CStr) {
        if takes(self.log(), level) {
            write_line(self.log(), level, 0, line);
        }
    }

    /// Ends the upstream part of the request, and then the request with `status`. Both may be freed when this returns.
    pub(crate) fn finalize(self, u: HttpUpstream, status: ngx_int_t) {
        u.set_status(status);
        // nginx then finalizes the request twice: once as the end of the upstream part, and once with the status.
        self.retain();
        let client = self.client();
        u.clean_up(self);
        // SAFETY: `retain` keeps the request alive after `clean_up`.
        unsafe { ngx_http_finalize_request(self.as_ptr(), status) };
        // SAFETY: nginx's own handlers end with this call, also if the request is gone: it looks at the connection first.
        unsafe { ngx_http_run_posted_requests(client.as_ptr()) };
    }
}

handle!(HttpUpstream, ngx_http_upstream_t);

impl HttpUpstream {
    /// # Safety
    /// `ptr` is the `r->upstream` of a request that has one, and is alive as long as the handle is used.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_http_upstream_t) -> Self {
        // SAFETY: the caller says that the pointer is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// The peer part of the request.
    pub(crate) fn peer(self) -> Peer {
        let peer = field_ptr!(self.peer);
        // SAFETY: `&u->peer` of a live request.
        unsafe { Peer::from_ptr(peer) }
    }

    /// Whether the protocol module allows another request on the connection.
    pub(crate) fn keepalive(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::keepalive_raw)
    }

    pub(crate) fn request_body_sent(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::request_body_sent_raw)
    }

    /// Identifies the protocol: the address of `create_request`. Each protocol module has one of its own, and the proxy
    /// module has another one for HTTP/2.
    pub(crate) fn protocol(self) -> usize {
        get_field!(self.create_request).map_or(0, |function| function as usize)
    }

    /// The address of the protocol module's static, by which the module marks its buffers.
    pub(crate) fn module_address(self) -> usize {
        get_field!(self.output.tag).addr()
    }

    pub(crate) fn uses_tls(self) -> bool {
        #[cfg(ngx_feature = "http_ssl")]
        return get_bit!(self: ngx_http_upstream_t::ssl_raw);
        #[cfg(not(ngx_feature = "http_ssl"))]
        false
    }

    /// The function by which the core sends, and its data.
    pub(crate) fn output(self) -> Output {
        Output { filter: get_field!(self.output.output_filter), data: get_field!(self.output.filter_ctx) }
    }

    /// Replaces the function by which the core sends.
    pub(crate) fn set_output(self, output: Output) {
        set_field!(self.output.output_filter = output.filter);
        set_field!(self.output.filter_ctx = output.data);
    }

    /// Calls `evaluate` while `$upstream_addr` shows the peer that the balancer has just chosen, as it will once the core
    /// has noted it: nginx may evaluate variables that are derived from it only once.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn with_peer_shown<T>(self, evaluate: impl FnOnce() -> T) -> T {
        let Some(state) = self.state() else { return evaluate() };
        let before = get_field!(state.peer);
        set_field!(state.peer = get_field!(self.peer.name));
        let result = evaluate();
        // A name in a zone can be freed, so it is not left there.
        set_field!(state.peer = before);
        result
    }

    /// The present record of `r->upstream_states`.
    #[inline]
    pub(crate) fn state(self) -> Option<Live<ngx_http_upstream_state_t>> {
        let state = get_field!(self.state);
        // SAFETY: null, or the present record of a live request, in its pool.
        unsafe { Live::from_ptr(state) }
    }

    /// The configuration of the location.
    #[inline]
    pub(crate) fn location_conf(self) -> Live<ngx_http_upstream_conf_t> {
        let conf = get_field!(self.conf);
        // SAFETY: the protocol module sets it before it starts the upstream request; it lives as long as the request.
        unsafe { Live::new_unchecked(conf) }
    }

    /// The address of the configuration of the location.
    pub(crate) fn conf(self) -> NonNull<ngx_http_upstream_conf_t> {
        let conf = get_field!(self.conf);
        // SAFETY: not null: the protocol module sets it before it starts the upstream request.
        unsafe { NonNull::new_unchecked(conf) }
    }

    /// # Safety
    /// `conf` lives as long as the request, and equals the present one in all that matters to the request.
    #[inline]
    pub(crate) unsafe fn set_conf(self, conf: NonNull<ngx_http_upstream_conf_t>) {
        set_field!(self.conf = conf.as_ptr());
    }

    /// Whether `proxy_next_upstream` allows another try after failures of all these kinds (`NGX_HTTP_UPSTREAM_FT_*`).
    #[inline]
    pub(crate) fn repeats(self, failure: ngx_uint_t) -> bool {
        let conf = self.location_conf();
        get_field!(conf.next_upstream) & failure == failure
    }

    /// The TLS name: the name of the upstream, and after a handshake the name that was used.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn ssl_name(self) -> nginx_sys::ngx_str_t {
        get_field!(self.ssl_name)
    }
}
