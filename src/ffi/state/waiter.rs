//! A request that waits. The core believes that it is connecting: it holds a placeholder, a connection without a socket.

use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_chain_t, ngx_connection_t, ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_DISABLED as NODELAY_DISABLED,
    ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED as NOPUSH_DISABLED, ngx_event_handler_pt,
    ngx_event_t, ngx_log_t, ngx_pool_t, off_t, sockaddr, u_char, NGX_ERROR, NGX_INVALID_INDEX,
};

use crate::base::clock::Msec;
use crate::http2::sharing::GroupId;

use crate::ffi::nginx::conn::Event;
use crate::ffi::nginx::handle::{get_field, set_field, Live};
use crate::ffi::nginx::memory::{Pool, Zeroed as _};
use crate::ffi::nginx::timer::{remove_posted, Alarm};
use crate::ffi::state::peer_data::PeerData;

/// A request that waits. Lies in the request's pool, and is reused when the request waits again.
pub(crate) struct Waiter {
    conn: UnsafeCell<ngx_connection_t>,
    read: UnsafeCell<ngx_event_t>,
    write: UnsafeCell<ngx_event_t>,
    address: UnsafeCell<sockaddr>,
    /// Calls back once the core has set up the placeholder.
    pub(crate) turn: Alarm,
    pub(crate) request: NonNull<PeerData>,
    /// When the wait began.
    pub(crate) since: Cell<Msec>,
    /// The question to another worker whose answer it waits for.
    pub(crate) question: Cell<u32>,
    /// The carriers for one of whose streams it waits.
    pub(crate) group: Cell<Option<GroupId>>,
}

impl Waiter {
    /// `None` if there is no memory.
    ///
    /// # Safety
    /// `pool` is the pool of the live request.
    pub(crate) unsafe fn new(pool: *mut ngx_pool_t, request: NonNull<PeerData>) -> Option<NonNull<Self>> {
        // SAFETY: the caller says that it is the pool of a live request.
        let pool = unsafe { Pool::from_ptr(pool) }?;
        // It is not dropped with the pool: `leave` has cancelled the alarm by then.
        let waiter = ManuallyDrop::new(Self {
            conn: UnsafeCell::new(ngx_connection_t::zeroed()),
            read: UnsafeCell::new(ngx_event_t::zeroed()),
            write: UnsafeCell::new(ngx_event_t::zeroed()),
            address: UnsafeCell::new(sockaddr::zeroed()),
            turn: Alarm::new(),
            request,
            since: Cell::new(0),
            question: Cell::new(0),
            group: Cell::new(None),
        });
        pool.put(waiter).map(NonNull::cast)
    }

    /// Makes the placeholder, a connection without a socket: nothing is sent or received, there are no events, and
    /// closing it by mistake touches no descriptor.
    pub(crate) fn stand_in(&self, log: *mut ngx_log_t) -> *mut ngx_connection_t {
        let conn = self.conn.get();
        for (event, write) in [(self.read.get(), 0), (self.write.get(), 1)] {
            let mut fresh = ngx_event_t::zeroed();
            fresh.data = conn.cast();
            fresh.log = log;
            fresh.index = NGX_INVALID_INDEX as _;
            fresh.set_write(write);
            fresh.set_active(1);
            // SAFETY: the waiter has the event; when a wait begins, nginx does not know it.
            unsafe { event.write(fresh) };
        }
        let mut fresh = ngx_connection_t::zeroed();
        fresh.read = self.read.get();
        fresh.write = self.write.get();
        fresh.fd = -1;
        fresh.recv = Some(no_recv);
        fresh.send = Some(no_send);
        fresh.recv_chain = Some(no_recv_chain);
        fresh.send_chain = Some(no_send_chain);
        fresh.log = log;
        fresh.type_ = libc::SOCK_STREAM;
        fresh.set_shared(1);
        fresh.set_tcp_nodelay(NODELAY_DISABLED);
        fresh.set_tcp_nopush(NOPUSH_DISABLED);
        // SAFETY: the waiter has the connection; when a wait begins, nothing else uses it.
        unsafe { conn.write(fresh) };
        conn
    }

    /// The placeholder of the present wait.
    pub(crate) fn conn(&self) -> *mut ngx_connection_t {
        self.conn.get()
    }

    /// A placeholder for the address, for a request without a server: so the core ends such a request like one with a
    /// server.
    pub(crate) fn address(&self) -> *mut sockaddr {
        self.address.get()
    }

    pub(crate) fn read(&self) -> Event {
        // SAFETY: the read event of the placeholder, which lives as long as the request.
        unsafe { Event::from_ptr(self.read.get()) }
    }

    pub(crate) fn write(&self) -> Event {
        // SAFETY: the write event of the placeholder, which lives as long as the request.
        unsafe { Event::from_ptr(self.write.get()) }
    }

    /// The handler that the core has given both events.
    pub(crate) fn handler(&self) -> ngx_event_handler_pt {
        let write = self.write();
        get_field!(write.handler)
    }

    /// Takes the memory pool that the core has given the placeholder, for the real connection; may be null.
    pub(crate) fn take_pool(&self) -> *mut ngx_pool_t {
        // SAFETY: the waiter has the connection, and lives while it is borrowed.
        let conn = unsafe { Live::new_unchecked(self.conn.get()) };
        let pool = get_field!(conn.pool);
        set_field!(conn.pool = ptr::null_mut());
        pool
    }

    /// Ends the wait: nginx has none of its events any more.
    pub(crate) fn leave(&self) {
        self.turn.cancel();
        for event in [self.read(), self.write()] {
            event.clear_timer();
            remove_posted(event);
        }
        // SAFETY: null, or the pool that the core has made for the placeholder.
        if let Some(pool) = unsafe { Pool::from_ptr(self.take_pool()) } {
            // SAFETY: the core has made it for the placeholder alone, which it does not use any more.
            unsafe { pool.destroy() };
        }
    }
}

unsafe extern "C" fn no_recv(_: *mut ngx_connection_t, _: *mut u_char, _: usize) -> isize {
    NGX_ERROR as isize
}

unsafe extern "C" fn no_send(_: *mut ngx_connection_t, _: *mut u_char, _: usize) -> isize {
    NGX_ERROR as isize
}

unsafe extern "C" fn no_recv_chain(_: *mut ngx_connection_t, _: *mut ngx_chain_t, _: off_t) -> isize {
    NGX_ERROR as isize
}

unsafe extern "C" fn no_send_chain(
    _: *mut ngx_connection_t,
    _: *mut ngx_chain_t,
    _: off_t,
) -> *mut ngx_chain_t {
    ptr::without_provenance_mut(NGX_ERROR as isize as usize)
}
