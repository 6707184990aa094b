//! The peer part of an upstream request: a copyable handle that reads and writes one field at a time, as
//! those of [`crate::ffi::nginx::conn`].

use std::ffi::CStr;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_addr_t, ngx_connection_t, ngx_event_free_peer_pt, ngx_event_get_peer_pt, ngx_event_notify_peer_pt,
    ngx_log_t, ngx_peer_connection_t, ngx_str_t, ngx_uint_t, sockaddr, socklen_t,
};
#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::{ngx_event_save_peer_session_pt, ngx_event_set_peer_session_pt};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::handle::{get_bit, get_field, handle, set_bit, set_field, Handle};

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

/// A peer as it was, with all fields that this nginx has.
#[derive(Clone, Copy)]
pub(crate) struct SavedPeer(ngx_peer_connection_t);

handle!(Peer, ngx_peer_connection_t);

impl Peer {
    /// # Safety
    /// `ptr` is what the core passes to a peer hook: `&u->peer` of a live request.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_peer_connection_t) -> Self {
        // SAFETY: the address of a field, hence not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    pub(crate) fn log(self) -> *mut ngx_log_t {
        get_field!(self.log)
    }

    pub(crate) fn connection(self) -> Option<Conn> {
        let conn = get_field!(self.connection);
        // SAFETY: the core sets `connection` to null when it closes the connection.
        unsafe { Conn::from_ptr(conn) }
    }

    /// What the core passes to the hooks.
    #[inline]
    pub(crate) fn data(self) -> *mut libc::c_void {
        get_field!(self.data)
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
        set_field!(self.connection = conn.as_ptr());
        set_bit!(self: ngx_peer_connection_t::set_cached_raw, 1);
    }

    /// Lets the core have a connection, or what stands in for one.
    pub(crate) fn set_connection(self, conn: *mut ngx_connection_t) {
        set_field!(self.connection = conn);
        set_bit!(self: ngx_peer_connection_t::set_cached_raw, 0);
    }

    /// Lets the core have something in place of a server; null for nothing at all.
    pub(crate) fn set_no_server(self, address: *mut sockaddr, name: *mut ngx_str_t) {
        set_field!(self.sockaddr = address);
        set_field!(self.socklen = 0);
        set_field!(self.name = name);
    }

    /// The server that the balancer has given: its address, the length of that, and its name.
    pub(crate) fn server(self) -> (*mut sockaddr, socklen_t, *mut ngx_str_t) {
        // SAFETY: live by the type invariant; the reference ends before nginx is called.
        let pc = unsafe { self.0.as_ref() };
        (pc.sockaddr, pc.socklen, pc.name)
    }

    pub(crate) fn set_server(self, address: *mut sockaddr, length: socklen_t, name: *mut ngx_str_t) {
        set_field!(self.sockaddr = address);
        set_field!(self.socklen = length);
        set_field!(self.name = name);
    }

    /// All that is known of the server that the balancer has given, to be given to the core again.
    pub(crate) fn save(self) -> SavedPeer {
        // SAFETY: live by the type invariant; a structure of numbers and pointers, with no reference to it.
        SavedPeer(unsafe { self.0.read() })
    }

    /// Has the server again that was saved, and no connection. What the core has cleared since, because it means to ask for
    /// another server, is as it was, whichever fields these are in this nginx. But all that is about the attempts, and
    /// not about the server, stays as it is now: how many are left, since when they go on, whom the core calls.
    pub(crate) fn restore(self, saved: &SavedPeer) {
        let (hooks, tries) = (self.hooks(), self.tries());
        let start_time = get_field!(self.start_time);
        let log = self.log();
        // SAFETY: live by the type invariant, and nobody holds a reference to it; what is written was read from there.
        unsafe { self.0.write(saved.0) };
        self.set_hooks(hooks);
        self.set_tries(tries);
        set_field!(self.start_time = start_time);
        set_field!(self.log = log);
        self.set_connection(std::ptr::null_mut());
    }

    /// The balancer has given a server, and has not got it back.
    pub(crate) fn has_server(self) -> bool {
        !get_field!(self.sockaddr).is_null()
    }

    /// How many servers the core may still try.
    pub(crate) fn tries(self) -> ngx_uint_t {
        get_field!(self.tries)
    }

    pub(crate) fn set_tries(self, tries: ngx_uint_t) {
        set_field!(self.tries = tries);
    }

    /// One try is over of which the balancer has not heard.
    pub(crate) fn count_try(self) {
        self.set_tries(self.tries().saturating_sub(1));
    }

    pub(crate) fn set_data(self, data: *mut libc::c_void) {
        set_field!(self.data = data);
    }

    /// What the request is doing, for the error log.
    pub(crate) fn set_log_action(self, action: &'static CStr) {
        // SAFETY: a live request has a log; nginx only reads the text.
        unsafe { (*self.log()).action = action.as_ptr().cast_mut() };
    }

    /// Takes the connection from the request, so that the core does not close it.
    pub(crate) fn release_connection(self) {
        set_field!(self.connection = std::ptr::null_mut());
    }

    /// The local address to bind to (`proxy_bind`).
    #[inline]
    pub(crate) fn local(self) -> Option<NonNull<ngx_addr_t>> {
        NonNull::new(get_field!(self.local))
    }

    pub(crate) fn transparent(self) -> bool {
        get_bit!(self: ngx_peer_connection_t::transparent_raw)
    }

    /// The bytes of the socket address that the balancer chose. Not to be kept past the hook: with
    /// a `zone` the memory belongs to the balancer.
    pub(crate) fn address(&self) -> &[u8] {
        let this = *self;
        let address: *const u8 = get_field!(this.sockaddr).cast();
        let length = get_field!(this.socklen) as usize;
        if address.is_null() {
            return &[];
        }
        // SAFETY: balancers set `socklen` with `sockaddr`, and keep the address until `free`.
        unsafe { std::slice::from_raw_parts(address, length) }
    }
}
