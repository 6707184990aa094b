//! A slot: a place for a connection in the pool, with its links in the lists.
#![forbid(unsafe_code)]

use super::ring::{Aging, InRing};
use crate::base::clock::Msec;
use crate::base::list::{Link, Neighbours, Node, NONE};

#[derive(Debug)]
pub(super) struct Slot<C> {
    pub(super) conn: Option<C>,
    /// When it was stored.
    pub(super) since: Msec,
    /// When the last eighth of the idle timeout begins.
    pub(super) ripe: Msec,
    /// The group of the connection. In a slot without a connection, the next such slot.
    pub(super) group: Link,
    pub(super) in_group: Neighbours,
    pub(super) in_ring: Neighbours,
    /// Which list of `limited` the slot is in, or `NONE`.
    pub(super) server: Link,
    pub(super) in_limited: Neighbours,
}

/// The kind of the lists by group.
#[derive(Debug)]
pub(super) struct InGroup;

impl<C> Node<InGroup> for Slot<C> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_group
    }
}

/// The kind of the lists by limited server.
#[derive(Debug)]
pub(super) struct InLimited;

impl<C> Node<InLimited> for Slot<C> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_limited
    }
}

impl<C> Node<InRing> for Slot<C> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_ring
    }
}

impl<C> Aging for Slot<C> {
    fn about_to_expire(&self, now: Msec) -> bool {
        // The clock wraps around, so the sign of the difference tells which time is earlier.
        now.wrapping_sub(self.ripe) as isize >= 0
    }

    fn since(&self) -> Msec {
        self.since
    }
}

impl<C> Default for Slot<C> {
    fn default() -> Self {
        let (in_group, in_ring, in_limited) = Default::default();
        Self { conn: None, since: 0, ripe: 0, group: NONE, in_group, in_ring, server: NONE, in_limited }
    }
}
