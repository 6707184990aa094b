//! The socket of a connection: whether there is something to read, and how it is closed.

use std::ptr::NonNull;

use nginx_sys::{ngx_close_connection, ngx_destroy_pool};

use crate::metrics::End;

#[cfg(ngx_feature = "http_ssl")]
use super::conn::Received;
use super::conn::{Conn, Event};
use super::process::worker_is_exiting;
use crate::ffi::nginx::handle::Handle as _;

/// Why nginx asks an idle connection to be closed: at the end of a worker, or because it has run out of connections.
pub(crate) fn asked_to_close() -> End {
    if worker_is_exiting() {
        End::Exiting
    } else {
        End::Evicted
    }
}

/// What has ended a connection that has nothing but its end to wait for; `None` if nothing has happened, and it
/// goes on waiting.
pub(crate) fn poll_idle(event: Event) -> Option<End> {
    let conn = event.conn();
    if conn.close_requested() {
        return Some(asked_to_close());
    }
    if event.timed_out() {
        return Some(End::Timeout);
    }
    if let Some(end) = heard(conn) {
        return Some(end);
    }
    event.clear_ready();
    (!event.wait_readable()).then_some(End::Error)
}

/// Whether there is nothing to read: neither data, nor the end of the stream, nor an error.
#[inline]
pub(crate) fn silent(conn: Conn) -> bool {
    heard(conn).is_none()
}

/// What there is to read: one call of the system tells that there is nothing. TLS may have something of its own to read.
#[inline]
fn heard(conn: Conn) -> Option<End> {
    let n = peek(conn);
    if n == 0 {
        return Some(End::ServerClosed);
    }
    if n == -1 && !blocks() {
        return Some(End::Error);
    }
    #[cfg(ngx_feature = "http_ssl")]
    if !conn.ssl().is_null() {
        return if n > 0 || may_hold_more(conn.read()) { heard_through_tls(conn) } else { None };
    }
    (n > 0).then_some(End::UnexpectedData)
}

/// Whether TLS may have taken something from the socket that nobody has read. `ngx_ssl_recv()` says so in one way or the
/// other, since no socket would wake nginx for that: the event is ready, or it is posted, to be so in a moment.
#[cfg(ngx_feature = "http_ssl")]
#[inline]
fn may_hold_more(read: Event) -> bool {
    read.ready() || read.posted()
}

#[cfg(ngx_feature = "http_ssl")]
fn heard_through_tls(conn: Conn) -> Option<End> {
    match conn.receive(&mut [0]) {
        Received::Nothing => None,
        Received::Bytes(_) => Some(End::UnexpectedData),
        Received::End if conn.read().error() => Some(End::Error),
        Received::End => Some(End::ServerClosed),
    }
}

/// Whether the last call of the system has found nothing.
fn blocks() -> bool {
    // SAFETY: asks for the calling thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno == libc::EAGAIN }
}

/// Whether there are bytes to read, besides the end of the stream.
pub(crate) fn has_data(conn: Conn) -> bool {
    peek(conn) > 0
}

/// The number of bytes there, of at most one; 0 at the end of the stream.
fn peek(conn: Conn) -> isize {
    let mut byte = 0u8;
    // SAFETY: an open socket, and room for one byte.
    unsafe { libc::recv(conn.fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK) }
}

/// Closes a connection that is not in the pool any more. TLS says goodbye to itself only: the
/// session stays resumable, and nothing is sent to a server that may be gone.
pub(crate) fn close(conn: Conn) {
    #[cfg(ngx_feature = "http_ssl")]
    if let Some(ssl) = NonNull::new(conn.ssl()) {
        use nginx_sys::{ngx_ssl_connection_t, ngx_ssl_shutdown, NGX_AGAIN};
        // SAFETY: the TLS state lives as long as its connection.
        unsafe { ngx_ssl_connection_t::set_no_wait_shutdown_raw(ssl.as_ptr(), 1) };
        // SAFETY: as above.
        unsafe { ngx_ssl_connection_t::set_no_send_shutdown_raw(ssl.as_ptr(), 1) };
        // SAFETY: an open connection with TLS.
        if unsafe { ngx_ssl_shutdown(conn.as_ptr()) } == NGX_AGAIN as isize {
            // SAFETY: `NGX_AGAIN` leaves the TLS state in place, to call the handler later.
            unsafe { (*ssl.as_ptr()).handler = Some(close_after_shutdown) };
            return;
        }
    }
    // SAFETY: the pool belongs to the connection alone, and nothing in it is used any more.
    unsafe { ngx_destroy_pool(conn.pool()) };
    // SAFETY: an open connection; nginx deletes its timers and its posted events.
    unsafe { ngx_close_connection(conn.as_ptr()) };
}

/// Called by nginx when a TLS shutdown that had to wait is done.
#[cfg(ngx_feature = "http_ssl")]
unsafe extern "C" fn close_after_shutdown(c: *mut nginx_sys::ngx_connection_t) {
    // SAFETY: the connection for which `close` set this handler; it is still open.
    if let Some(conn) = unsafe { Conn::from_ptr(c) } {
        close(conn);
    }
}

/// Tells the server that TLS ends, without waiting for an answer; what follows is the end of the
/// stream. `false` if it cannot be told now.
#[cfg(ngx_feature = "http_ssl")]
pub(crate) fn say_goodbye(conn: Conn) -> bool {
    let Some(ssl) = NonNull::new(conn.ssl()) else { return true };
    // SAFETY: the TLS state lives as long as its connection.
    unsafe { nginx_sys::ngx_ssl_connection_t::set_no_wait_shutdown_raw(ssl.as_ptr(), 1) };
    // SAFETY: an open connection with TLS.
    unsafe { nginx_sys::ngx_ssl_shutdown(conn.as_ptr()) != nginx_sys::NGX_AGAIN as isize }
}
