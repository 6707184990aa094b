//! The upstream part of a request: copyable handles that read and write one field at a time, as those
//! of [`super::conn`].

use std::ptr::NonNull;

use nginx_sys::{
    ngx_addr_t, ngx_event_free_peer_pt, ngx_event_get_peer_pt, ngx_event_notify_peer_pt, ngx_http_upstream_t,
    ngx_log_t, ngx_peer_connection_t,
};
#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::{ngx_event_save_peer_session_pt, ngx_event_set_peer_session_pt};

use super::conn::Conn;

/// The peer part of an upstream request, `u->peer`.
///
/// # Invariants
/// Points at the `ngx_peer_connection_t` that nginx's core lends to a peer hook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(NonNull<ngx_peer_connection_t>);

/// The hooks of a peer and their `data`: how the core asks for a peer and tells of its use.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    pub(crate) data: *mut libc::c_void,
    pub(crate) get: ngx_event_get_peer_pt,
    pub(crate) free: ngx_event_free_peer_pt,
    pub(crate) notify: ngx_event_notify_peer_pt,
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) set_session: ngx_event_set_peer_session_pt,
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) save_session: ngx_event_save_peer_session_pt,
}

/// An upstream request, `r->upstream`.
///
/// # Invariants
/// Points at an `ngx_http_upstream_t` whose request is alive; it lies in the request's pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpUpstream(NonNull<ngx_http_upstream_t>);

impl Peer {
    /// # Safety
    /// `ptr` is what the core passes to a peer hook: `&u->peer` of a live request.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_peer_connection_t) -> Self {
        // SAFETY: the address of a field, hence not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    pub(crate) fn as_ptr(self) -> *mut ngx_peer_connection_t {
        self.0.as_ptr()
    }

    pub(crate) fn log(self) -> *mut ngx_log_t {
        // SAFETY: live by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).log }
    }

    pub(crate) fn connection(self) -> Option<Conn> {
        // SAFETY: live by the type invariant; reads one field.
        let conn = unsafe { (*self.as_ptr()).connection };
        // SAFETY: the core sets `connection` to null when it closes the connection.
        unsafe { Conn::from_ptr(conn) }
    }

    pub(crate) fn hooks(self) -> Hooks {
        // SAFETY: live by the type invariant; the reference ends before nginx is called.
        let pc = unsafe { self.0.as_ref() };
        Hooks {
            data: pc.data,
            get: pc.get,
            free: pc.free,
            notify: pc.notify,
            #[cfg(ngx_feature = "http_ssl")]
            set_session: pc.set_session,
            #[cfg(ngx_feature = "http_ssl")]
            save_session: pc.save_session,
        }
    }

    pub(crate) fn set_hooks(mut self, hooks: Hooks) {
        // SAFETY: live by the type invariant; the reference ends before nginx is called, and no
        // other part of this module holds one.
        let pc = unsafe { self.0.as_mut() };
        pc.data = hooks.data;
        pc.get = hooks.get;
        pc.free = hooks.free;
        pc.notify = hooks.notify;
        #[cfg(ngx_feature = "http_ssl")]
        {
            pc.set_session = hooks.set_session;
            pc.save_session = hooks.save_session;
        }
    }

    /// Gives the request a connection from the pool.
    pub(crate) fn use_cached(self, conn: Conn) {
        // SAFETY: live by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).connection = conn.as_ptr() };
        // SAFETY: live by the type invariant; writes one bit.
        unsafe { ngx_peer_connection_t::set_cached_raw(self.as_ptr(), 1) };
    }

    /// Takes the connection from the request, so that the core does not close it.
    pub(crate) fn release_connection(self) {
        // SAFETY: live by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).connection = std::ptr::null_mut() };
    }

    /// The local address to bind to (`proxy_bind`).
    #[inline]
    pub(crate) fn local(self) -> Option<NonNull<ngx_addr_t>> {
        // SAFETY: live by the type invariant; reads one field.
        NonNull::new(unsafe { (*self.as_ptr()).local })
    }

    pub(crate) fn transparent(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { ngx_peer_connection_t::transparent_raw(self.as_ptr()) != 0 }
    }

    /// The bytes of the socket address that the balancer chose. Not to be kept past the hook: with
    /// a `zone` the memory belongs to the balancer.
    pub(crate) fn address(&self) -> &[u8] {
        // SAFETY: live by the type invariant; reads one field.
        let address: *const u8 = unsafe { (*self.as_ptr()).sockaddr }.cast();
        // SAFETY: live by the type invariant; reads one field.
        let length = unsafe { (*self.as_ptr()).socklen } as usize;
        if address.is_null() {
            return &[];
        }
        // SAFETY: balancers set `socklen` with `sockaddr`, and keep the address until `free`.
        unsafe { std::slice::from_raw_parts(address, length) }
    }
}

impl HttpUpstream {
    /// # Safety
    /// `ptr` is the `r->upstream` of a live request that has one, and the handle is not used after it.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_http_upstream_t) -> Self {
        // SAFETY: not null, says the caller.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    fn as_ptr(self) -> *mut ngx_http_upstream_t {
        self.0.as_ptr()
    }

    /// The peer part of the request.
    pub(crate) fn peer(self) -> Peer {
        // SAFETY: live by the type invariant; makes no reference.
        let peer = unsafe { &raw mut (*self.as_ptr()).peer };
        // SAFETY: the `&u->peer` of a live request.
        unsafe { Peer::from_ptr(peer) }
    }

    /// The protocol module allows another request on the connection.
    pub(crate) fn keepalive(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { ngx_http_upstream_t::keepalive_raw(self.as_ptr()) != 0 }
    }

    pub(crate) fn request_body_sent(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { ngx_http_upstream_t::request_body_sent_raw(self.as_ptr()) != 0 }
    }

    /// A number that is the same for all requests of one location.
    pub(crate) fn location(self) -> usize {
        // SAFETY: live by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).conf as usize }
    }

    /// A number for the protocol module and its version: each has a function of its own that writes
    /// requests, and so has HTTP/2 in the proxy module.
    pub(crate) fn protocol(self) -> usize {
        // SAFETY: live by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).create_request }.map_or(0, |function| function as usize)
    }

    pub(crate) fn uses_tls(self) -> bool {
        #[cfg(ngx_feature = "http_ssl")]
        // SAFETY: live by the type invariant; reads one bit.
        return unsafe { ngx_http_upstream_t::ssl_raw(self.as_ptr()) != 0 };
        #[cfg(not(ngx_feature = "http_ssl"))]
        false
    }

    /// Lets `evaluate` see the peer that the balancer has just chosen, as the core will show it: for
    /// variables that come from `$upstream_addr`, which nginx may evaluate only once.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn with_peer_shown<T>(self, evaluate: impl FnOnce() -> T) -> T {
        // SAFETY: live by the type invariant; reads one field.
        let Some(state) = NonNull::new(unsafe { (*self.as_ptr()).state }) else { return evaluate() };
        // SAFETY: the present state of a live request, in its pool.
        let before = unsafe { (*state.as_ptr()).peer };
        // SAFETY: live by the type invariant; the balancer has set the name, with the address.
        let name = unsafe { (*self.as_ptr()).peer.name };
        // SAFETY: as above. A name in a zone can be freed, so it is not left there.
        unsafe { (*state.as_ptr()).peer = name };
        let result = evaluate();
        // SAFETY: as above.
        unsafe { (*state.as_ptr()).peer = before };
        result
    }

    /// The configuration of the location.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn conf(self) -> NonNull<nginx_sys::ngx_http_upstream_conf_t> {
        // SAFETY: live by the type invariant; reads one field.
        let conf = unsafe { (*self.as_ptr()).conf };
        // SAFETY: the protocol module sets it before it starts the upstream request.
        unsafe { NonNull::new_unchecked(conf) }
    }

    /// # Safety
    /// `conf` is equal to the present one in all that matters to the request, and lives as long.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) unsafe fn set_conf(self, conf: *mut nginx_sys::ngx_http_upstream_conf_t) {
        // SAFETY: live by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).conf = conf };
    }

    /// The TLS name: that of the upstream, and after a handshake the one that was used.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn ssl_name(self) -> nginx_sys::ngx_str_t {
        // SAFETY: live by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).ssl_name }
    }
}
