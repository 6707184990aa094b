//! The socket of a connection: whether there is something to read, and how the connection is closed.

use std::os::fd::{FromRawFd as _, OwnedFd};

use nginx_sys::ngx_close_connection;
#[cfg(ngx_feature = "http_ssl")]
use nginx_sys::{ngx_connection_t, ngx_ssl_connection_t, ngx_ssl_shutdown, NGX_AGAIN};

use crate::metrics::End;

#[cfg(ngx_feature = "http_ssl")]
use super::conn::Received;
use super::conn::{Conn, Event};
use super::handle::Handle as _;
#[cfg(ngx_feature = "http_ssl")]
use super::handle::{set_bit, set_field, Live};
use super::process::worker_is_exiting;

/// Why nginx asks for an idle connection to be closed: the worker exits, or it has run out of connections.
pub(crate) fn asked_to_close() -> End {
    if worker_is_exiting() {
        End::Exiting
    } else {
        End::Evicted
    }
}

/// What has ended a connection that only waits for its end; `None` if nothing has happened, and it goes on waiting.
pub(crate) fn poll_idle(event: Event) -> Option<End> {
    let conn = event.conn();
    if conn.close_requested() {
        return Some(asked_to_close());
    }
    if event.timed_out() {
        return Some(End::Timeout);
    }
    if let Some(end) = pending_end(conn) {
        return Some(end);
    }
    event.clear_ready();
    (!event.wait_readable()).then_some(End::Error)
}

/// Whether there is nothing to read: neither data, nor the end of the stream, nor an error.
pub(crate) fn is_silent(conn: Conn) -> bool {
    pending_end(conn).is_none()
}

/// What there is to read, as a reason to close an idle connection. If there is nothing, one system call finds out. TLS may
/// have records of its own to read, which are read then.
#[inline(always)]
pub(crate) fn pending_end(conn: Conn) -> Option<End> {
    let n = peek(conn);
    let is_quiet = n == -1 && would_block();
    #[cfg(ngx_feature = "http_ssl")]
    let is_quiet = is_quiet && (conn.ssl().is_null() || !may_hold_more(conn.read()));
    if is_quiet {
        None
    } else {
        end_behind(conn, n)
    }
}

/// The same, if the socket has something, which [`peek`] has found, or TLS may have.
#[cold]
#[inline(never)]
fn end_behind(conn: Conn, n: isize) -> Option<End> {
    if n == 0 {
        return Some(End::ServerClosed);
    }
    if n == -1 && !would_block() {
        return Some(End::Error);
    }
    #[cfg(ngx_feature = "http_ssl")]
    if !conn.ssl().is_null() {
        return pending_end_of_tls(conn);
    }
    let _ = conn;
    Some(End::UnexpectedData)
}

/// Whether TLS may have read bytes from the socket that were not read from TLS. The socket would not wake nginx for
/// those, so `ngx_ssl_recv()` leaves the event ready, or posts it.
#[cfg(ngx_feature = "http_ssl")]
#[inline]
fn may_hold_more(read: Event) -> bool {
    read.ready() || read.posted()
}

#[cfg(ngx_feature = "http_ssl")]
fn pending_end_of_tls(conn: Conn) -> Option<End> {
    match conn.receive(&mut [0]) {
        Received::Nothing => None,
        Received::Bytes(_) => Some(End::UnexpectedData),
        Received::End if conn.read().error() => Some(End::Error),
        Received::End => Some(End::ServerClosed),
    }
}

/// Whether the last system call has failed with `EAGAIN`.
fn would_block() -> bool {
    // SAFETY: takes nothing, and returns where the calling thread has its errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: points at the errno of the calling thread.
    unsafe { *errno == libc::EAGAIN }
}

/// Whether there are bytes to read; the end of the stream is none.
pub(crate) fn has_data(conn: Conn) -> bool {
    peek(conn) > 0
}

/// Peeks at one byte: returns 1, or 0 at the end of the stream, or -1 with `errno`.
fn peek(conn: Conn) -> isize {
    let mut byte = 0u8;
    // SAFETY: the socket is open; one byte is read into a variable of one byte.
    unsafe { libc::recv(conn.fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK) }
}

/// Closes a connection that is no longer in the pool. TLS is shut down without sending anything: the session stays
/// resumable, and the server may be gone.
pub(crate) fn close(conn: Conn) {
    #[cfg(ngx_feature = "http_ssl")]
    if let Some(ssl) = tls_of(conn) {
        set_bit!(ssl: ngx_ssl_connection_t::set_no_wait_shutdown_raw, 1);
        set_bit!(ssl: ngx_ssl_connection_t::set_no_send_shutdown_raw, 1);
        if !shut_down(conn) {
            let handler: Option<unsafe extern "C" fn(*mut ngx_connection_t)> = Some(close_after_shutdown);
            set_field!(ssl.handler = handler);
            return;
        }
    }
    if let Some(pool) = conn.memory() {
        // SAFETY: the pool belongs to the connection, and nothing in it is used any more.
        unsafe { pool.destroy() };
    }
    // SAFETY: open by the type invariant; the function deletes its timers and its posted events.
    unsafe { ngx_close_connection(conn.as_ptr()) };
}

/// The TLS state of a connection, if it uses TLS.
#[cfg(ngx_feature = "http_ssl")]
fn tls_of(conn: Conn) -> Option<Live<ngx_ssl_connection_t>> {
    // SAFETY: null, or the TLS state, which lives as long as the connection or until the shutdown is complete.
    unsafe { Live::from_ptr(conn.ssl()) }
}

/// Shuts TLS down; `false` if that has to wait: then the TLS state remains, and its handler is called later.
#[cfg(ngx_feature = "http_ssl")]
fn shut_down(conn: Conn) -> bool {
    // SAFETY: an open connection with TLS.
    unsafe { ngx_ssl_shutdown(conn.as_ptr()) != NGX_AGAIN as isize }
}

/// nginx calls it when a TLS shutdown that had to wait is complete.
#[cfg(ngx_feature = "http_ssl")]
unsafe extern "C" fn close_after_shutdown(c: *mut ngx_connection_t) {
    // SAFETY: nginx passes the connection for which `close` has set this handler; it is still open.
    if let Some(conn) = unsafe { Conn::from_ptr(c) } {
        close(conn);
    }
}

/// Tells the server that TLS ends (`close_notify`), without waiting for its answer; the end of the stream follows.
/// `false` if it cannot be sent now.
#[cfg(ngx_feature = "http_ssl")]
pub(crate) fn say_goodbye(conn: Conn) -> bool {
    let Some(ssl) = tls_of(conn) else { return true };
    set_bit!(ssl: ngx_ssl_connection_t::set_no_wait_shutdown_raw, 1);
    shut_down(conn)
}

/// Opens a socket that is not connected to anything. `None` if there is no descriptor.
pub(crate) fn unused_socket() -> Option<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: opened just now, and nothing else has it.
    (fd != -1).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// At least as long as the text of any socket address, in bytes (`NGX_SOCKADDR_STRLEN`).
const ADDRESS_TEXT: usize = 128;

/// A socket address as text, with its port. Mirrors `ngx_sock_ntop()`.
#[cold]
pub(crate) fn address_text(address: &[u8]) -> String {
    let mut text = [0u8; ADDRESS_TEXT];
    // SAFETY: an address of this length, as a balancer has given it, which is only read; and memory of the size that nginx
    // uses for such texts.
    let length = unsafe {
        nginx_sys::ngx_sock_ntop(
            address.as_ptr().cast_mut().cast(),
            address.len() as _,
            text.as_mut_ptr(),
            text.len(),
            1,
        )
    };
    String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned()
}
