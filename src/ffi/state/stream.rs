//! The connection that a request has instead of a socket: one stream of a carrier.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_connection_t, ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_DISABLED as NODELAY_DISABLED,
    ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED as NOPUSH_DISABLED, ngx_event_t, ngx_log_t,
    ngx_pool_t, NGX_INVALID_INDEX,
};

use crate::http2::sharing::GroupId;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::memory::{Pool, Zeroed as _};
use crate::ffi::nginx::request::Output;
use crate::ffi::nginx::timer::{remove_posted, Alarm};

use super::carrier::{Carrier, Ride};

/// What a request has of streams. Lies in the request's pool, and serves one attempt after the other.
#[repr(C)]
pub(crate) struct Stream {
    /// The first field, so that its address is that of the stream.
    conn: UnsafeCell<ngx_connection_t>,
    read: UnsafeCell<ngx_event_t>,
    write: UnsafeCell<ngx_event_t>,
    /// The stream of the present attempt.
    pub(crate) ride: RefCell<Option<Ride>>,
    /// The request opens the connection that is to become a carrier of this group.
    pub(crate) opens: Cell<Option<GroupId>>,
    /// What stands in the place of the core's output, while the connection is being opened.
    pub(crate) output: Cell<Option<Output>>,
    /// Moves timers that the core has set for the connection that has become a carrier.
    pub(crate) turn: Alarm,
    /// How often a server has refused the request.
    pub(crate) refusals: Cell<u32>,
    /// The carrier on which it was refused last. Only to be compared: it may be gone.
    pub(crate) refused_by: Cell<*const Carrier>,
    /// The carrier was there before the request: it did not open it.
    pub(crate) has_joined: Cell<bool>,
}

/// Refers to the stream of a live request.
///
/// # Invariants
/// Points at a stream in the pool of a request that is alive: a request leaves its carrier before it ends.
#[derive(Clone, Copy)]
pub(crate) struct StreamRef(NonNull<Stream>);

/// The functions of a stream that stand in the place of a socket's.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    pub(crate) recv: nginx_sys::ngx_recv_pt,
    pub(crate) recv_chain: nginx_sys::ngx_recv_chain_pt,
    pub(crate) send: nginx_sys::ngx_send_pt,
    pub(crate) send_chain: nginx_sys::ngx_send_chain_pt,
}

impl Stream {
    /// `None` if there is no memory.
    ///
    /// # Safety
    /// `pool` is the pool of the live request.
    pub(crate) unsafe fn make(pool: *mut ngx_pool_t) -> Option<StreamRef> {
        // SAFETY: the caller says that it is the pool of a live request.
        let pool = unsafe { Pool::from_ptr(pool) }?;
        // It is not dropped with the pool: `leave` ends what it holds, when the request leaves the carrier.
        let stream = ManuallyDrop::new(Self {
            conn: UnsafeCell::new(ngx_connection_t::zeroed()),
            read: UnsafeCell::new(ngx_event_t::zeroed()),
            write: UnsafeCell::new(ngx_event_t::zeroed()),
            ride: RefCell::new(None),
            opens: Cell::new(None),
            output: Cell::new(None),
            turn: Alarm::new(),
            refusals: Cell::new(0),
            refused_by: Cell::new(ptr::null()),
            has_joined: Cell::new(false),
        });
        pool.put(stream).map(NonNull::cast).map(StreamRef)
    }

    /// The connection that a request sees. Makes it anew: `fd` is a socket that nobody uses.
    pub(crate) fn board(
        &self,
        ride: Ride,
        fd: libc::c_int,
        functions: Functions,
        log: *mut ngx_log_t,
        pool: *mut ngx_pool_t,
    ) {
        let conn = self.conn.get();
        for (event, write) in [(self.read.get(), 0), (self.write.get(), 1)] {
            let mut fresh = ngx_event_t::zeroed();
            fresh.data = conn.cast();
            fresh.log = log;
            fresh.index = NGX_INVALID_INDEX as _;
            fresh.set_write(write);
            // nginx neither adds it to its event method nor removes it.
            fresh.set_active(1);
            fresh.set_ready(write);
            // SAFETY: the stream has the event; between two attempts, nginx does not know it.
            unsafe { event.write(fresh) };
        }
        let mut fresh = ngx_connection_t::zeroed();
        fresh.read = self.read.get();
        fresh.write = self.write.get();
        fresh.fd = fd;
        fresh.recv = functions.recv;
        fresh.send = functions.send;
        fresh.recv_chain = functions.recv_chain;
        fresh.send_chain = functions.send_chain;
        fresh.log = log;
        fresh.pool = pool;
        fresh.type_ = libc::SOCK_STREAM;
        fresh.set_log_error(nginx_sys::ngx_connection_log_error_e_NGX_ERROR_ERR);
        fresh.set_shared(1);
        fresh.set_tcp_nodelay(NODELAY_DISABLED);
        fresh.set_tcp_nopush(NOPUSH_DISABLED);
        #[cfg(ngx_feature = "http_ssl")]
        {
            // The core begins no handshake.
            fresh.ssl = ride.carrier.conn.get().map_or(ptr::null_mut(), Conn::ssl);
        }
        // SAFETY: the stream has the connection; between two attempts, nothing else uses it.
        unsafe { conn.write(fresh) };
        *self.ride.borrow_mut() = Some(ride);
    }

    /// The number of the stream that the request has, if it was sent.
    pub(crate) fn number(&self) -> Option<u32> {
        let ride = self.ride.borrow();
        let ride = ride.as_ref()?;
        ride.carrier.state.with(|state| state.number(ride.key)).flatten()
    }

    /// The connection that the request sees.
    pub(crate) fn conn(&self) -> Conn {
        // SAFETY: the stream has the connection, which lives as long as the request; `board` has written it.
        unsafe { Conn::from_open(self.conn.get()) }
    }

    /// The request leaves its carrier, if it has one: nginx has none of its events any more.
    pub(crate) fn leave(&self) -> Option<Ride> {
        let ride = self.ride.take()?;
        self.turn.cancel();
        let conn = self.conn();
        for event in [conn.read(), conn.write()] {
            event.clear_timer();
            remove_posted(event);
        }
        // nginx 1.22 reads this after the end.
        conn.set_fd(-1);
        Some(ride)
    }
}

impl StreamRef {
    /// The stream of a connection that a request sees.
    ///
    /// # Safety
    /// nginx passes it to one of the functions that [`Stream::board`] has given it.
    pub(crate) unsafe fn of(conn: *mut ngx_connection_t) -> Option<Self> {
        NonNull::new(conn).map(|conn| Self(conn.cast()))
    }

    pub(crate) fn as_ptr(self) -> *mut libc::c_void {
        self.0.as_ptr().cast()
    }

    /// # Safety
    /// `data` is what [`Self::as_ptr`] has returned, and the request is alive.
    pub(crate) unsafe fn from_data(data: *mut libc::c_void) -> Option<Self> {
        NonNull::new(data).map(|data| Self(data.cast()))
    }
}

impl std::ops::Deref for StreamRef {
    type Target = Stream;

    #[inline]
    fn deref(&self) -> &Stream {
        // SAFETY: alive by the type invariant; only its cells change.
        unsafe { self.0.as_ref() }
    }
}
