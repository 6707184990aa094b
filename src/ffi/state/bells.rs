//! Bells, by which one worker wakes another: each worker has an event descriptor (eventfd(2)), which all of them inherit.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::base::memory::push;
use crate::ffi::nginx::memory::or_fail;

/// The bells of all workers of a configuration.
#[derive(Default)]
pub(crate) struct Bells(Vec<OwnedFd>);

impl Bells {
    /// For a number of workers.
    ///
    /// # Errors
    /// If there are no descriptors, or no memory.
    pub(crate) fn new(workers: usize) -> std::io::Result<Self> {
        let mut bells = Vec::new();
        for _ in 0..workers {
            push(&mut bells, new_bell()?).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOMEM))?;
        }
        Ok(Self(bells))
    }

    /// Wakes a worker.
    pub(crate) fn ring(&self, worker: usize) {
        let one = 1u64;
        if let Some(bell) = self.0.get(worker) {
            // It fails only if the counter would exceed 2^64 - 2, and then the worker is woken anyway.
            // SAFETY: an open descriptor; pointer and length are those of the number.
            unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), size_of_val(&one)) };
        }
    }

    /// The descriptor of a worker's bell; it stays open as long as this lives.
    pub(crate) fn of(&self, worker: usize) -> Option<RawFd> {
        self.0.get(worker).map(AsRawFd::as_raw_fd)
    }
}

fn new_bell() -> std::io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = or_fail(-1, || unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) });
    if fd == -1 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
