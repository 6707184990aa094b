//! A lock in shared memory.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A lock among processes: 0, or the number of the worker that holds it, plus 1.
pub(super) struct Lock<'a>(&'a AtomicU64);

impl<'a> Lock<'a> {
    pub(super) fn take(lock: &'a AtomicU64, holder: u64) -> Self {
        while (0..1000).all(|_| {
            std::hint::spin_loop();
            lock.compare_exchange(0, holder, SeqCst, SeqCst).is_err()
        }) {
            std::thread::yield_now();
        }
        Self(lock)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.store(0, SeqCst);
    }
}
