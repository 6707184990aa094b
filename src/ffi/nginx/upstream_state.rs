//! What the core notes about an attempt: its times, its server, how far it is.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_upstream_state_t, ngx_http_upstream_t, ngx_int_t, ngx_msec_t, ngx_pool_t, ngx_str_t, ngx_uint_t,
    off_t,
};

use crate::base::clock::Msec;
use crate::ffi::nginx::handle::{field_ptr, get_bit, get_field, set_bit, set_field, Handle};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::request::{HttpUpstream, Request};

impl HttpUpstream {
    /// The present one of `r->upstream_states`.
    fn state(self) -> Option<NonNull<ngx_http_upstream_state_t>> {
        NonNull::new(get_field!(self.state))
    }

    /// The request has waited; what is measured from now on is not the queue's.
    pub(crate) fn end_of_wait(self, waited: Msec) {
        if let Some(state) = self.state() {
            // SAFETY: the present state of a live request, in its pool.
            unsafe { (*state.as_ptr()).queue_time = waited };
        }
        set_field!(self.start_time = now());
        let start = get_field!(self.peer.start_time);
        // From here `proxy_next_upstream_timeout` counts.
        set_field!(self.peer.start_time = start.wrapping_add(waited));
    }

    /// If the core has measured the time of an attempt that was nothing but waiting, it is none.
    pub(crate) fn no_response_time(self) {
        const NOT_MEASURED: ngx_msec_t = ngx_msec_t::MAX;
        let Some(state) = self.state() else { return };
        // SAFETY: the present state of a live request, in its pool.
        if unsafe { (*state.as_ptr()).response_time } != NOT_MEASURED {
            // SAFETY: as above.
            unsafe { (*state.as_ptr()).response_time = 0 };
        }
    }

    /// Notes the status of the attempt.
    pub(crate) fn set_status(self, status: ngx_int_t) {
        if let Some(state) = self.state() {
            // SAFETY: the present state of a live request, in its pool.
            unsafe { (*state.as_ptr()).status = status as ngx_uint_t };
        }
    }

    /// Notes the name of the server. In a zone the name can be freed, so that it is copied, as the
    /// core does. `None` if there is no memory.
    pub(crate) fn show_peer(self, pool: *mut ngx_pool_t) -> Option<()> {
        let state = self.state()?;
        let name = NonNull::new(get_field!(self.peer.name))?;
        // SAFETY: until the server is given back the name stays.
        let name: ngx_str_t = unsafe { name.read() };
        // SAFETY: the pool of the live request.
        let text = unsafe { allocate::<u8>(pool, name.len.max(1)) }?.cast::<u8>();
        if name.len > 0 {
            // SAFETY: as long as the memory, which is new.
            unsafe { text.as_ptr().copy_from_nonoverlapping(name.data, name.len) };
        }
        // SAFETY: the pool of the live request.
        let copy = unsafe { allocate::<ngx_str_t>(pool, 1) }?.cast::<ngx_str_t>();
        // SAFETY: new memory for it.
        unsafe { copy.write(ngx_str_t { len: name.len, data: text.as_ptr() }) };
        // SAFETY: the present state of a live request, in its pool.
        unsafe { (*state.as_ptr()).peer = copy.as_ptr() };
        set_field!(self.peer.name = copy.as_ptr());
        Some(())
    }

    /// `proxy_connect_timeout`, or what the protocol module calls it.
    pub(crate) fn connect_timeout(self) -> ngx_msec_t {
        let conf = get_field!(self.conf);
        // SAFETY: the protocol module sets it before it starts the upstream request.
        unsafe { (*conf).connect_timeout }
    }

    /// The module passes on what comes from the server without looking at it.
    pub(crate) fn is_tunnel(self) -> bool {
        self.module() == b"tunnel"
    }

    /// Whether the connection was established, as `ngx_http_upstream_send_request()` finds out.
    pub(crate) fn is_connected(self) -> bool {
        const NOT_MEASURED: ngx_msec_t = ngx_msec_t::MAX;
        // SAFETY: the present state of a live request, in its pool.
        self.state().is_some_and(|state| unsafe { (*state.as_ptr()).connect_time } != NOT_MEASURED)
    }

    /// The protocol module.
    pub(crate) fn module<'a>(self) -> &'a [u8] {
        let conf = get_field!(self.conf);
        // SAFETY: the protocol module sets it before it starts the upstream request, to a constant.
        let module = unsafe { (*conf).module };
        bytes(module)
    }

    /// Whether a byte of the response has come.
    pub(crate) fn has_response(self) -> bool {
        self.bytes_received() > 0
    }

    /// How many bytes have come in the present attempt.
    pub(crate) fn bytes_received(self) -> off_t {
        // SAFETY: the present state of a live request, in its pool.
        self.state().map_or(0, |state| unsafe { (*state.as_ptr()).bytes_received })
    }

    /// Whether `proxy_next_upstream_timeout` allows another try.
    pub(crate) fn has_time_left(self) -> bool {
        let conf = get_field!(self.conf);
        // SAFETY: the protocol module sets it before it starts the upstream request.
        let timeout = unsafe { (*conf).next_upstream_timeout };
        let start = get_field!(self.peer.start_time);
        timeout == 0 || now().wrapping_sub(start) < timeout
    }

    /// Whether the core has begun to send the request.
    pub(crate) fn request_sent(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::request_sent_raw)
    }

    /// Whether the core thinks that the server has got something.
    pub(crate) fn set_request_sent(self, sent: bool) {
        set_bit!(self: ngx_http_upstream_t::set_request_sent_raw, sent.into());
    }

    /// The request is written to this connection.
    pub(crate) fn write_to(self, conn: Conn) {
        let output = field_ptr!(self.output);
        // SAFETY: as above; writes one bit.
        unsafe { (*output).set_sendfile(conn.sendfile().into()) };
        let writer = field_ptr!(self.writer);
        // SAFETY: as above.
        unsafe { (*writer).out = std::ptr::null_mut() };
        // SAFETY: as above; makes no reference.
        let out = unsafe { &raw mut (*writer).out };
        // SAFETY: as above.
        unsafe { (*writer).last = out };
        // SAFETY: as above.
        unsafe { (*writer).connection = conn.as_ptr() };
    }

    /// Ends the upstream part of the request, as nginx does when a request is freed.
    pub(crate) fn clean_up(self, r: Request) {
        let Some(cleanup) = NonNull::new(get_field!(self.cleanup)) else { return };
        // SAFETY: a field of a cleanup record in the request's pool.
        if let Some(cleanup) = unsafe { cleanup.read() } {
            // SAFETY: what nginx would call it with.
            unsafe { cleanup(r.as_ptr().cast()) };
        }
    }
}
