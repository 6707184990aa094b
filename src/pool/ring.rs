//! Which connection has to go when the pool is full.
//!
//! Plain LRU, as in the stock module, has a cliff: with one server more than there is room, each
//! newcomer evicts just the connection that is needed next, and nothing is ever reused. So here a
//! full ring has *members*, evicted by age as ever, and one seat for a *guest*:
//!
//! 1. A member about to expire goes first; it would hardly be used again.
//! 2. A connection that has been reused before becomes a member. The guest makes room for it, or
//!    else the oldest member.
//! 3. A connection that has never been reused becomes the guest, in the place of the last guest, or
//!    of the oldest member if there is none. A guest that is reused becomes a member when it returns.
//! 4. Every eighth newcomer becomes a member at once, so that the members change with the load.
//!
//! While there is room nobody is evicted and everybody is a member: the ordinary case is plain LRU.
#![forbid(unsafe_code)]

use crate::base::clock::Msec;

use crate::base::list::{Link, List, Node, NONE};

/// One newcomer in so many is made a member although it was never reused.
const ADMIT_EVERY: u32 = 8;

/// The kind of the lists by age.
#[derive(Debug)]
pub(super) struct InRing;

/// What the rule has to know of a connection in the ring.
pub(super) trait Aging: Node<InRing> {
    /// Whether it would expire so soon that it should go first.
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

/// Where a connection sits.
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

    /// Says which connection of a full ring makes room, and what the one that comes becomes.
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

    /// The connection that is idle for longest.
    pub(super) fn oldest(&self, slots: &[impl Aging]) -> Link {
        let member = self.members.oldest();
        let since = |at: Link| slots.get(at as usize).map(Aging::since);
        match (since(member), since(self.guest)) {
            // The clock wraps around, so the sign of the difference tells which comes first.
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
