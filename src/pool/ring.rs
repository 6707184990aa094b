//! Which connection is evicted when the pool is full.
//!
//! Plain LRU, as in nginx's own module, has a cliff: with one server more than the pool has room for, each
//! new connection evicts exactly the connection that is needed next, and none is ever reused. So
//! a full ring has *members*, evicted by age, and one seat for a *guest*:
//!
//! 1. A member about to expire is evicted first; it would hardly be used again.
//! 2. A connection that has been reused before becomes a member. The guest is evicted for it, or
//!    the oldest member if there is no guest.
//! 3. A connection that has never been reused becomes the guest. The previous guest is evicted for it, or
//!    the oldest member if there is no guest. A guest that is reused becomes a member when it returns.
//! 4. Every eighth of those that find a guest becomes a member at once, so that the members change with the load.
//!
//! While there is room, no connection is evicted and all are members: the ordinary case is plain LRU.
#![forbid(unsafe_code)]

use crate::base::clock::Msec;
use crate::base::list::{Link, List, Node, NONE};

/// One in this many newcomers becomes a member although it was never reused.
const ADMIT_EVERY: u32 = 8;

/// The kind of the lists by age.
#[derive(Debug)]
pub(super) struct InRing;

/// What the rule must know about a connection in the ring.
pub(super) trait Aging: Node<InRing> {
    /// Whether it expires so soon that it should be evicted first.
    fn about_to_expire(&self, now: Msec) -> bool;

    /// When it was stored.
    fn since(&self) -> Msec;
}

/// The connections that share one limit.
#[derive(Debug)]
pub(super) struct Ring {
    members: List<InRing>,
    guest: Link,
    len: usize,
    newcomers: u32,
}

/// The seat of a connection in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    Member,
    Guest,
}

impl Default for Ring {
    fn default() -> Self {
        Self { members: List::default(), guest: NONE, len: 0, newcomers: 0 }
    }
}

impl Ring {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns which connection of a full ring is to be evicted, and the seat of the new one.
    pub(super) fn choose(&mut self, slots: &[impl Aging], reused: bool, now: Msec) -> (Link, Seat) {
        let oldest = self.members.oldest();
        let Some(slot) = slots.get(oldest as usize) else { return (self.guest, Seat::Guest) };
        if slot.about_to_expire(now) {
            return (oldest, Seat::Member);
        }
        if reused {
            return (if self.guest == NONE { oldest } else { self.guest }, Seat::Member);
        }
        if self.guest == NONE {
            return (oldest, Seat::Guest);
        }
        self.newcomers = (self.newcomers + 1) % ADMIT_EVERY;
        if self.newcomers == 0 {
            (oldest, Seat::Member)
        } else {
            (self.guest, Seat::Guest)
        }
    }

    /// The connection that has been idle longest.
    pub(super) fn oldest(&self, slots: &[impl Aging]) -> Link {
        let member = self.members.oldest();
        let since = |at: Link| slots.get(at as usize).map(Aging::since);
        match (since(member), since(self.guest)) {
            // The clock wraps around, so the sign of the difference tells which time is earlier.
            (Some(member), Some(guest)) if (guest.wrapping_sub(member) as isize) < 0 => self.guest,
            (None, _) => self.guest,
            _ => member,
        }
    }

    #[inline]
    pub(super) fn insert(&mut self, slots: &mut [impl Aging], at: Link, seat: Seat) {
        self.len += 1;
        match seat {
            Seat::Member => self.members.push(slots, at),
            Seat::Guest => self.guest = at,
        }
    }

    /// Makes a connection in the ring the oldest member.
    pub(super) fn put_last(&mut self, slots: &mut [impl Aging], at: Link) {
        if self.guest == at {
            self.guest = NONE;
        } else {
            self.members.unlink(slots, at);
        }
        self.members.push_oldest(slots, at);
    }

    #[inline]
    pub(super) fn remove(&mut self, slots: &mut [impl Aging], at: Link) {
        self.len -= 1;
        if self.guest == at {
            self.guest = NONE;
        } else {
            self.members.unlink(slots, at);
        }
    }
}
