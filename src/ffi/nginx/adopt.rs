//! A connection comes from another process as a descriptor, or leaves this process without being closed for the server.

use std::ffi::{c_int, c_void, OsStr};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use nginx_sys::{
    ngx_atomic_t, ngx_close_connection, ngx_connection_counter,
    ngx_connection_log_error_e_NGX_ERROR_ERR as ERROR_ERR, ngx_connection_t,
    ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_DISABLED as NODELAY_DISABLED,
    ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_SET as NODELAY_SET,
    ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED as NOPUSH_DISABLED, ngx_create_pool,
    ngx_event_actions, ngx_event_t, ngx_get_connection, ngx_int_t, ngx_io, ngx_msec_t, ngx_uint_t, NGX_OK,
};

use crate::base::clock::Msec;

use super::conn::Conn;
use super::handle::{get_bit, get_bits, get_field, set_bit, set_field, Handle as _};
use super::memory::or_fail;
use super::process::{cycle_log, Cycle};

/// The size of the first block of a connection's memory pool, as the core makes it.
const POOL_SIZE: usize = 128;

/// What a connection brings along.
pub(crate) struct Luggage {
    pub(crate) requests: usize,
    pub(crate) opened: Msec,
    pub(crate) nodelay: bool,
}

/// Makes a connection of a descriptor, as `ngx_event_connect_peer()` and the core do.
///
/// # Errors
/// If this worker has no connection for it, the descriptor. If there is no memory, nothing: it was closed.
pub(crate) fn adopt(fd: OwnedFd, luggage: &Luggage) -> Result<Conn, Option<OwnedFd>> {
    let cycle = Cycle::current();
    // A worker with fewer is short of connections: its pools give some up, before nginx closes clients.
    let reserve = get_field!(cycle.connection_n) / 8;
    let domain = number_of(fd.as_raw_fd(), libc::SO_DOMAIN);
    if get_field!(cycle.free_connection_n) <= reserve || domain.is_none() {
        return Err(Some(fd));
    }
    let log = cycle_log();
    // SAFETY: an open descriptor; there are free connections.
    let conn = or_fail(std::ptr::null_mut(), || unsafe { ngx_get_connection(fd.as_raw_fd(), log) });
    // SAFETY: null, or the connection that nginx has made, which is open.
    let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else { return Err(Some(fd)) };
    // nginx closes it from here on.
    let _ = fd.into_raw_fd();
    set_up(conn, luggage, domain == Some(libc::AF_UNIX));
    // SAFETY: the log of the cycle is live.
    let pool = or_fail(std::ptr::null_mut(), || unsafe { ngx_create_pool(POOL_SIZE, log) });
    set_field!(conn.pool = pool);
    conn.set_logs(log);
    if pool.is_null() || !register(conn) {
        super::socket::close(conn);
        return Err(None);
    }
    Ok(conn)
}

fn set_up(conn: Conn, luggage: &Luggage, is_unix: bool) {
    // SAFETY: a global of nginx, which is set before there are connections.
    let io = unsafe { ngx_io };
    set_field!(conn.type_ = libc::SOCK_STREAM);
    set_field!(conn.recv = io.recv);
    set_field!(conn.send = io.send);
    set_field!(conn.recv_chain = io.recv_chain);
    set_field!(conn.send_chain = io.send_chain);
    set_field!(conn.requests = luggage.requests as ngx_uint_t);
    set_field!(conn.start_time = luggage.opened as ngx_msec_t);
    set_field!(conn.number = next_number());
    set_bit!(conn: ngx_connection_t::set_sendfile_raw, 1);
    set_bit!(conn: ngx_connection_t::set_log_error_raw, ERROR_ERR);
    if is_unix {
        set_bit!(conn: ngx_connection_t::set_tcp_nopush_raw, NOPUSH_DISABLED);
        set_bit!(conn: ngx_connection_t::set_tcp_nodelay_raw, NODELAY_DISABLED);
    } else if luggage.nodelay {
        set_bit!(conn: ngx_connection_t::set_tcp_nodelay_raw, NODELAY_SET);
    }
    let write = conn.write();
    set_bit!(write: ngx_event_t::set_ready_raw, 1);
}

/// A number that no other connection has in any process. Mirrors `ngx_atomic_fetch_add(ngx_connection_counter, 1)`.
fn next_number() -> u64 {
    // SAFETY: a global of nginx, which points at a number in shared memory or in this process.
    let counter: *mut ngx_atomic_t = unsafe { ngx_connection_counter };
    // SAFETY: an aligned number, which all processes change by atomic operations only.
    let counter = unsafe { std::sync::atomic::AtomicUsize::from_ptr(counter.cast()) };
    // Only unique: nothing is read because of the number.
    counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as u64
}

/// Whether connections can be registered and unregistered as a whole, without closing them.
pub(crate) fn can_register() -> bool {
    // SAFETY: a global of nginx, which the event module has set when the process was initialised.
    let actions = unsafe { ngx_event_actions };
    actions.add_conn.is_some() && actions.del_conn.is_some()
}

/// Has nginx watch the socket of a connection. Mirrors `ngx_add_conn()`.
fn register(conn: Conn) -> bool {
    // SAFETY: a global of nginx, which the event module has set when the process was initialised.
    let Some(add) = (unsafe { ngx_event_actions.add_conn }) else { return false };
    // SAFETY: an open connection that is not registered.
    let rc = or_fail(-1, || unsafe { add(conn.as_ptr()) });
    rc == NGX_OK as ngx_int_t
}

/// Closes this process' descriptor of a connection that another process has got too. The socket stays open, so it must be
/// unregistered: otherwise this process would get its events.
pub(crate) fn let_go(conn: Conn) {
    // SAFETY: a global of nginx, which the event module has set when the process was initialised.
    if let Some(del) = unsafe { ngx_event_actions.del_conn } {
        // SAFETY: an open connection. Without `NGX_CLOSE_EVENT` the kernel is told too.
        unsafe { del(conn.as_ptr(), 0) };
    }
    conn.set_idle(false);
    if let Some(pool) = conn.memory() {
        // SAFETY: the pool belongs to the connection, and nothing in it is used any more.
        unsafe { pool.destroy() };
    }
    // SAFETY: open by the type invariant; the function deletes its timers and its posted events.
    unsafe { ngx_close_connection(conn.as_ptr()) };
}

impl Conn {
    /// Whether nothing but its socket belongs to the connection: no TLS, and no state of a protocol module.
    pub(crate) fn is_bare(self) -> bool {
        #[cfg(ngx_feature = "http_ssl")]
        if !self.ssl().is_null() {
            return false;
        }
        self.memory().is_some_and(|pool| get_field!(pool.cleanup).is_null())
    }

    /// Whether the option TCP_NODELAY is set.
    pub(crate) fn has_nodelay(self) -> bool {
        get_bits!(self: ngx_connection_t::tcp_nodelay_raw) == NODELAY_SET
    }

    /// When the timer of its read event expires.
    pub(crate) fn deadline(self) -> Option<Msec> {
        let read = self.read();
        get_bit!(read: ngx_event_t::timer_set_raw).then(|| get_field!(read.timer.key))
    }
}

/// What is wrong with a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is not a socket that is connected to this server.
    Other,
    /// The server has closed it, or has sent something.
    NotSilent,
}

/// Whether a socket is connected to `address`.
pub(crate) fn leads_to(fd: RawFd, address: &[u8]) -> bool {
    is_same(name_of(fd, libc::getpeername), address, false)
}

/// Checks that a descriptor is a connection to `address`, from `local` if that is not empty, and that there is nothing to read.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verify(fd: RawFd, address: &[u8], local: &[u8]) -> Result<(), Unfit> {
    if number_of(fd, libc::SO_TYPE) != Some(libc::SOCK_STREAM) {
        return Err(Unfit::Other);
    }
    let Some(peer) = name_of(fd, libc::getpeername) else {
        let has_been_reset = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOTCONN);
        return Err(if has_been_reset { Unfit::NotSilent } else { Unfit::Other });
    };
    if !is_same(Some(peer), address, false) {
        return Err(Unfit::Other);
    }
    if !local.is_empty() && !is_same(name_of(fd, libc::getsockname), local, true) {
        return Err(Unfit::Other);
    }
    // SAFETY: an open descriptor, and a command without an argument.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags == -1 || flags & libc::O_NONBLOCK == 0 {
        return Err(Unfit::Other);
    }
    if number_of(fd, libc::SO_ERROR) != Some(0) {
        return Err(Unfit::NotSilent);
    }
    let mut byte = 0u8;
    // SAFETY: an open socket; one byte is read into a variable of one byte.
    let n = unsafe { libc::recv(fd, (&raw mut byte).cast::<c_void>(), 1, libc::MSG_PEEK) };
    let is_silent = n == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN);
    is_silent.then_some(()).ok_or(Unfit::NotSilent)
}

/// A socket address.
#[repr(C, align(8))]
struct Name {
    bytes: [u8; 128],
    length: usize,
}

impl Name {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// The type of getpeername(2) and getsockname(2).
type Ask = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

fn name_of(fd: RawFd, ask: Ask) -> Option<Name> {
    let mut name = Name { bytes: [0; 128], length: 0 };
    let mut length = name.bytes.len() as libc::socklen_t;
    // SAFETY: an open descriptor; the buffer is aligned, and has as many bytes as `length` says.
    let rc = unsafe { ask(fd, name.bytes.as_mut_ptr().cast(), &raw mut length) };
    name.length = length as usize;
    (rc == 0).then_some(name)
}

/// Whether the name of a socket is `address`: of its peer, or with `is_local` its own, of which `address` can leave parts open.
fn is_same(name: Option<Name>, address: &[u8], is_local: bool) -> bool {
    let Some(name) = name else { return false };
    let name = name.bytes();
    let family = address.first_chunk().map(|bytes| c_int::from(u16::from_ne_bytes(*bytes)));
    let equal = |range: std::ops::Range<usize>| {
        address.get(range.clone()).is_some_and(|wanted| name.get(range) == Some(wanted))
    };
    let is_any = |range: std::ops::Range<usize>| {
        address.get(range).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    };
    let has_equal_port = || equal(2..4) || (is_local && is_any(2..4));
    // Who binds to no address, has the one that leads to the server. Who connects to no address, connects to this machine.
    let is_loopback = |range: std::ops::Range<usize>, loopback: &[u8]| {
        is_any(range.clone()) && (is_local || name.get(range) == Some(loopback))
    };
    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
    const LOOPBACK6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    name.first_chunk::<2>() == address.first_chunk::<2>()
        && match family {
            Some(libc::AF_INET) => has_equal_port() && (equal(4..8) || is_loopback(4..8, &LOOPBACK)),
            // The address, and the number of its interface.
            Some(libc::AF_INET6) => {
                has_equal_port() && equal(24..28) && (equal(8..24) || is_loopback(8..24, &LOOPBACK6))
            }
            Some(libc::AF_UNIX) => is_same_file(path_of(name), path_of(address)),
            _ => false,
        }
}

/// The path in the address of a unix socket. nginx's addresses have zeros behind it, the kernel's end with it.
fn path_of(address: &[u8]) -> &[u8] {
    let path = address.get(2..).unwrap_or(&[]);
    path.iter().position(|byte| *byte == 0).map_or(path, |end| path.split_at(end).0)
}

/// Whether two paths lead to the same file: one may go through a symbolic link.
fn is_same_file(one: &[u8], other: &[u8]) -> bool {
    let identify = |path: &[u8]| {
        let file = std::fs::metadata(OsStr::from_bytes(path)).ok()?;
        Some((file.dev(), file.ino()))
    };
    !one.is_empty() && (one == other || identify(one).is_some_and(|file| Some(file) == identify(other)))
}

/// The value of an option of a socket that is a number.
fn number_of(fd: RawFd, option: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: an open descriptor; pointer and length are those of the number.
    let rc =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut length) };
    (rc == 0).then_some(value)
}
