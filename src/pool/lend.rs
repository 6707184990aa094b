//! Lends a connection to a request: its slot stays as it is, so that it takes little to put the connection back.
//!
//! ```text
//!              lend                            put_back
//!   stored ------------> lent, the slot free ------------> stored, in the same slot
//!                             |
//!                             +-- another connection needs the slot: the lent one is stored as a new one
//! ```
#![forbid(unsafe_code)]

use super::ring::Seat;
use super::slot::State;
use super::{Connection, Expiry, GroupRef, IdlePool, Key, Limit};
use crate::base::clock::Msec;
use crate::base::list::Link;

impl<C: Connection + Copy> IdlePool<C> {
    /// Takes the newest connection with this key, if there is one, as [`IdlePool::checkout`], but its slot remembers it. Returns the
    /// slot.
    #[inline(always)]
    pub fn lend(&mut self, key: &Key<'_>) -> Option<u32> {
        let newest = match self.groups.recent(key) {
            Some(newest) => newest,
            None => self.find_newest(key)?,
        };
        self.detach(newest)?;
        self.free.push(self.slots.as_mut_slice(), newest);
        Some(newest)
    }

    #[inline(never)]
    fn find_newest(&mut self, key: &Key<'_>) -> Option<Link> {
        let group = self.find(key)?;
        self.groups.look_first_at(group, key);
        Some(self.groups.get(group).idle.newest())
    }

    /// Calls `look` with the connection that was lent from a slot, and when it was stored.
    #[inline(always)]
    pub fn lent<R>(&self, slot: u32, look: impl FnOnce(&C, Msec) -> R) -> Option<R> {
        let slot = self.slots.get(slot as usize)?;
        slot.conn.as_ref().map(|conn| look(conn, slot.since))
    }

    /// The connection that was lent from a slot.
    pub fn lent_mut(&mut self, slot: u32) -> Option<&mut C> {
        self.slots.get_mut(slot as usize).filter(|slot| !slot.is_idle())?.conn.as_mut()
    }

    /// The group of a key, for [`Offer::group`](super::Offer::group).
    #[cold]
    pub fn group_of(&self, key: &Key<'_>) -> Option<GroupRef> {
        self.find(key).map(|group| self.groups.reference(group))
    }

    /// Stores a connection again that was lent, if it is `known`. `server` is what [`Connection::server`] returns
    /// for it. `None` if the slot, or its group, belongs to others by now, or there is no room: then it is to be stored like a
    /// new one. Else the hash of its key, see [`Key::hash`].
    #[inline(always)]
    pub fn put_back(
        &mut self,
        at: u32,
        known: impl FnOnce(&C) -> bool,
        now: Msec,
        expiry: Expiry,
        server: Option<u32>,
    ) -> Option<u32> {
        // Once, or the compiler reads it again after each store.
        let slots = self.slots.as_mut_slice();
        let slot = slots.get_mut(at as usize)?;
        // No `filter`: the compiler would make functions of the closures.
        match &slot.conn {
            Some(conn) if !slot.is_idle() && known(conn) => {}
            _ => return None,
        }
        let group = slot.group;
        let ring = match self.limit {
            Limit::Total(_) => &mut self.total,
            Limit::PerServer(limit) => {
                let server = self.groups.server(group.at).and_then(|server| self.servers.known(server))?;
                Some(self.servers.ring(server)).filter(|ring| ring.len() < limit)?
            }
        };
        let group = self.groups.still(group)?;
        let state = match expiry {
            Expiry::Usual => self.usual_state,
            other => State::new(other, self.usual),
        };
        let is_new = slot.begin(now, state);
        self.free.unlink(slots, at);
        group.idle.push(slots, at);
        ring.insert(slots, at, Seat::Member);
        self.limited.push(server, at);
        self.len += 1;
        let hash = group.hash();
        if is_new {
            self.watch(at, now);
        }
        Some(hash)
    }

    /// The same for a connection whose group may be gone: a group with an identity goes when its last connection is lent. `key` is the key
    /// for which the connection was opened.
    #[inline(never)]
    pub fn put_back_by_key(
        &mut self,
        at: u32,
        key: &Key<'_>,
        known: impl Fn(&C) -> bool,
        now: Msec,
        expiry: Expiry,
        server: Option<u32>,
    ) -> Option<u32> {
        let slot = self.slots.get(at as usize).filter(|slot| !slot.is_idle())?;
        slot.conn.as_ref().filter(|conn| known(conn))?;
        let of_server = match self.limit {
            Limit::Total(_) => None,
            Limit::PerServer(limit) => {
                let server = self.server(key, None)?;
                Some(server).filter(|server| self.servers.ring(*server).len() < limit)?;
                Some(self.servers.reference(server))
            }
        };
        let group = self.find_or_add(key)?;
        self.groups.set_server(group, of_server);
        self.slots[at as usize].group = self.groups.reference(group);
        self.put_back(at, known, now, expiry, server)
    }

    /// Forgets a connection that was lent, if it is `known`: it is not put back. Returns it.
    #[cold]
    pub fn forget(&mut self, at: u32, known: impl FnOnce(&C) -> bool) -> Option<C> {
        let slot = self.slots.get_mut(at as usize).filter(|slot| !slot.is_idle())?;
        slot.conn.as_ref().filter(|conn| known(conn))?;
        let conn = slot.conn.take();
        self.free.unlink(&mut self.slots, at);
        self.free.push_oldest(&mut self.slots, at);
        conn
    }
}
