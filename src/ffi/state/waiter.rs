//! A request that waits. The core believes that it is connecting: it holds a connection without a
//! socket, which stands in for the one to come.

use std::cell::{Cell, UnsafeCell};
use std::mem::zeroed;
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_chain_t, ngx_connection_t, ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_DISABLED as NODELAY_DISABLED,
    ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED as NOPUSH_DISABLED, ngx_delete_posted_event,
    ngx_destroy_pool, ngx_event_handler_pt, ngx_event_t, ngx_log_t, ngx_pool_t, off_t, sockaddr, u_char,
    NGX_ERROR, NGX_INVALID_INDEX,
};

use crate::base::clock::Msec;

use crate::ffi::nginx::conn::Event;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::timer::Alarm;
use crate::ffi::state::peer_data::PeerData;

/// Lies in the request's pool, and is used again when the request waits again.
pub(crate) struct Waiter {
    conn: UnsafeCell<ngx_connection_t>,
    read: UnsafeCell<ngx_event_t>,
    write: UnsafeCell<ngx_event_t>,
    address: UnsafeCell<sockaddr>,
    /// Calls back when the core has done what it does with a connection.
    pub(crate) turn: Alarm,
    pub(crate) request: NonNull<PeerData>,
    /// When the wait began.
    pub(crate) since: Cell<Msec>,
}

impl Waiter {
    /// # Safety
    /// `pool` is that of the live request.
    pub(crate) unsafe fn new(pool: *mut ngx_pool_t, request: NonNull<PeerData>) -> Option<NonNull<Self>> {
        // SAFETY: live, says the caller.
        let memory = unsafe { allocate::<Self>(pool, 1) }?.cast::<Self>();
        let waiter = Self {
            // SAFETY: for a C structure of numbers, bit-fields and pointers zero is a valid value.
            conn: UnsafeCell::new(unsafe { zeroed() }),
            // SAFETY: as above.
            read: UnsafeCell::new(unsafe { zeroed() }),
            // SAFETY: as above.
            write: UnsafeCell::new(unsafe { zeroed() }),
            // SAFETY: as above.
            address: UnsafeCell::new(unsafe { zeroed() }),
            turn: Alarm::new(),
            request,
            since: Cell::new(0),
        };
        // SAFETY: allocated above for a `Waiter`.
        unsafe { memory.write(waiter) };
        Some(memory)
    }

    /// The connection that stands in, without a socket: nothing is sent or received, nobody is told
    /// of events, and if something is closed by mistake no descriptor is touched.
    pub(crate) fn stand_in(&self, log: *mut ngx_log_t) -> *mut ngx_connection_t {
        let conn = self.conn.get();
        for (event, write) in [(self.read.get(), 0), (self.write.get(), 1)] {
            // SAFETY: for a C structure of numbers, bit-fields and pointers zero is a valid value.
            let mut fresh: ngx_event_t = unsafe { zeroed() };
            fresh.data = conn.cast();
            fresh.log = log;
            fresh.index = NGX_INVALID_INDEX as _;
            fresh.set_write(write);
            fresh.set_active(1);
            // SAFETY: ours; when a wait begins, nginx does not know the event.
            unsafe { event.write(fresh) };
        }
        // SAFETY: as above.
        let mut fresh: ngx_connection_t = unsafe { zeroed() };
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
        // SAFETY: ours; when a wait begins, nobody has the connection.
        unsafe { conn.write(fresh) };
        conn
    }

    /// The connection of the wait that goes on.
    pub(crate) fn conn(&self) -> *mut ngx_connection_t {
        self.conn.get()
    }

    /// An address that is none, for a request without a server: the core ends such a request as it
    /// ends one that has a server.
    pub(crate) fn address(&self) -> *mut sockaddr {
        self.address.get()
    }

    pub(crate) fn read(&self) -> Event {
        // SAFETY: an event of the connection that stands in, which lasts as long as the request.
        unsafe { Event::from_ptr(self.read.get()) }
    }

    pub(crate) fn write(&self) -> Event {
        // SAFETY: as above.
        unsafe { Event::from_ptr(self.write.get()) }
    }

    /// What the core has made the handler of both events.
    pub(crate) fn handler(&self) -> ngx_event_handler_pt {
        // SAFETY: ours; reads one field.
        unsafe { (*self.write.get()).handler }
    }

    /// The memory pool that the core has given the connection, for the one to come.
    pub(crate) fn take_pool(&self) -> *mut ngx_pool_t {
        // SAFETY: ours, and no reference to it is made anywhere.
        let pool = unsafe { &mut (*self.conn.get()).pool };
        std::mem::replace(pool, ptr::null_mut())
    }

    /// The wait is over: nginx has nothing of it any more.
    pub(crate) fn leave(&self) {
        self.turn.cancel();
        for event in [self.read(), self.write()] {
            event.clear_timer();
            if event.posted() {
                // SAFETY: `posted` says that the event is in a queue.
                unsafe { ngx_delete_posted_event(event.as_ptr()) };
            }
        }
        let pool = self.take_pool();
        if !pool.is_null() {
            // SAFETY: the core made it for this connection alone.
            unsafe { ngx_destroy_pool(pool) };
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
