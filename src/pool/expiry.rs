//! When idle connections expire.
//!
//! Most may be idle equally long, the usual time. For these the pool has one timer, and a queue of slots: a slot whose connection is
//! stored comes to its end, unless it is in it already. There it stays for the usual time, or six days if that is longer, whatever becomes
//! of its connection. Then it is looked at. If its connection was not used meanwhile, it has expired; otherwise it has some time left, which is
//! measured by a timer of its own.
//!
//! So a connection that is used often is looked at once in that time, and nothing is to be done when it is used.
#![forbid(unsafe_code)]

use super::fifo::Queued;
use super::slot::Slot;
use super::{Connection, IdlePool};
use crate::base::clock::Msec;
use crate::base::list::Link;

/// When a connection that is stored now expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// After the usual time of the pool: [`IdlePool::next_due`] tells.
    Usual,
    /// After another time, in milliseconds, which the caller measures.
    Other(Msec),
}

/// What is to be done about connections with the usual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due<C> {
    /// The time of this connection in this slot is over.
    Expired(u32, C),
    /// This connection has so many milliseconds left, which the caller measures.
    Left(C, Msec),
    /// There is none before so many milliseconds.
    Later(Msec),
    /// There is none.
    Never,
}

impl Expiry {
    /// After `time` milliseconds, but not later than after the `usual` time.
    pub fn after(time: Msec, usual: Msec) -> Self {
        if time < usual {
            Self::Other(time)
        } else {
            Self::Usual
        }
    }

    /// The time, in milliseconds.
    pub fn time(self, usual: Msec) -> Msec {
        match self {
            Self::Usual => usual,
            Self::Other(time) => time,
        }
    }
}

impl<C> Queued for Slot<C> {
    fn newer(&mut self) -> &mut Link {
        &mut self.looked_at_after
    }
}

impl<C: Connection> IdlePool<C> {
    /// After how long a slot is looked at, in milliseconds.
    pub fn period(&self) -> Msec {
        self.usual.min(Slot::<C>::MAX_TIMEOUT)
    }

    /// A slot will be looked at that was not to be looked at yet.
    #[cold]
    #[inline(never)]
    pub(super) fn watch(&mut self, at: Link, now: Msec) {
        self.slots[at as usize].watch(now);
        self.watched.push(&mut self.slots, at);
    }
}

impl<C: Connection + Copy> IdlePool<C> {
    /// What is to be done first at the time `now` about the connections with the usual time. To be called again until it is
    /// [`Due::Later`] or [`Due::Never`].
    #[cold]
    pub fn next_due(&mut self, now: Msec) -> Due<C> {
        while let Some(slot) = self.slots.get(self.watched.oldest() as usize) {
            let left = slot.watch_left(now, self.period());
            if left > 0 {
                return Due::Later(left);
            }
            let Some(at) = self.watched.pop(&mut self.slots) else { break };
            let slot = &mut self.slots[at as usize];
            slot.end_watch();
            let Some(conn) = slot.usual().copied() else { continue };
            let age = now.wrapping_sub(slot.since);
            return match self.usual.saturating_sub(age) {
                0 => Due::Expired(at, conn),
                left => Due::Left(conn, left),
            };
        }
        Due::Never
    }
}
