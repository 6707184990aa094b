//! A connection and its events.

use std::ptr::NonNull;

use nginx_sys::{
    ngx_connection_t, ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED as NOPUSH_DISABLED,
    ngx_event_handler_pt, ngx_event_t, ngx_handle_read_event, ngx_handle_write_event, ngx_int_t, ngx_log_t,
    ngx_msec_t, ngx_posted_events, ngx_posted_next_events, NGX_AGAIN, NGX_OK, NGX_USE_CLEAR_EVENT,
};

use super::constants;
use super::handle::{get_bit, get_bits, get_field, handle, set_bit, set_field, Handle};
use super::memory::Pool;
use super::process::remaining;
use super::timer::{add_timer, post_to, remove_timer};

/// A connection.
///
/// # Invariants
/// Points at an `ngx_connection_t` that is open: the connection of the present callback, or one that is stored in a pool of
/// idle connections (an idle connection leaves the pool before it is closed); or the placeholder of a request that waits,
/// whose socket nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conn(NonNull<ngx_connection_t>);

/// An event of an open connection.
///
/// # Invariants
/// Points at the read or write event of a [`Conn`], or of the placeholder of a request that waits; both live as long as the
/// connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event(NonNull<ngx_event_t>);

/// The result of reading from a connection.
pub(crate) enum Received {
    Bytes(usize),
    /// There is nothing to read yet.
    Nothing,
    /// The server has closed the connection, or there was an error.
    End,
}

/// The result of writing to a connection.
pub(crate) enum Sent {
    Bytes(usize),
    /// Nothing can be sent now.
    Nothing,
    /// There was an error.
    Failed,
}

handle!(Conn, ngx_connection_t);

impl Conn {
    /// # Safety
    /// `ptr` is null or points at an open connection.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_connection_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    /// # Safety
    /// `ptr` points at an open connection.
    pub(crate) unsafe fn from_open(ptr: *mut ngx_connection_t) -> Self {
        // SAFETY: the caller says that the pointer is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    pub(crate) fn read(self) -> Event {
        let event = get_field!(self.read);
        // SAFETY: `ngx_get_connection()` gives every connection both events.
        unsafe { Event::from_ptr(event) }
    }

    pub(crate) fn write(self) -> Event {
        let event = get_field!(self.write);
        // SAFETY: `ngx_get_connection()` gives every connection both events.
        unsafe { Event::from_ptr(event) }
    }

    pub(crate) fn fd(self) -> libc::c_int {
        get_field!(self.fd)
    }

    pub(crate) fn data(self) -> *mut libc::c_void {
        get_field!(self.data)
    }

    pub(crate) fn set_data(self, data: *mut libc::c_void) {
        set_field!(self.data = data);
    }

    pub(crate) fn requests(self) -> usize {
        get_field!(self.requests)
    }

    /// Its number, unique in the process.
    pub(crate) fn number(self) -> u64 {
        get_field!(self.number)
    }

    pub(crate) fn start_time(self) -> ngx_msec_t {
        get_field!(self.start_time)
    }

    /// Counts one more request.
    pub(crate) fn count_request(self) {
        set_field!(self.requests = self.requests() + 1);
    }

    /// Uses sendfile and tcp_nopush only if the client's connection does too.
    pub(crate) fn restrict_to(self, client: Conn) {
        if !client.sendfile() {
            set_bit!(self: ngx_connection_t::set_sendfile_raw, 0);
        }
        if get_bits!(client: ngx_connection_t::tcp_nopush_raw) == NOPUSH_DISABLED {
            set_bit!(self: ngx_connection_t::set_tcp_nopush_raw, NOPUSH_DISABLED);
        }
    }

    pub(crate) fn sendfile(self) -> bool {
        get_bit!(self: ngx_connection_t::sendfile_raw)
    }

    /// Gives a new connection its memory pool; if it has one already, destroys the other.
    pub(crate) fn give_pool(self, pool: *mut nginx_sys::ngx_pool_t) {
        if self.pool().is_null() {
            set_field!(self.pool = pool);
            return;
        }
        // SAFETY: null, or a pool that the core has made for this connection.
        if let Some(pool) = unsafe { Pool::from_ptr(pool) } {
            // SAFETY: nothing was allocated from it: the core made it for the placeholder, whose place this connection
            // takes.
            unsafe { pool.destroy() };
        }
    }

    /// Bytes sent for the present request, before encryption.
    pub(crate) fn sent(self) -> u64 {
        get_field!(self.sent) as u64
    }

    /// Reads the available bytes, decrypted if the connection uses TLS.
    pub(crate) fn receive(self, buffer: &mut [u8]) -> Received {
        let Some(recv) = (get_field!(self.recv)) else { return Received::End };
        // SAFETY: the connection is open by the type invariant; pointer and length are those of the buffer.
        let n = unsafe { recv(self.as_ptr(), buffer.as_mut_ptr(), buffer.len()) };
        match usize::try_from(n) {
            Ok(n @ 1..) => Received::Bytes(n),
            Err(_) if n == NGX_AGAIN as isize => Received::Nothing,
            _ => Received::End,
        }
    }

    /// Writes bytes, encrypted if the connection uses TLS.
    pub(crate) fn send(self, bytes: &[u8]) -> Sent {
        let Some(send) = (get_field!(self.send)) else { return Sent::Failed };
        // SAFETY: the connection is open by the type invariant; pointer and length are those of the bytes, which are only read.
        let n = unsafe { send(self.as_ptr(), bytes.as_ptr().cast_mut(), bytes.len()) };
        match usize::try_from(n) {
            Ok(n @ 1..) => Sent::Bytes(n),
            Ok(0) => Sent::Nothing,
            Err(_) if n == NGX_AGAIN as isize => Sent::Nothing,
            Err(_) => Sent::Failed,
        }
    }

    /// Lets the kernel send small pieces at once, as `ngx_tcp_nodelay()` does. A socket that is not of TCP does so in any case.
    pub(crate) fn send_at_once(self) {
        let on: libc::c_int = 1;
        let (value, length) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
        // SAFETY: the descriptor of an open connection; pointer and length are those of a number.
        unsafe { libc::setsockopt(self.fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, value, length) };
    }

    /// Whether it uses TLS.
    pub(crate) fn has_tls(self) -> bool {
        #[cfg(ngx_feature = "http_ssl")]
        return !self.ssl().is_null();
        #[cfg(not(ngx_feature = "http_ssl"))]
        false
    }

    /// Counts bytes that were sent for the present request.
    pub(crate) fn count_sent(self, bytes: usize) {
        let sent = get_field!(self.sent);
        set_field!(self.sent = sent + bytes as nginx_sys::off_t);
    }

    pub(crate) fn set_fd(self, fd: libc::c_int) {
        set_field!(self.fd = fd);
    }

    pub(crate) fn reset_sent(self) {
        set_field!(self.sent = 0);
    }

    /// The slot of an idle connection, where others have the number of bytes sent.
    pub(crate) fn slot(self) -> u32 {
        get_field!(self.sent) as u32
    }

    #[inline(always)]
    pub(crate) fn set_slot(self, slot: u32) {
        set_field!(self.sent = nginx_sys::off_t::from(slot));
    }

    /// Whether no request has it.
    pub(crate) fn is_idle(self) -> bool {
        get_bit!(self: ngx_connection_t::idle_raw)
    }

    pub(crate) fn set_idle(self, idle: bool) {
        set_bit!(self: ngx_connection_t::set_idle_raw, idle.into());
    }

    /// Allows or forbids nginx to close the connection when it runs out of connections. Mirrors
    /// `ngx_reusable_connection()`.
    pub(crate) fn set_reusable(self, reusable: bool) {
        // SAFETY: open by the type invariant; `ngx_close_connection()` removes it from nginx's list of such connections.
        unsafe { nginx_sys::ngx_reusable_connection(self.as_ptr(), reusable.into()) };
    }

    /// Whether nginx wants the connection to be closed (`ngx_close_idle_connections()`, `ngx_drain_connections()`).
    pub(crate) fn close_requested(self) -> bool {
        get_bit!(self: ngx_connection_t::close_raw)
    }

    /// Whether the core has met an error on it.
    pub(crate) fn has_failed(self) -> bool {
        get_bit!(self: ngx_connection_t::error_raw)
    }

    /// Notes that the client took too long.
    pub(crate) fn set_timed_out(self) {
        set_bit!(self: ngx_connection_t::set_timedout_raw, 1);
    }

    pub(crate) fn pool(self) -> *mut nginx_sys::ngx_pool_t {
        get_field!(self.pool)
    }

    /// Its memory pool; a new connection has none.
    #[inline]
    pub(crate) fn memory(self) -> Option<Pool> {
        // SAFETY: null, or the pool of this connection, which is destroyed when the connection is closed.
        unsafe { Pool::from_ptr(self.pool()) }
    }

    #[cfg(ngx_feature = "http_ssl")]
    pub(crate) fn ssl(self) -> *mut nginx_sys::ngx_ssl_connection_t {
        get_field!(self.ssl)
    }

    /// Whether the server has chosen this protocol by ALPN (RFC 7301).
    pub(crate) fn negotiated(self, protocol: &[u8]) -> bool {
        #[cfg(ngx_feature = "http_ssl")]
        if let Some(tls) = super::tls::of(self) {
            return super::tls::negotiated(tls, protocol);
        }
        let _ = protocol;
        false
    }

    /// Makes everything that logs about this connection write to `log`. The log of a request must not stay behind: it is
    /// freed with the client's connection.
    pub(crate) fn set_logs(self, log: *mut ngx_log_t) {
        set_field!(self.log = log);
        self.read().set_log(log);
        self.write().set_log(log);
        if let Some(pool) = self.memory() {
            set_field!(pool.log = log);
        }
    }
}

handle!(Event, ngx_event_t);

impl Event {
    /// # Safety
    /// `ptr` points at an event of an open connection.
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_event_t) -> Self {
        // SAFETY: the caller says that the pointer is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// The connection to which the event belongs.
    pub(crate) fn conn(self) -> Conn {
        let conn = get_field!(self.data).cast();
        // SAFETY: `ngx_get_connection()` makes each event point back at its connection.
        Conn(unsafe { NonNull::new_unchecked(conn) })
    }

    pub(crate) fn log(self) -> *mut ngx_log_t {
        get_field!(self.log)
    }

    fn set_log(self, log: *mut ngx_log_t) {
        set_field!(self.log = log);
    }

    pub(crate) fn eof(self) -> bool {
        get_bit!(self: ngx_event_t::eof_raw)
    }

    pub(crate) fn error(self) -> bool {
        get_bit!(self: ngx_event_t::error_raw)
    }

    pub(crate) fn timed_out(self) -> bool {
        get_bit!(self: ngx_event_t::timedout_raw)
    }

    /// Pretends that its timer has expired.
    pub(crate) fn set_timed_out(self) {
        set_bit!(self: ngx_event_t::set_timedout_raw, 1);
    }

    /// Its timer is set anew.
    pub(crate) fn clear_timed_out(self) {
        set_bit!(self: ngx_event_t::set_timedout_raw, 0);
    }

    pub(crate) fn posted(self) -> bool {
        get_bit!(self: ngx_event_t::posted_raw)
    }

    /// Calls its handler once the present one has returned.
    pub(crate) fn post(self) {
        post_to(self, &raw mut ngx_posted_events);
    }

    /// Ignores the socket from here on. Mirrors `ngx_del_event()`.
    pub(crate) fn ignore(self) {
        // SAFETY: a global of nginx, which the event module has set when the process was initialised.
        if let Some(del) = unsafe { nginx_sys::ngx_event_actions.del } {
            // SAFETY: a read event of an open connection, by the type invariant.
            unsafe { del(self.as_ptr(), constants::READ_EVENT as ngx_int_t, 0) };
        }
    }

    /// Calls its handler when nginx has looked after other events.
    pub(crate) fn post_next(self) {
        post_to(self, &raw mut ngx_posted_next_events);
    }

    pub(crate) fn ready(self) -> bool {
        get_bit!(self: ngx_event_t::ready_raw)
    }

    pub(crate) fn set_ready(self) {
        set_bit!(self: ngx_event_t::set_ready_raw, 1);
    }

    pub(crate) fn set_eof(self) {
        set_bit!(self: ngx_event_t::set_eof_raw, 1);
    }

    pub(crate) fn set_error(self) {
        set_bit!(self: ngx_event_t::set_error_raw, 1);
    }

    /// How many milliseconds are left of its timer, if that is set.
    pub(crate) fn time_left(self) -> Option<ngx_msec_t> {
        let expires = get_field!(self.timer.key);
        get_bit!(self: ngx_event_t::timer_set_raw).then(|| remaining(expires))
    }

    pub(crate) fn clear_ready(self) {
        set_bit!(self: ngx_event_t::set_ready_raw, 0);
    }

    /// Whether it waits for its timer, and not for its socket.
    pub(crate) fn delayed(self) -> bool {
        get_bit!(self: ngx_event_t::delayed_raw)
    }

    /// Ends a delay by `proxy_limit_rate`, because a delayed event ignores its socket.
    pub(crate) fn clear_delayed(self) {
        set_bit!(self: ngx_event_t::set_delayed_raw, 0);
    }

    pub(crate) fn handler(self) -> ngx_event_handler_pt {
        get_field!(self.handler)
    }

    pub(crate) fn set_handler(self, handler: ngx_event_handler_pt) {
        set_field!(self.handler = handler);
    }

    /// Asks nginx to call the handler when there is something to read; `false` on failure. Mirrors
    /// `ngx_handle_read_event()`.
    #[inline(always)]
    pub(crate) fn wait_readable(self) -> bool {
        // SAFETY: a global of nginx, which the event module has set when the process was initialised.
        let flags = unsafe { nginx_sys::ngx_event_flags };
        let is_waiting = get_bit!(self: ngx_event_t::active_raw);
        if is_waiting && flags & NGX_USE_CLEAR_EVENT as usize != 0 {
            return true;
        }
        // SAFETY: a read event of an open connection, by the type invariant.
        unsafe { ngx_handle_read_event(self.as_ptr(), 0) == NGX_OK as ngx_int_t }
    }

    /// Asks nginx to call the handler when something can be written; `false` on failure. Mirrors
    /// `ngx_handle_write_event()`.
    pub(crate) fn wait_writable(self) -> bool {
        // SAFETY: a write event of an open connection, by the type invariant.
        unsafe { ngx_handle_write_event(self.as_ptr(), 0) == NGX_OK as ngx_int_t }
    }

    /// Calls its handler after `after` milliseconds, unless something happens before.
    #[inline(always)]
    pub(crate) fn set_timer(self, after: ngx_msec_t) {
        // nginx leaves a timer as it is that would be moved by less than 300 ms (`NGX_TIMER_LAZY_DELAY`).
        self.clear_timer();
        add_timer(self, after);
    }

    #[inline(always)]
    pub(crate) fn clear_timer(self) {
        remove_timer(self);
    }
}
