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
    /// Whether it is stored. Otherwise the slot is free.
    pub(super) is_idle: bool,
    /// When it was stored.
    pub(super) since: Msec,
    /// How long it may stay idle, in milliseconds; see [`short`].
    pub(super) timeout: u32,
    /// Its group.
    pub(super) group: GroupRef,
    /// In the list of the group, or of the free slots.
    pub(super) in_group: Neighbours,
    pub(super) in_ring: Neighbours,
}

/// A timeout in four bytes. More than 49 days are so many.
#[inline(always)]
pub(super) fn short(timeout: Msec) -> u32 {
    timeout.min(u32::MAX as Msec) as u32
}

impl<C> Slot<C> {
    /// The connection, if it is stored.
    #[inline]
    pub(super) fn idle(&self) -> Option<&C> {
        self.conn.as_ref().filter(|_| self.is_idle)
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
        let ripe = self.since.wrapping_add((self.timeout - self.timeout / 8) as Msec);
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
            is_idle: false,
            since: 0,
            timeout: 0,
            group: GroupRef::default(),
            in_group: Neighbours::default(),
            in_ring: Neighbours::default(),
        }
    }
}
