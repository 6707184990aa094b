//! A lock in shared memory, whose holder may be stopped, or killed.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::step;
use crate::base::clock::Msec;

/// A lock among processes: 0, or what tells the process that holds it from all others.
pub(super) struct Lock<'a>(&'a AtomicU64);

/// Who did not let go of the lock when it was waited for, and when that was.
pub(super) type Stuck = Cell<Option<(u64, Msec)>>;

/// So often it is looked whether the holder has let go, which takes it far less than a microsecond, before it may go on,
const LOOKS: usize = 100;

/// and so often it may go on, should it be waiting for this very processor.
const TURNS: usize = 50;

/// How long nobody waits again for a holder that did not let go, in milliseconds.
const PATIENCE: Msec = 1000;

impl<'a> Lock<'a> {
    /// Takes the lock for the process `me`, from one that was killed if need be. `None` if its holder is alive but does not
    /// let go of it, as when it was stopped: nobody can say when it will go on, so nobody waits for that.
    pub(super) fn take(
        lock: &'a AtomicU64,
        me: u64,
        now: Msec,
        stuck: &Stuck,
        is_gone: impl Fn(u64) -> bool,
    ) -> Option<Self> {
        step();
        let Err(holder) = lock.compare_exchange(0, me, Acquire, Relaxed) else { return Some(Self(lock)) };
        if stuck.get().is_some_and(|(who, then)| who == holder && now.wrapping_sub(then) < PATIENCE) {
            return None;
        }
        for _ in 0..TURNS {
            for _ in 0..LOOKS {
                std::hint::spin_loop();
                if lock.load(Relaxed) == 0 && lock.compare_exchange(0, me, Acquire, Relaxed).is_ok() {
                    return Some(Self(lock));
                }
            }
            std::thread::yield_now();
        }
        let holder = lock.load(Relaxed);
        // No two processes are told by the same number, so this one cannot come to hold it again meanwhile.
        if holder != 0 && is_gone(holder) && lock.compare_exchange(holder, me, Acquire, Relaxed).is_ok() {
            return Some(Self(lock));
        }
        stuck.set(Some((holder, now)));
        None
    }

    pub(super) fn let_go(self) {
        step();
        self.0.store(0, Release);
    }
}
