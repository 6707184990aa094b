//! Pointers with a type: copyable handles that read and write one field at a time.
//!
//! No reference to an nginx structure outlives the line that needs it: nginx reaches the same memory
//! from elsewhere, also while one of our hooks calls it.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_add_timer, ngx_addr_t, ngx_connection_t, ngx_del_timer, ngx_event_free_peer_pt,
    ngx_event_get_peer_pt, ngx_event_handler_pt, ngx_event_notify_peer_pt, ngx_event_t,
    ngx_handle_read_event, ngx_http_upstream_t, ngx_int_t, ngx_log_t, ngx_msec_t, ngx_peer_connection_t,
    NGX_OK,
};
#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::{ngx_event_save_peer_session_pt, ngx_event_set_peer_session_pt};

/// A connection.
///
/// # Invariants
/// Points at an `ngx_connection_t` that is open: the one of the callback that lent it, or one that
/// lies in a pool (whatever closes an idle connection takes it out of the pool first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conn(NonNull<ngx_connection_t>);

/// An event of an open connection.
///
/// # Invariants
/// Points at the read or write event of a [`Conn`]; nginx allots both with the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event(NonNull<ngx_event_t>);

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

impl Conn {
    /// # Safety
    /// `ptr` is null or points at an open connection.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_connection_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    pub(crate) fn as_ptr(self) -> *mut ngx_connection_t {
        self.0.as_ptr()
    }

    pub(crate) fn read(self) -> Event {
        // SAFETY: open by the type invariant; reads one field.
        let event = unsafe { (*self.as_ptr()).read };
        // SAFETY: `ngx_get_connection()` gives every connection both events.
        unsafe { Event::from_ptr(event) }
    }

    pub(crate) fn write(self) -> Event {
        // SAFETY: open by the type invariant; reads one field.
        let event = unsafe { (*self.as_ptr()).write };
        // SAFETY: `ngx_get_connection()` gives every connection both events.
        unsafe { Event::from_ptr(event) }
    }

    pub(crate) fn fd(self) -> libc::c_int {
        // SAFETY: open by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).fd }
    }

    pub(crate) fn data(self) -> *mut libc::c_void {
        // SAFETY: open by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).data }
    }

    pub(crate) fn set_data(self, data: *mut libc::c_void) {
        // SAFETY: open by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).data = data };
    }

    pub(crate) fn requests(self) -> usize {
        // SAFETY: open by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).requests }
    }

    pub(crate) fn start_time(self) -> ngx_msec_t {
        // SAFETY: open by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).start_time }
    }

    pub(crate) fn reset_sent(self) {
        // SAFETY: open by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).sent = 0 };
    }

    pub(crate) fn set_idle(self, idle: bool) {
        // SAFETY: open by the type invariant; writes one bit.
        unsafe { ngx_connection_t::set_idle_raw(self.as_ptr(), idle.into()) };
    }

    /// nginx wants the connection to be closed (`ngx_close_idle_connections()`).
    pub(crate) fn close_requested(self) -> bool {
        // SAFETY: open by the type invariant; reads one bit.
        unsafe { ngx_connection_t::close_raw(self.as_ptr()) != 0 }
    }

    pub(crate) fn pool(self) -> *mut nginx_sys::ngx_pool_t {
        // SAFETY: open by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).pool }
    }

    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn ssl(self) -> *mut nginx_sys::ngx_ssl_connection_t {
        // SAFETY: open by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).ssl }
    }

    /// Makes everything that writes about this connection write to `log`. A log left behind would
    /// dangle: a request's log goes with the client's connection.
    pub(crate) fn set_logs(self, log: *mut ngx_log_t) {
        // SAFETY: open by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).log = log };
        self.read().set_log(log);
        self.write().set_log(log);
        if let Some(pool) = NonNull::new(self.pool()) {
            // SAFETY: the connection's pool lives until the connection is closed.
            unsafe { (*pool.as_ptr()).log = log };
        }
    }
}

impl Event {
    /// # Safety
    /// `ptr` points at an event of an open connection.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_event_t) -> Self {
        // SAFETY: not null, says the caller.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    pub(crate) fn as_ptr(self) -> *mut ngx_event_t {
        self.0.as_ptr()
    }

    /// The connection of the event.
    pub(crate) fn conn(self) -> Conn {
        // SAFETY: live by the type invariant; reads one field.
        let conn = unsafe { (*self.as_ptr()).data }.cast();
        // SAFETY: `ngx_get_connection()` makes each event point back at its connection.
        Conn(unsafe { NonNull::new_unchecked(conn) })
    }

    pub(crate) fn log(self) -> *mut ngx_log_t {
        // SAFETY: live by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).log }
    }

    fn set_log(self, log: *mut ngx_log_t) {
        // SAFETY: live by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).log = log };
    }

    pub(crate) fn eof(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { ngx_event_t::eof_raw(self.as_ptr()) != 0 }
    }

    pub(crate) fn error(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { ngx_event_t::error_raw(self.as_ptr()) != 0 }
    }

    pub(crate) fn timed_out(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { ngx_event_t::timedout_raw(self.as_ptr()) != 0 }
    }

    pub(crate) fn ready(self) -> bool {
        // SAFETY: live by the type invariant; reads one bit.
        unsafe { ngx_event_t::ready_raw(self.as_ptr()) != 0 }
    }

    pub(crate) fn clear_ready(self) {
        // SAFETY: live by the type invariant; writes one bit.
        unsafe { ngx_event_t::set_ready_raw(self.as_ptr(), 0) };
    }

    /// Forgets a delay by `proxy_limit_rate`: a delayed event ignores its socket.
    pub(crate) fn clear_delayed(self) {
        // SAFETY: live by the type invariant; writes one bit.
        unsafe { ngx_event_t::set_delayed_raw(self.as_ptr(), 0) };
    }

    pub(crate) fn set_handler(self, handler: ngx_event_handler_pt) {
        // SAFETY: live by the type invariant; writes one field.
        unsafe { (*self.as_ptr()).handler = handler };
    }

    /// Asks to be told when there is something to read; false if nginx cannot.
    pub(crate) fn wait_readable(self) -> bool {
        // SAFETY: a read event of an open connection, by the type invariant.
        unsafe { ngx_handle_read_event(self.as_ptr(), 0) == NGX_OK as ngx_int_t }
    }

    pub(crate) fn set_timer(self, after: ngx_msec_t) {
        // SAFETY: live by the type invariant, and taken out of the timer tree before it is freed:
        // `ngx_close_connection()` deletes the timers of both events.
        unsafe { ngx_add_timer(self.as_ptr(), after) };
    }

    pub(crate) fn clear_timer(self) {
        // SAFETY: live by the type invariant; reads one bit.
        if unsafe { ngx_event_t::timer_set_raw(self.as_ptr()) } != 0 {
            // SAFETY: `timer_set` says that the event is in the timer tree.
            unsafe { ngx_del_timer(self.as_ptr()) };
        }
    }
}

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

    /// The TLS name: that of the upstream, and after a handshake the one that was used.
    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn ssl_name(self) -> nginx_sys::ngx_str_t {
        // SAFETY: live by the type invariant; reads one field.
        unsafe { (*self.as_ptr()).ssl_name }
    }
}
