//! The peer part of an upstream request.

use std::ffi::CStr;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_addr_t, ngx_connection_t, ngx_event_free_peer_pt, ngx_event_get_peer_pt, ngx_event_notify_peer_pt,
    ngx_log_t, ngx_peer_connection_t, ngx_str_t, ngx_uint_t, sockaddr, socklen_t,
};
#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::{ngx_event_save_peer_session_pt, ngx_event_set_peer_session_pt};

use super::conn::Conn;
use super::handle::{get_bit, get_field, handle, set_bit, set_field, Handle, Live};

/// The peer part of an upstream request, `u->peer`.
///
/// # Invariants
/// Points at the `ngx_peer_connection_t` of a request that is alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(NonNull<ngx_peer_connection_t>);

/// The hooks of a peer and their `data`: the core calls them to get a server, and to report how its use went.
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

/// A copy of a peer, with all fields that this nginx has.
#[derive(Clone, Copy)]
pub(crate) struct SavedPeer(ngx_peer_connection_t);

handle!(Peer, ngx_peer_connection_t);

impl Peer {
    /// # Safety
    /// `ptr` is what the core passes to a peer hook: `&u->peer` of a live request.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_peer_connection_t) -> Self {
        // SAFETY: the address of a field of the upstream request, so it is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    pub(crate) fn log(self) -> *mut ngx_log_t {
        get_field!(self.log)
    }

    pub(crate) fn connection(self) -> Option<Conn> {
        let conn = get_field!(self.connection);
        // SAFETY: null, open, or the placeholder of a request that waits. The core sets it to null when it closes the
        // connection.
        unsafe { Conn::from_ptr(conn) }
    }

    /// The `data` that the core passes to the hooks.
    #[inline]
    pub(crate) fn data(self) -> *mut libc::c_void {
        get_field!(self.data)
    }

    pub(crate) fn hooks(self) -> Hooks {
        Hooks {
            data: get_field!(self.data),
            get: get_field!(self.get),
            free: get_field!(self.free),
            notify: get_field!(self.notify),
            #[cfg(ngx_feature = "http_ssl")]
            set_session: get_field!(self.set_session),
            #[cfg(ngx_feature = "http_ssl")]
            save_session: get_field!(self.save_session),
        }
    }

    pub(crate) fn set_hooks(self, hooks: Hooks) {
        set_field!(self.data = hooks.data);
        set_field!(self.get = hooks.get);
        set_field!(self.free = hooks.free);
        set_field!(self.notify = hooks.notify);
        #[cfg(ngx_feature = "http_ssl")]
        {
            set_field!(self.set_session = hooks.set_session);
            set_field!(self.save_session = hooks.save_session);
        }
    }

    /// Gives the request a connection from the pool.
    pub(crate) fn use_cached(self, conn: Conn) {
        set_field!(self.connection = conn.as_ptr());
        set_bit!(self: ngx_peer_connection_t::set_cached_raw, 1);
    }

    /// Gives the core a new connection, a placeholder, or none.
    pub(crate) fn set_connection(self, conn: *mut ngx_connection_t) {
        set_field!(self.connection = conn);
        set_bit!(self: ngx_peer_connection_t::set_cached_raw, 0);
    }

    /// Gives the core a placeholder for a server; null for none.
    pub(crate) fn set_no_server(self, address: *mut sockaddr, name: *mut ngx_str_t) {
        set_field!(self.sockaddr = address);
        set_field!(self.socklen = 0);
        set_field!(self.name = name);
    }

    /// The server that the balancer has chosen: its address, the length of the address, and its name.
    pub(crate) fn server(self) -> (*mut sockaddr, socklen_t, *mut ngx_str_t) {
        (get_field!(self.sockaddr), get_field!(self.socklen), get_field!(self.name))
    }

    pub(crate) fn set_server(self, address: *mut sockaddr, length: socklen_t, name: *mut ngx_str_t) {
        set_field!(self.sockaddr = address);
        set_field!(self.socklen = length);
        set_field!(self.name = name);
    }

    /// Copies all that is known of the server that the balancer has chosen, for `restore`.
    pub(crate) fn save(self) -> SavedPeer {
        // SAFETY: live by the type invariant; copies numbers and pointers, and makes no reference.
        SavedPeer(unsafe { self.0.read() })
    }

    /// Restores the saved server, without a connection. The core has cleared fields because it means to ask for another
    /// server; they are restored, whichever these are in this nginx. What is about the attempts, and not about the
    /// server, stays as it is now: the number of tries left, the time of the first one, the hooks.
    pub(crate) fn restore(self, saved: &SavedPeer) {
        let (hooks, tries) = (self.hooks(), self.tries());
        let start_time = get_field!(self.start_time);
        let log = self.log();
        // SAFETY: live by the type invariant, and no reference to it exists; `save` has read the value from there.
        unsafe { self.0.write(saved.0) };
        self.set_hooks(hooks);
        self.set_tries(tries);
        set_field!(self.start_time = start_time);
        set_field!(self.log = log);
        self.set_connection(std::ptr::null_mut());
    }

    /// Whether the request has a server that was not returned to the balancer.
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

    /// Counts a try that the balancer was not told of.
    pub(crate) fn count_try(self) {
        self.set_tries(self.tries().saturating_sub(1));
    }

    pub(crate) fn set_data(self, data: *mut libc::c_void) {
        set_field!(self.data = data);
    }

    /// Sets what the error log says that the request is doing.
    pub(crate) fn set_log_action(self, action: &'static CStr) {
        // SAFETY: a live request has its log.
        let log = unsafe { Live::new_unchecked(self.log()) };
        // nginx only reads the text.
        set_field!(log.action = action.as_ptr().cast_mut());
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

    /// The bytes of the socket address that the balancer chose. Not to be kept after the hook: with a `zone` the memory
    /// belongs to the balancer.
    pub(crate) fn address(&self) -> &[u8] {
        let this = *self;
        let address: *const u8 = get_field!(this.sockaddr).cast();
        let length = get_field!(this.socklen) as usize;
        if address.is_null() {
            return &[];
        }
        // SAFETY: balancers set `socklen` together with `sockaddr`, and keep the address until the server is returned.
        unsafe { std::slice::from_raw_parts(address, length) }
    }
}
