//! The idle connections of one upstream: found by what shaped them, the newest first, and evicted
//! by the rule in [`ring`].
//!
//! ```text
//!   groups    10.0.0.1:80 http    10.0.0.2:80 http      an entry for what is equal
//!                 |    \                |
//!   slots       [ 0 ]  [ 2 ]          [ 1 ]              a connection each; it stays where it is
//!
//!   lists of slots: by group, to find one, and by age, to evict one:
//!   a ring for the upstream, or one for each server
//! ```
#![forbid(unsafe_code)]

mod groups;
mod limit;
#[cfg(any(test, fuzzing))]
pub mod model;
mod ring;
mod servers;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::TryReserveError;

use crate::base::address::MAX_ADDRESS;
use crate::base::clock::Msec;
use crate::base::list::{Link, List, NONE};
use groups::Groups;
use ring::{Ring, Seat};
use servers::{ServerRef, Servers};
use slot::{InGroup, InLimited, Slot};

pub use groups::GroupRef;
pub use limit::{Limit, MAX_CAPACITY, MAX_OF_ALL_SERVERS, MAX_SERVERS};

/// More lists than this would cost more memory than they save time.
const MAX_BUCKETS: usize = 1 << 16;

/// What the pool holds: a connection that knows what shaped it.
pub trait Connection {
    /// Everything that shaped the connection besides the other fields of [`Key`], written
    /// unambiguously: local address, TLS context, names, certificates. Empty if there is nothing.
    fn identity(&self) -> &[u8];
}

/// What a request needs. A connection is reused only if it was opened for exactly the same.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The server's socket address, byte for byte.
    pub address: &'a [u8],
    /// A number for the protocol module and the version that it speaks.
    pub protocol: usize,
    /// With `local` a number for the location, otherwise 0.
    pub location: usize,
    /// See [`Connection::identity`].
    pub identity: &'a [u8],
}

/// A connection to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Offer<C> {
    /// The connection.
    pub conn: C,
    /// What [`IdlePool::checkout`] told, when it was asked for the same identity.
    pub group: Option<GroupRef>,
    /// It came from the pool: it has been reused at least once.
    pub reused: bool,
    /// The present time.
    pub now: Msec,
    /// How long it may stay idle, in milliseconds.
    pub timeout: Msec,
    /// The number of its server, if that limits its connections: see [`IdlePool::take_oldest_of`].
    pub server: Option<u32>,
}

/// What [`IdlePool::put`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Put<C> {
    /// The slot of the connection, to be given to [`IdlePool::remove`]; or the connection itself if
    /// there is no room, as described at [`Limit::PerServer`], or no memory.
    pub stored: Result<u32, C>,
    /// The connection that made room. The caller closes it.
    pub evicted: Option<C>,
}

/// Idle connections `C`. Every operation costs the same at one and at thousands of connections, but for those for removed
/// servers, which look at all of them. Only one allocates: the first connection that is stored reserves the memory of all
/// that will be, so that a pool costs nothing where it is made but not used.
#[derive(Debug)]
pub struct IdlePool<C> {
    limit: Limit,
    slots: Vec<Slot<C>>,
    /// For how many servers that limit their connections there is a list, once the memory is reserved.
    numbers: usize,
    /// The first of the slots without a connection; each points at the next one by `group`.
    free: Link,
    groups: Groups,
    /// With [`Limit::Total`] the ring of all connections, and otherwise the servers with theirs.
    total: Ring,
    servers: Servers,
    /// For each server that limits its connections those to it.
    limited: Vec<List<InLimited>>,
    len: usize,
}

impl<C: Connection> IdlePool<C> {
    /// An empty pool without memory; `limited` is the number of servers that limit their connections.
    pub fn new(limit: Limit, limited: usize) -> Self {
        Self {
            limit,
            slots: Vec::new(),
            numbers: limited,
            free: NONE,
            groups: Groups::default(),
            servers: Servers::default(),
            total: Ring::default(),
            limited: Vec::new(),
            len: 0,
        }
    }

    /// Reserves the memory of a full pool, as the first connection that is stored does.
    ///
    /// # Errors
    /// When it cannot be had; then the pool stays as it is.
    #[cold]
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        if self.is_reserved() {
            return Ok(());
        }
        let capacity = self.limit.capacity();
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity)?;
        let mut lists = Vec::new();
        lists.try_reserve_exact(self.numbers)?;
        lists.resize_with(self.numbers, List::default);
        let servers = match self.limit {
            Limit::Total(_) => Servers::default(),
            Limit::PerServer(_) => Servers::new(MAX_SERVERS)?,
        };
        let groups = Groups::new(capacity)?;
        (self.slots, self.limited, self.servers, self.groups) = (slots, lists, servers, groups);
        Ok(())
    }

    #[inline(always)]
    fn is_reserved(&self) -> bool {
        // There is at least one slot.
        self.slots.capacity() > 0
    }

    /// The number of slots.
    pub fn capacity(&self) -> usize {
        self.limit.capacity()
    }

    /// How many connections are stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no connection is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes out the connection stored last among those that are as key. The second value
    /// spares [`IdlePool::put`] looking for the group again.
    #[inline]
    pub fn checkout(&mut self, key: &Key<'_>) -> (Option<C>, Option<GroupRef>) {
        match self.find(key) {
            None => (None, None),
            Some(group) => {
                let reference = self.groups.reference(group);
                (self.release(self.groups.get(group).idle.newest()), Some(reference))
            }
        }
    }

    /// Stores a connection that was opened for what is `key`. If the limit is reached, another
    /// one makes room. It is not stored if it is the first one and there is no memory.
    #[inline]
    pub fn put(&mut self, key: &Key<'_>, offer: Offer<C>) -> Put<C> {
        if key.address.len() > MAX_ADDRESS || (!self.is_reserved() && self.reserve().is_err()) {
            return Put { stored: Err(offer.conn), evicted: None };
        }
        let (evicted, seat, server) = match self.limit {
            Limit::Total(limit) => {
                let (evicted, seat) = self.make_room(NONE, limit, &offer);
                (evicted, seat, NONE)
            }
            Limit::PerServer(limit) => match self.server(key, offer.group) {
                None => return Put { stored: Err(offer.conn), evicted: None },
                Some(server) => {
                    let (evicted, seat) = self.make_room(server, limit, &offer);
                    (evicted, seat, server)
                }
            },
        };
        let Some(at) = self.free_slot() else { return Put { stored: Err(offer.conn), evicted } };
        let Some(group) = self.group(key, offer.group) else {
            self.slots[at as usize].group = std::mem::replace(&mut self.free, at);
            return Put { stored: Err(offer.conn), evicted };
        };

        let slot = &mut self.slots[at as usize];
        slot.conn = Some(offer.conn);
        slot.since = offer.now;
        slot.ripe = offer.now.wrapping_add(offer.timeout - offer.timeout / 8);
        slot.group = group;
        let entry = self.groups.get_mut(group);
        entry.idle.push(&mut self.slots, at);
        match self.limit {
            Limit::Total(_) => &mut self.total,
            Limit::PerServer(_) => {
                entry.server = Some(self.servers.reference(server));
                self.servers.ring(server)
            }
        }
        .insert(&mut self.slots, at, seat);
        if let Some((server, list)) = offer.server.and_then(|n| Some((n, self.limited.get_mut(n as usize)?)))
        {
            self.slots[at as usize].server = server;
            list.push(&mut self.slots, at);
        }
        self.len += 1;
        Put { stored: Ok(at), evicted }
    }

    /// Takes out the connection in `slot`, provided that it `is` the one meant: the slot may have
    /// got another connection since the caller learnt its number.
    #[inline]
    pub fn remove(&mut self, slot: u32, is: impl FnOnce(&C) -> bool) -> Option<C> {
        self.slots.get(slot as usize)?.conn.as_ref().filter(|conn| is(conn))?;
        self.release(slot)
    }

    /// Takes out the connection that was stored first among those to a server that limits its
    /// connections: it makes room for another one to the same server.
    pub fn take_oldest_of(&mut self, server: u32) -> Option<C> {
        self.release(self.limited.get(server as usize)?.oldest())
    }

    /// Takes out the connection that is idle for longest; with [`Limit::PerServer`] that of one server after the other,
    /// for which it may look at all servers, which are [`MAX_SERVERS`] at most.
    pub fn take_oldest(&mut self) -> Option<C> {
        let ring = match self.limit {
            Limit::Total(_) => &self.total,
            Limit::PerServer(_) => {
                let server = self.servers.next_with_idle()?;
                self.servers.ring(server)
            }
        };
        let oldest = ring.oldest(&self.slots);
        self.release(oldest)
    }

    /// Marks the servers that are no longer there, so that [`IdlePool::take_removed`] finds their
    /// connections. Returns whether there are any.
    pub fn mark_removed(&mut self, mut is_there: impl FnMut(&[u8]) -> bool) -> bool {
        let mut any = false;
        for group in self.groups.occupied() {
            group.removed = !is_there(group.address());
            any |= group.removed;
        }
        any
    }

    /// Takes out the next connection to a marked server, at or behind the slot `from`, which is
    /// moved on.
    pub fn take_removed(&mut self, from: &mut u32) -> Option<C> {
        while let Some(slot) = self.slots.get(*from as usize) {
            let at = *from;
            *from += 1;
            if slot.conn.is_some() && self.groups.get(slot.group).removed {
                return self.release(at);
            }
        }
        None
    }

    /// The next connection to an address, at or behind the slot `from`, which is moved on, that was stored by then, and
    /// its slot.
    pub fn next_older(&self, from: &mut u32, address: &[u8], then: Msec) -> Option<(u32, &C)> {
        while let Some(slot) = self.slots.get(*from as usize) {
            let at = *from;
            *from += 1;
            let Some(conn) = &slot.conn else { continue };
            // The clock wraps around, so the sign of the difference tells which comes first.
            if then.wrapping_sub(slot.since) as isize >= 0 && self.groups.get(slot.group).address() == address
            {
                return Some((at, conn));
            }
        }
        None
    }

    #[inline(always)]
    fn find(&self, key: &Key<'_>) -> Option<Link> {
        self.groups.find(key, |first| {
            let conn = self.slots.get(first as usize).and_then(|slot| slot.conn.as_ref());
            conn.is_some_and(|conn| conn.identity() == key.identity)
        })
    }

    #[inline]
    fn group(&mut self, key: &Key<'_>, known: Option<GroupRef>) -> Option<Link> {
        match known.and_then(|group| self.groups.known(group, key)) {
            Some(group) => Some(group),
            None => self.find_or_add(key),
        }
    }

    /// Not needed for a connection that came from the pool.
    #[inline(never)]
    fn find_or_add(&mut self, key: &Key<'_>) -> Option<Link> {
        self.find(key).or_else(|| self.groups.add(key))
    }

    #[inline]
    fn server(&mut self, key: &Key<'_>, group: Option<GroupRef>) -> Option<Link> {
        let group = group.and_then(|group| self.groups.known(group, key));
        let server = group.and_then(|group| self.groups.get(group).server);
        server.and_then(|server| self.servers.known(server)).or_else(|| self.servers.find_or_add(key.address))
    }

    /// Evicts a connection if the ring that the offer is for is full, and says where the offer sits.
    #[inline(always)]
    fn make_room(&mut self, server: Link, limit: usize, offer: &Offer<C>) -> (Option<C>, Seat) {
        let ring = match self.limit {
            Limit::Total(_) => &mut self.total,
            Limit::PerServer(_) => self.servers.ring(server),
        };
        if ring.len() < limit.max(1) {
            return (None, Seat::Member);
        }
        let (victim, seat) = ring.choose(&self.slots, offer.reused, offer.now);
        (self.evict(victim), seat)
    }

    #[inline(never)]
    fn evict(&mut self, at: Link) -> Option<C> {
        self.release(at)
    }

    #[inline]
    fn free_slot(&mut self) -> Option<Link> {
        if let Some(slot) = self.slots.get(self.free as usize) {
            return Some(std::mem::replace(&mut self.free, slot.group));
        }
        // Within what was reserved, so that nothing is allocated.
        (self.slots.len() < self.limit.capacity()).then(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as Link
        })
    }

    #[inline(always)]
    fn release(&mut self, at: Link) -> Option<C> {
        let slot = self.slots.get_mut(at as usize)?;
        let conn = slot.conn.take()?;
        let group = std::mem::replace(&mut slot.group, self.free);
        let server = std::mem::replace(&mut slot.server, NONE);
        self.free = at;
        self.len -= 1;
        if let Some(list) = self.limited.get_mut(server as usize) {
            list.unlink(&mut self.slots, at);
        }
        let entry = self.groups.get_mut(group);
        entry.idle.unlink(&mut self.slots, at);
        let (vacated, server) = (entry.idle.newest() == NONE, entry.server);
        match self.limit {
            Limit::Total(_) => self.total.remove(&mut self.slots, at),
            Limit::PerServer(_) => self.release_from(server, at),
        }
        if vacated {
            self.groups.vacated(group);
        }
        Some(conn)
    }

    fn release_from(&mut self, server: Option<ServerRef>, at: Link) {
        // A server is not given away while it has connections, so it is known.
        if let Some(server) = server.and_then(|server| self.servers.known(server)) {
            let ring = self.servers.ring(server);
            ring.remove(&mut self.slots, at);
            if ring.len() == 0 {
                self.servers.vacated(server);
            }
        }
    }
}
