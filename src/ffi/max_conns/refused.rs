//! A connection that has come from another worker, counts at a limited server, and cannot be used. Like others to such a server
//! it is closed in two steps (see [`super::linger`]), but it is only a descriptor: this worker may have no connection for it.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::base::clock::Msec;
use crate::base::memory::push;
use crate::ledger::Server;

use crate::ffi::nginx::process::{elapsed, now};
use crate::ffi::state::upstream::{Refused, Upstream};

use super::linger::TIMEOUT;
use super::slots::release_slot;

/// How many are closed in this way at a time. Others are closed at once.
const MOST: usize = 64;

/// How often to check whether servers have closed them too, in milliseconds.
const INTERVAL: Msec = 5;

/// Begins to close a connection, and releases its slot once the server has closed it too.
pub(crate) fn refuse(upstream: &Upstream, fd: OwnedFd, server: Server) {
    // SAFETY: an open descriptor.
    let connected = unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) } == 0;
    if connected && !upstream.is_ending() {
        let refused = Refused { fd, server, since: now() };
        let kept = upstream.refused.with(|all| (all.len() < MOST).then(|| push(all, refused)).flatten());
        if kept.flatten().is_some() {
            upstream.counts.add_lingering(server);
            return upstream.dispatch_soon(INTERVAL);
        }
    } else {
        drop(fd);
    }
    release_slot(upstream, server);
}

/// Closes those connections that their servers have closed, or have not closed in time.
pub(crate) fn close_refused(upstream: &Upstream) {
    let is_over = |refused: &Refused| {
        upstream.is_ending() || elapsed(refused.since) >= TIMEOUT || has_ended(&refused.fd)
    };
    let next = || {
        upstream.refused.with(|all| {
            let at = all.iter().position(is_over)?;
            Some(all.swap_remove(at).server)
        })
    };
    while let Some(server) = next().flatten() {
        if let Some(ledger) = upstream.counts.ledger.get() {
            ledger.remove_lingering(server);
        }
        release_slot(upstream, server);
    }
    if upstream.refused.with(|all| !all.is_empty()).unwrap_or(false) {
        upstream.dispatch_soon(INTERVAL);
    }
}

/// Whether there is the end of the stream, or anything else, to read.
fn has_ended(fd: &OwnedFd) -> bool {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: an open descriptor; one byte is read into a variable of one byte.
    let n = unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
    n != -1 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)
}
