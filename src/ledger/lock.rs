//! A lock in shared memory. Its holder may be stopped or killed.
//!
//! Taking it acquires what the holder before has released. What a killed holder has written is visible to the process that finds
//! it gone: the kernel's own locks are in between.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::step;
use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;

/// A lock that is held. The word is 0 if nobody holds it, otherwise the [identity](Ledger::identity) of its holder.
pub(super) struct Lock<'a>(&'a AtomicU64);

/// The holder that did not release the lock in time, and when this worker waited for it.
pub(super) type Stuck = Cell<Option<(u64, Msec)>>;

/// How often the lock is tried before the processor is yielded. A holder needs it for far less than a microsecond.
const SPINS: usize = if cfg!(loom) { 1 } else { 100 };

/// How often the processor is yielded: the holder may be waiting for this processor.
const YIELDS: usize = if cfg!(loom) { 1 } else { 50 };

/// For how long this worker does not wait again for a holder that did not release the lock, in milliseconds.
const RETRY_INTERVAL: Msec = 1000;

impl<'a> Lock<'a> {
    /// Takes the lock for the process `me`, if necessary from a holder that was killed. `None` if the holder is alive but does
    /// not release the lock, for example because it was stopped: nobody knows when it continues, so nobody waits for that.
    pub(super) fn take(
        lock: &'a AtomicU64,
        me: u64,
        now: Msec,
        stuck: &Stuck,
        is_gone: impl Fn(u64) -> bool,
    ) -> Option<Self> {
        step();
        let Err(holder) = lock.compare_exchange(0, me, Acquire, Relaxed) else { return Some(Self(lock)) };
        if stuck.get().is_some_and(|(who, then)| who == holder && now.wrapping_sub(then) < RETRY_INTERVAL) {
            return None;
        }
        for _ in 0..YIELDS {
            for _ in 0..SPINS {
                std::hint::spin_loop();
                if lock.load(Relaxed) == 0 && lock.compare_exchange(0, me, Acquire, Relaxed).is_ok() {
                    return Some(Self(lock));
                }
            }
            std::thread::yield_now();
        }
        let holder = lock.load(Relaxed);
        // Each process has an identity of its own, so this holder cannot take the lock again meanwhile.
        if holder != 0 && is_gone(holder) && lock.compare_exchange(holder, me, Acquire, Relaxed).is_ok() {
            return Some(Self(lock));
        }
        stuck.set(Some((holder, now)));
        None
    }

    /// Releases the lock.
    pub(super) fn release(self) {
        step();
        self.0.store(0, Release);
    }
}
