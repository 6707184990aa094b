//! A slot: a place for a connection in the pool, with its links in the lists.
#![forbid(unsafe_code)]

use super::expiry::Expiry;
use super::groups::GroupRef;
use super::ring::{Aging, InRing};
use crate::base::clock::Msec;
use crate::base::list::{Link, Neighbours, Node, NONE};

#[derive(Debug)]
pub(super) struct Slot<C> {
    /// The connection that is stored, or was lent.
    pub(super) conn: Option<C>,
    /// When it was stored.
    pub(super) since: Msec,
    /// How long it may stay idle, in milliseconds, [`STORED`], [`USUAL`] and [`WATCHED`].
    state: u32,
    /// Its group.
    pub(super) group: GroupRef,
    /// In the list of the group, or of the free slots.
    pub(super) in_group: Neighbours,
    pub(super) in_ring: Neighbours,
    /// The slot that is looked at next, if this one is watched.
    pub(super) looked_at_after: Link,
    /// Since when it is watched, without the upper half of the time.
    watched_since: u32,
}

/// The connection is stored. Otherwise the slot is free.
const STORED: u32 = 1 << 31;

/// The connection, if it is stored, expires after the usual time.
const USUAL: u32 = 1 << 30;

/// The slot will be looked at, because its connection may have expired.
const WATCHED: u32 = 1 << 29;

/// The state of a slot from now on: its connection is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct State(u32);

impl State {
    /// It expires after the `usual` time of the pool, in milliseconds, or another one.
    pub(super) fn new(expiry: Expiry, usual: Msec) -> Self {
        let time = expiry.time(usual).min(Slot::<()>::MAX_TIMEOUT) as u32;
        Self(time | STORED | if expiry == Expiry::Usual { USUAL } else { 0 })
    }
}

impl<C> Slot<C> {
    /// The longest timeout: more than 6 days. After so long, a connection with a longer one counts as one that expires soon.
    pub(super) const MAX_TIMEOUT: Msec = WATCHED as Msec - 1;

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

    /// The connection, if it is stored, and expires after the usual time.
    #[inline]
    pub(super) fn usual(&self) -> Option<&C> {
        self.idle().filter(|_| self.state & USUAL != 0)
    }

    /// The connection is stored from now on. Returns whether the slot is to be watched, and is not yet.
    #[inline(always)]
    pub(super) fn begin(&mut self, now: Msec, state: State) -> bool {
        let watched = self.state & WATCHED;
        self.since = now;
        self.state = state.0 | watched;
        state.0 & USUAL > watched << 1
    }

    /// The connection is not stored any more.
    #[inline(always)]
    pub(super) fn end(&mut self) {
        self.state &= !STORED;
    }

    /// A stored connection may expire at once. The caller closes it, or measures its time.
    pub(super) fn let_expire(&mut self) {
        self.state = STORED | self.state & WATCHED;
    }

    /// The slot is watched from now on.
    pub(super) fn watch(&mut self, now: Msec) {
        self.state |= WATCHED;
        self.watched_since = now as u32;
    }

    /// It was watched.
    pub(super) fn end_watch(&mut self) {
        self.state &= !WATCHED;
    }

    /// How much is left of a `period` since the slot is watched, in milliseconds.
    pub(super) fn watch_left(&self, now: Msec, period: Msec) -> Msec {
        let age = (now as u32).wrapping_sub(self.watched_since);
        period.saturating_sub(age as Msec)
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
        let timeout = self.state & Self::MAX_TIMEOUT as u32;
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
            looked_at_after: NONE,
            watched_since: 0,
        }
    }
}
