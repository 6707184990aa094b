//! Looks at connections in the pool without taking them, and takes those whose server has left the upstream.
#![forbid(unsafe_code)]

use super::addresses::Whole;
use super::groups::Kind;
use super::{Connection, IdlePool, Key};
use crate::base::clock::Msec;
use crate::base::list::{Link, NONE};

/// A connection in the pool.
#[derive(Clone, Copy, Debug)]
pub struct IdleEntry<'a, C> {
    /// The connection.
    pub conn: &'a C,
    /// When it was stored.
    pub since: Msec,
    address: Whole<'a>,
    kind: Kind,
}

impl<C: Connection> IdleEntry<'_, C> {
    /// The key for which it was opened.
    pub fn key(&self) -> Key<'_> {
        let Kind { protocol, location } = self.kind;
        Key { address: self.address.bytes(), protocol, location, identity: self.conn.identity() }
    }
}

impl<C: Connection> IdlePool<C> {
    /// Marks the servers that have left the upstream, for [`IdlePool::take_removed`]. Returns whether there are connections
    /// to such servers.
    pub fn mark_removed(&mut self, is_there: impl FnMut(&[u8]) -> bool) -> bool {
        self.groups.mark_removed(is_there)
    }

    /// Takes the next connection to a marked server, at or behind the slot `from`, and advances `from`.
    pub fn take_removed(&mut self, from: &mut u32) -> Option<C> {
        while let Some(slot) = self.slots.get(*from as usize) {
            let at = *from;
            *from += 1;
            if slot.is_idle() && self.groups.get(slot.group.at).removed {
                return self.release(at);
            }
        }
        None
    }

    /// The next connection to `address` that was stored at or before `then`, at or behind the slot `from`, and its slot.
    /// Advances `from`.
    pub fn next_older(&self, from: &mut u32, address: &[u8], then: Msec) -> Option<(u32, &C)> {
        while let Some(slot) = self.slots.get(*from as usize) {
            let at = *from;
            *from += 1;
            let Some(conn) = slot.idle() else { continue };
            // The clock wraps around, so the sign of the difference tells which time is earlier.
            if then.wrapping_sub(slot.since) as isize >= 0 && self.groups.is_at(slot.group.at, address) {
                return Some((at, conn));
            }
        }
        None
    }

    /// Whether there is a connection to `address` with a protocol of which `fits` returns true.
    pub fn any_to(&self, address: &[u8], fits: impl Fn(usize) -> bool) -> bool {
        let to = |at: u32| self.groups.is_at(at, address) && fits(self.groups.kind(at).protocol);
        self.slots.iter().any(|slot| slot.is_idle() && to(slot.group.at))
    }

    /// The connection in a slot.
    pub fn entry(&self, slot: u32) -> Option<IdleEntry<'_, C>> {
        let slot = self.slots.get(slot as usize)?;
        let conn = slot.idle()?;
        let (address, kind) = (self.groups.address(slot.group.at), self.groups.kind(slot.group.at));
        Some(IdleEntry { conn, since: slot.since, address, kind })
    }

    /// The newest connection with this key, and when it was stored.
    pub fn newest_like(&self, key: &Key<'_>) -> Option<(&C, Msec)> {
        let newest = is_slot(self.groups.get(self.find(key)?).idle.newest())?;
        let slot = self.slots.get(newest as usize)?;
        slot.idle().map(|conn| (conn, slot.since))
    }

    /// The slot of the connection with this key that has been idle longest.
    pub fn oldest_like(&self, key: &Key<'_>) -> Option<u32> {
        is_slot(self.groups.get(self.find(key)?).idle.oldest())
    }

    /// The slot of the newest connection to a server that limits its connections.
    pub fn newest_of(&self, server: u32) -> Option<u32> {
        is_slot(self.limited.newest(server))
    }

    /// The next slot with a connection, at or behind the slot `from`. Advances `from`.
    pub fn next_stored(&self, from: &mut u32) -> Option<u32> {
        while let Some(slot) = self.slots.get(*from as usize) {
            let at = *from;
            *from += 1;
            if slot.is_idle() {
                return Some(at);
            }
        }
        None
    }
}

/// The slot of a link, if it is one.
fn is_slot(link: Link) -> Option<u32> {
    (link != NONE).then_some(link)
}
