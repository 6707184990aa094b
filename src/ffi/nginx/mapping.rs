//! Memory that workers share, or that each has for itself.

use std::ptr::{self, NonNull};

use crate::base::atomic::AtomicU64;
use crate::ffi::nginx::memory::or_fail;

/// Memory that child processes inherit, and share if it is not private.
pub(crate) struct Mapping {
    start: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: the memory is changed by atomic operations only, and belongs to no thread.
unsafe impl Send for Mapping {}

// SAFETY: the memory is changed by atomic operations only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps memory for `words` numbers, all zero.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn new(words: usize) -> std::io::Result<Self> {
        Self::map(words, libc::MAP_SHARED)
    }

    /// Maps memory for `words` numbers, all zero; each child process has memory of its own there. Nobody writes it before.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn private(words: usize) -> std::io::Result<Self> {
        Self::map(words, libc::MAP_PRIVATE)
    }

    fn map(words: usize, sharing: libc::c_int) -> std::io::Result<Self> {
        let length = words.max(1) * size_of::<AtomicU64>();
        // SAFETY: maps new memory at an address of the system's choice.
        let start = or_fail(libc::MAP_FAILED, || unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_ANONYMOUS | sharing,
                -1,
                0,
            )
        });
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start: start.cast(), length }),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// The memory as numbers. Its users end before the mapping: a ledger belongs to the same cycle, and does not touch
    /// its table when it is dropped; a generation owns its mapping; in a worker, where requests and connections point at
    /// their numbers, no cycle ends before them.
    pub(crate) fn words(&self) -> &'static [AtomicU64] {
        // SAFETY: mapped by `map`, page-aligned, zeroed by the system, and changed by atomic operations only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length / size_of::<AtomicU64>()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`; the users of the numbers have ended, as the comment of `words` explains.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
