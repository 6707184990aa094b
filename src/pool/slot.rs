//! A slot: a place for a connection in the pool, with its links in the lists.
#![forbid(unsafe_code)]

use super::groups::GroupRef;
use super::ring::{Aging, InRing};
use crate::base::clock::Msec;
use crate::base::list::{Neighbours, Node};

#[derive(Debug)]
pub(super) struct Slot<C> {
    /// The connection that is stored, or was lent.
    pub(super) conn: Option<C>,
    /// When it was stored.
    pub(super) since: Msec,
    /// How long it may stay idle, in milliseconds, and [`STORED`].
    state: u32,
    /// Its group.
    pub(super) group: GroupRef,
    /// In the list of the group, or of the free slots.
    pub(super) in_group: Neighbours,
    pub(super) in_ring: Neighbours,
}

/// The connection is stored. Otherwise the slot is free.
const STORED: u32 = 1 << 31;

/// The longest timeout: nearly 25 days. After so long, a connection with a longer one counts as one that expires soon.
const MAX_TIMEOUT: Msec = STORED as Msec - 1;

impl<C> Slot<C> {
    /// Whether the connection is stored. Otherwise the slot is free.
    #[inline(always)]
    pub(super) fn is_idle(&self) -> bool {
        self.state & STORED != 0
    }

    /// The connection, if it is stored.
    #[inline]
    pub(super) fn idle(&self) -> Option<&C> {
        self.conn.as_ref().filter(|_| self.is_idle())
    }

    /// The connection is stored from now on.
    #[inline(always)]
    pub(super) fn begin(&mut self, now: Msec, timeout: Msec) {
        self.since = now;
        self.state = timeout.min(MAX_TIMEOUT) as u32 | STORED;
    }

    /// The connection is not stored any more.
    #[inline(always)]
    pub(super) fn end(&mut self) {
        self.state &= !STORED;
    }

    /// A stored connection may expire at once.
    pub(super) fn let_expire(&mut self) {
        self.state = STORED;
    }
}

/// The kind of the lists by group.
#[derive(Debug)]
pub(super) struct InGroup;

impl<C> Node<InGroup> for Slot<C> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_group
    }
}

impl<C> Node<InRing> for Slot<C> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_ring
    }
}

impl<C> Aging for Slot<C> {
    fn about_to_expire(&self, now: Msec) -> bool {
        let timeout = self.state & !STORED;
        let ripe = self.since.wrapping_add((timeout - timeout / 8) as Msec);
        // The clock wraps around, so the sign of the difference tells which time is earlier.
        now.wrapping_sub(ripe) as isize >= 0
    }

    fn since(&self) -> Msec {
        self.since
    }
}

impl<C> Default for Slot<C> {
    fn default() -> Self {
        Self {
            conn: None,
            since: 0,
            state: 0,
            group: GroupRef::default(),
            in_group: Neighbours::default(),
            in_ring: Neighbours::default(),
        }
    }
}
