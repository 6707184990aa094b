//! The functions of a stream's connection that stand in the place of a socket's: the core reads and writes the request and
//! the response as ever, and the carrier makes frames of it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::OnceLock;

use nginx_sys::{ngx_chain_t, ngx_connection_t, off_t, u_char, NGX_AGAIN, NGX_ERROR};

use crate::http2::carrier::{Failure, Read};

use crate::ffi::nginx::buf::{Buf, Chain};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::log::error_text;
use crate::ffi::nginx::socket::unused_socket;
use crate::ffi::state::carrier::Ride;
use crate::ffi::state::stream::{Functions, Stream, StreamRef};

/// The functions of every stream's connection.
pub(super) const FUNCTIONS: Functions = Functions {
    recv: Some(recv),
    recv_chain: Some(recv_chain),
    send: Some(send),
    send_chain: Some(send_chain),
};

/// What nginx's functions return instead of a number of bytes.
const AGAIN: isize = NGX_AGAIN as isize;
const ERROR: isize = NGX_ERROR as isize;

/// A socket that is valid and has no error, and that nobody uses: the core asks a connection's socket whether it has failed.
/// One for each worker. `None` if there is no descriptor.
pub(super) fn dummy_socket() -> Option<libc::c_int> {
    static SOCKET: OnceLock<OwnedFd> = OnceLock::new();
    if SOCKET.get().is_none() {
        // Only one thread of a worker comes here.
        let _ = SOCKET.set(unused_socket()?);
    }
    SOCKET.get().map(|socket| socket.as_raw_fd())
}

/// Mirrors `ngx_unix_recv()`.
unsafe extern "C" fn recv(conn: *mut ngx_connection_t, buffer: *mut u_char, size: usize) -> isize {
    // SAFETY: nginx passes the connection that `board` has given this function.
    let Some(stream) = (unsafe { StreamRef::of(conn) }) else { return ERROR };
    // SAFETY: the caller passes a buffer of this size, which nothing else uses meanwhile.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, size) };
    guard(ERROR, || read(&stream, buffer))
}

/// Mirrors `ngx_readv_chain()`: fills the buffers of a chain, but does not advance them.
unsafe extern "C" fn recv_chain(conn: *mut ngx_connection_t, chain: *mut ngx_chain_t, limit: off_t) -> isize {
    // SAFETY: nginx passes the connection that `board` has given this function.
    let Some(stream) = (unsafe { StreamRef::of(conn) }) else { return ERROR };
    let mut left = if limit > 0 { usize::try_from(limit).unwrap_or(usize::MAX) } else { usize::MAX };
    guard(ERROR, || {
        let mut total = 0;
        // SAFETY: nginx passes a chain of buffers in memory, which nothing else uses meanwhile.
        for buf in unsafe { Chain::new(chain) } {
            let free = buf.free();
            let length = free.len().min(left);
            let Some(free) = free.get_mut(..length).filter(|free| !free.is_empty()) else { break };
            match read(&stream, free) {
                read @ 1.. => {
                    total += read;
                    left -= read as usize;
                    if (read as usize) < length {
                        break;
                    }
                }
                _ if total > 0 => break,
                other => return other,
            }
        }
        total
    })
}

/// Reads what has come for the stream, and notes in the read event how it goes on.
fn read(stream: &Stream, buffer: &mut [u8]) -> isize {
    let event = stream.conn().read();
    let Some(ride) = stream.ride.borrow().clone() else { return ERROR };
    let (state, key) = (&ride.carrier.state, ride.key);
    let Some((read, is_more, has_output)) = state.with(|state| {
        let read = state.read(key, buffer);
        (read, state.is_readable(key), !state.output().is_empty())
    }) else {
        return ERROR;
    };
    if has_output && !ride.carrier.turn.is_posted() {
        ride.carrier.turn.post();
    }
    match read {
        Read::Bytes(length) => {
            if !is_more {
                event.clear_ready();
            }
            length as isize
        }
        Read::Pending => {
            event.clear_ready();
            AGAIN
        }
        Read::End => {
            event.set_eof();
            0
        }
        Read::Failed(failure) => {
            event.set_error();
            tell(stream, &failure);
            ERROR
        }
    }
}

/// Says why a stream has failed.
#[cold]
fn tell(stream: &Stream, failure: &Failure) {
    // A request that is sent again over another connection has not failed.
    if !matches!(failure, Failure::Refused) {
        error_text(stream.conn(), format_args!("upstream HTTP/2 stream failed: {failure}"));
    }
}

/// Mirrors `ngx_unix_send()`.
unsafe extern "C" fn send(conn: *mut ngx_connection_t, buffer: *mut u_char, size: usize) -> isize {
    // SAFETY: nginx passes the connection that `board` has given this function.
    let Some(stream) = (unsafe { StreamRef::of(conn) }) else { return ERROR };
    // SAFETY: the caller passes a buffer of this size, which nothing writes meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(buffer, size) };
    guard(ERROR, || match ride(&stream).and_then(|ride| write(&stream, &ride, bytes)) {
        None => ERROR,
        Some(0) if size > 0 => AGAIN,
        Some(taken) => taken as isize,
    })
}

/// Mirrors `ngx_writev_chain()`: sends as much of the chain as the carrier takes, advances its buffers, and returns what is
/// left. Files are read here: there is no socket to which the kernel could send them.
unsafe extern "C" fn send_chain(
    conn: *mut ngx_connection_t,
    chain: *mut ngx_chain_t,
    limit: off_t,
) -> *mut ngx_chain_t {
    let failed = std::ptr::without_provenance_mut(ERROR as usize);
    // SAFETY: nginx passes the connection that `board` has given this function.
    let Some(stream) = (unsafe { StreamRef::of(conn) }) else { return failed };
    let mut left = if limit > 0 { usize::try_from(limit).unwrap_or(usize::MAX) } else { usize::MAX };
    guard(failed, || {
        let Some(ride) = ride(&stream) else { return failed };
        // SAFETY: nginx passes a chain of buffers to be sent, which nothing else uses meanwhile.
        let mut rest = unsafe { Chain::new(chain) };
        while let Some(buf) = rest.first() {
            match send_buf(&stream, &ride, buf, &mut left) {
                None => return failed,
                Some(true) => rest.advance(),
                Some(false) => break,
            }
        }
        rest.as_ptr()
    })
}

/// Sends a buffer, and advances it. Returns whether all of it was sent; `None` on failure.
fn send_buf(stream: &Stream, ride: &Ride, buf: Buf, left: &mut usize) -> Option<bool> {
    while *left > 0 && !buf.is_sent() {
        let (length, taken) = match buf.is_in_memory() {
            true => write_part(stream, ride, buf.bytes(), *left)?,
            false => write_file(stream, ride, buf, *left)?,
        };
        buf.advance(taken);
        *left -= taken;
        if taken < length {
            return Some(false);
        }
    }
    Some(buf.is_sent())
}

/// Gives the carrier at most `most` bytes. Returns how many these are, and how many it has taken.
fn write_part(stream: &Stream, ride: &Ride, bytes: &[u8], most: usize) -> Option<(usize, usize)> {
    let bytes = bytes.get(..bytes.len().min(most)).unwrap_or_default();
    Some((bytes.len(), write(stream, ride, bytes)?))
}

/// The same with a piece of a file.
#[inline(never)]
fn write_file(stream: &Stream, ride: &Ride, buf: Buf, most: usize) -> Option<(usize, usize)> {
    let mut space = [0; FILE_PIECE];
    write_part(stream, ride, buf.read_file(&mut space)?, most)
}

/// How much of a file is read at a time, in bytes: the payload of a frame.
const FILE_PIECE: usize = 16_384;

fn ride(stream: &Stream) -> Option<Ride> {
    stream.ride.borrow().clone()
}

/// Gives the carrier bytes of the request. Returns how many it has taken; `None` on failure.
fn write(stream: &Stream, ride: &Ride, bytes: &[u8]) -> Option<usize> {
    let conn = stream.conn();
    let taken = ride.carrier.state.with(|state| state.send(ride.key, bytes))?;
    if !ride.carrier.turn.is_posted() {
        ride.carrier.turn.post();
    }
    match taken {
        Ok(taken) => {
            if taken < bytes.len() {
                conn.write().clear_ready();
            }
            conn.count_sent(taken);
            Some(taken)
        }
        Err(failure) => {
            conn.write().set_error();
            tell(stream, &failure);
            None
        }
    }
}
