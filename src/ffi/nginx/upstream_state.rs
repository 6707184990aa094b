//! What the core notes about an attempt: its times, its server, and how far it has got.

use nginx_sys::{
    ngx_http_cleanup_pt, ngx_http_upstream_t, ngx_int_t, ngx_msec_t, ngx_output_chain_ctx_t, ngx_pool_t,
    ngx_str_t, ngx_uint_t, off_t,
};

use crate::base::clock::Msec;

use super::conn::Conn;
use super::handle::{field_ptr, get_bit, get_field, set_bit, set_field, Handle, Live};
use super::headers::bytes;
use super::memory::Pool;
use super::process::now;
use super::request::{HttpUpstream, Request};

/// The value of a time that the core has not measured yet.
pub(super) const NOT_MEASURED: ngx_msec_t = ngx_msec_t::MAX;

impl HttpUpstream {
    /// The request has waited for `waited` milliseconds. The times that are measured from now on exclude the wait.
    pub(crate) fn end_of_wait(self, waited: Msec) {
        if let Some(state) = self.state() {
            set_field!(state.queue_time = waited);
        }
        set_field!(self.start_time = now());
        let start = get_field!(self.peer.start_time);
        // `proxy_next_upstream_timeout` counts from here.
        set_field!(self.peer.start_time = start.wrapping_add(waited));
    }

    /// Sets the response time of an attempt that only waited to 0, if the core has measured one.
    pub(crate) fn no_response_time(self) {
        let Some(state) = self.state() else { return };
        if get_field!(state.response_time) != NOT_MEASURED {
            set_field!(state.response_time = 0);
        }
    }

    /// Notes the status of the attempt.
    pub(crate) fn set_status(self, status: ngx_int_t) {
        if let Some(state) = self.state() {
            set_field!(state.status = status as ngx_uint_t);
        }
    }

    /// Notes the name of the server, with memory of `pool`, the pool of the request. A name in a zone can be freed, so it is
    /// copied, as the core does. `None` if there is no memory.
    pub(crate) fn show_peer(self, pool: *mut ngx_pool_t) -> Option<()> {
        let state = self.state()?;
        let name = get_field!(self.peer.name);
        // SAFETY: null, or the name of a server that the balancer keeps until the server is returned.
        let name: ngx_str_t = unsafe { Live::from_ptr(name) }?.copy();
        // SAFETY: the pool of the live request.
        let pool = unsafe { Pool::from_ptr(pool) }?;
        let data = pool.put_bytes(bytes(name))?.as_ptr();
        let copy = pool.put(ngx_str_t { len: name.len, data })?.as_ptr();
        set_field!(state.peer = copy);
        set_field!(self.peer.name = copy);
        Some(())
    }

    /// `proxy_connect_timeout`, or the directive of another protocol module, in milliseconds.
    pub(crate) fn connect_timeout(self) -> ngx_msec_t {
        let conf = self.location_conf();
        get_field!(conf.connect_timeout)
    }

    /// Whether the protocol module passes on what comes from the server without parsing it.
    pub(crate) fn is_tunnel(self) -> bool {
        self.module() == b"tunnel"
    }

    /// Whether the connection was established: `ngx_http_upstream_send_request()` measures the time then.
    pub(crate) fn is_connected(self) -> bool {
        self.state().is_some_and(|state| get_field!(state.connect_time) != NOT_MEASURED)
    }

    /// The name of the protocol module.
    pub(crate) fn module<'a>(self) -> &'a [u8] {
        let conf = self.location_conf();
        bytes(get_field!(conf.module))
    }

    /// Whether any byte of the response was received.
    pub(crate) fn has_response(self) -> bool {
        self.bytes_received() > 0
    }

    /// The number of bytes received in the present attempt.
    pub(crate) fn bytes_received(self) -> off_t {
        self.state().map_or(0, |state| get_field!(state.bytes_received))
    }

    /// Whether `proxy_next_upstream_timeout` allows another try.
    pub(crate) fn has_time_left(self) -> bool {
        let conf = self.location_conf();
        let timeout = get_field!(conf.next_upstream_timeout);
        let start = get_field!(self.peer.start_time);
        timeout == 0 || now().wrapping_sub(start) < timeout
    }

    /// Whether the core has begun to send the request.
    pub(crate) fn request_sent(self) -> bool {
        get_bit!(self: ngx_http_upstream_t::request_sent_raw)
    }

    /// Sets whether the core believes that it has begun to send the request.
    pub(crate) fn set_request_sent(self, sent: bool) {
        set_bit!(self: ngx_http_upstream_t::set_request_sent_raw, sent.into());
    }

    /// Makes the core write the request to this connection.
    pub(crate) fn write_to(self, conn: Conn) {
        set_bit!(self.output: ngx_output_chain_ctx_t::set_sendfile_raw, conn.sendfile().into());
        set_field!(self.writer.out = std::ptr::null_mut());
        set_field!(self.writer.last = field_ptr!(self.writer.out));
        set_field!(self.writer.connection = conn.as_ptr());
    }

    /// Ends the upstream part of the request, as nginx does when it frees a request.
    pub(crate) fn clean_up(self, r: Request) {
        let cleanup = get_field!(self.cleanup);
        // SAFETY: null, or a field of a cleanup record in the request's pool.
        let cleanup: Option<Live<ngx_http_cleanup_pt>> = unsafe { Live::from_ptr(cleanup) };
        if let Some(cleanup) = cleanup.and_then(Live::copy) {
            // SAFETY: `ngx_http_upstream_init_request()` has set it, with the request as its data.
            unsafe { cleanup(r.as_ptr().cast()) };
        }
    }
}
