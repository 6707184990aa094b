//! The idle connections of one upstream. They are found by their [`Key`], the newest first, and evicted
//! by the rule in [`ring`].
//!
//! ```text
//!   groups    10.0.0.1:80 http    10.0.0.2:80 http      one for each key
//!                 |    \                |
//!   slots       [ 0 ]  [ 2 ]          [ 1 ]              one for each connection, which does not move
//!
//!   lists of slots: by group, to find a connection; by age, to evict one, a ring for
//!   the upstream, or one for each server; by expiry, to close one in time
//! ```
#![forbid(unsafe_code)]

mod addresses;
mod aside;
mod buckets;
mod expiry;
mod fifo;
mod groups;
mod lend;
mod limit;
mod limited;
mod look_up;
#[cfg(any(test, fuzzing))]
pub mod model;
mod ring;
mod servers;
mod slot;
mod steps;
#[cfg(test)]
mod tests;

use crate::base::address::MAX_ADDRESS;
use crate::base::clock::Msec;
use crate::base::list::{Link, List, NONE};
use fifo::Fifo;
use groups::Groups;
use limited::Limited;
use ring::{Ring, Seat};
use servers::ServerTable;
use slot::{InGroup, Slot, State};

pub use expiry::{Due, Expiry};
pub use groups::GroupRef;
pub use limit::{Limit, MAX_CAPACITY, MAX_OF_ALL_SERVERS, MAX_SERVERS};
pub use look_up::IdleEntry;

/// A connection in the pool. It holds its own identity.
pub trait Connection {
    /// Everything on which the connection depends besides the other fields of [`Key`]: local address, TLS context, names,
    /// certificates. Equal bytes mean an equal identity. Empty for a plain connection.
    fn identity(&self) -> &[u8];

    /// The number of its server, if the server limits its connections: see [`IdlePool::take_oldest_of`].
    fn server(&self) -> Option<u32>;
}

/// What a request needs. A connection is reused only if it was opened for an equal key.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The server's socket address, byte for byte.
    pub address: &'a [u8],
    /// A number of the protocol module and its version of the protocol.
    pub protocol: usize,
    /// With `local` a number of the location, otherwise 0.
    pub location: usize,
    /// See [`Connection::identity`].
    pub identity: &'a [u8],
}

/// A connection to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Offer<C> {
    /// The connection.
    pub conn: C,
    /// What [`IdlePool::checkout`] returned for the same identity.
    pub group: Option<GroupRef>,
    /// It came from the pool: it has been reused at least once.
    pub reused: bool,
    /// The current time.
    pub now: Msec,
    /// How long it may stay idle.
    pub expiry: Expiry,
}

/// What [`IdlePool::put`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Put<C> {
    /// The slot of the connection, for [`IdlePool::remove`]. Or the connection itself, if
    /// there is no room (see [`Limit::PerServer`]) or no memory.
    pub stored: Result<u32, C>,
    /// The connection that was evicted. The caller closes it.
    pub evicted: Option<C>,
}

/// Idle connections `C`. The cost of an operation does not depend on the number of connections, except for
/// [`IdlePool::mark_removed`], [`IdlePool::take_removed`] and [`IdlePool::next_older`], which look at all. Only [`IdlePool::put`]
/// and [`IdlePool::set_aside`] allocate, if the pool has never had so many connections or groups before. So a pool that is not
/// used costs nothing.
#[derive(Debug)]
pub struct IdlePool<C> {
    limit: Limit,
    slots: Vec<Slot<C>>,
    /// The slots whose connection is not stored: those that are empty, the oldest ones, and those whose connection was lent.
    free: List<InGroup>,
    groups: Groups,
    /// With [`Limit::Total`] the ring of all connections.
    total: Ring,
    /// With [`Limit::PerServer`] the servers, each with its ring.
    servers: ServerTable,
    /// The connections to servers that limit them.
    limited: Limited,
    /// The slots that will be looked at because their connections may have expired: see [`expiry`].
    watched: Fifo,
    /// How long a connection may usually stay idle, in milliseconds.
    usual: Msec,
    /// The state of a slot with such a connection.
    usual_state: State,
    len: usize,
}

impl<C: Connection> IdlePool<C> {
    /// The size of a slot in bytes.
    pub const SLOT: usize = size_of::<Slot<C>>();

    /// An empty pool. It allocates nothing. `limited` is the number of servers that limit their connections. `usual` is how long a
    /// connection may stay idle, in milliseconds, unless its [`Expiry`] says another time.
    pub fn new(limit: Limit, limited: usize, usual: Msec) -> Self {
        Self {
            limit,
            slots: Vec::new(),
            free: List::default(),
            groups: Groups::new(limit.capacity(), matches!(limit, Limit::PerServer(_))),
            servers: ServerTable::default(),
            total: Ring::default(),
            limited: Limited::new(limited),
            watched: Fifo::default(),
            usual,
            usual_state: State::new(Expiry::Usual, usual),
            len: 0,
        }
    }

    /// Reserves the memory of a full pool: without that, it grows. `None` if there is not so much.
    #[cold]
    pub fn reserve(&mut self) -> Option<()> {
        let capacity = self.limit.capacity();
        self.limited.reserve(capacity)?;
        steps::reserve(&mut self.slots, capacity)?;
        if matches!(self.limit, Limit::PerServer(_)) {
            self.servers.reserve()?;
        }
        self.groups.reserve(capacity)
    }

    /// The memory of a full pool, in bytes, without that of the connections themselves.
    pub fn memory(limit: Limit) -> usize {
        let one = size_of::<Slot<C>>() + Groups::ENTRY + 2 * size_of::<Link>();
        limit.capacity().saturating_mul(one)
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

    /// Takes the newest connection with this key, if there is one; `since` is then when it was stored. The second value is for
    /// [`Offer::group`]: with it, [`IdlePool::put`] need not look for the group again.
    pub fn checkout(&mut self, key: &Key<'_>, since: &mut Msec) -> (Option<C>, Option<GroupRef>) {
        match self.find(key) {
            None => (None, None),
            Some(group) => {
                let reference = self.groups.reference(group);
                let newest = self.groups.get(group).idle.newest();
                if let Some(slot) = self.slots.get(newest as usize) {
                    *since = slot.since;
                }
                (self.release(newest), Some(reference))
            }
        }
    }

    /// Stores a connection that was opened for `key`. If the limit is reached, another
    /// one is evicted. The connection is not stored if there is no room, or no memory: see [`Put`].
    #[inline]
    pub fn put(&mut self, key: &Key<'_>, offer: Offer<C>) -> Put<C> {
        self.put_and_hash(key, offer).0
    }

    /// Does that. The second value is the hash of the key, see [`Key::hash`], or 0 if the connection was not stored.
    #[inline]
    pub fn put_and_hash(&mut self, key: &Key<'_>, offer: Offer<C>) -> (Put<C>, u32) {
        if key.address.len() > MAX_ADDRESS {
            return (Put { stored: Err(offer.conn), evicted: None }, 0);
        }
        let (evicted, seat, server) = match self.limit {
            Limit::Total(limit) => {
                let (evicted, seat) = self.make_room(NONE, limit, &offer);
                (evicted, seat, NONE)
            }
            Limit::PerServer(limit) => match self.server(key, offer.group) {
                None => return (Put { stored: Err(offer.conn), evicted: None }, 0),
                Some(server) => {
                    let (evicted, seat) = self.make_room(server, limit, &offer);
                    (evicted, seat, server)
                }
            },
        };
        let Some(at) = self.free_slot() else { return (Put { stored: Err(offer.conn), evicted }, 0) };
        let Some(group) = self.group(key, offer.group) else {
            self.free.push_oldest(&mut self.slots, at);
            return (Put { stored: Err(offer.conn), evicted }, 0);
        };

        let slot = &mut self.slots[at as usize];
        let limited_by = offer.conn.server();
        slot.conn = Some(offer.conn);
        let is_new = slot.begin(offer.now, State::new(offer.expiry, self.usual));
        slot.group = self.groups.reference(group);
        let entry = self.groups.get_mut(group);
        let hash = entry.hash();
        entry.idle.push(&mut self.slots, at);
        match self.limit {
            Limit::Total(_) => &mut self.total,
            Limit::PerServer(_) => {
                self.groups.set_server(group, Some(self.servers.reference(server)));
                self.servers.ring(server)
            }
        }
        .insert(&mut self.slots, at, seat);
        self.limited.push(limited_by, at);
        if is_new {
            self.watch(at, offer.now);
        }
        self.len += 1;
        (Put { stored: Ok(at), evicted }, hash)
    }

    /// Takes the connection in `slot`, if it `is` the expected one. The slot may have another connection by now.
    #[inline]
    pub fn remove(&mut self, slot: u32, is: impl FnOnce(&C) -> bool) -> Option<C> {
        self.slots.get(slot as usize)?.idle().filter(|conn| is(conn))?;
        self.release(slot)
    }

    /// Takes the oldest connection to a server that limits its connections, so that another one can be opened to it.
    pub fn take_oldest_of(&mut self, server: u32) -> Option<C> {
        self.release(self.limited.oldest(server))
    }

    /// Takes the connection that has been idle longest. With [`Limit::PerServer`] it is the oldest one of one server, and
    /// the servers take turns; this may look at all servers, at most [`MAX_SERVERS`].
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

    #[inline(always)]
    fn find(&self, key: &Key<'_>) -> Option<Link> {
        self.groups.find(key, |first| {
            let conn = self.slots.get(first as usize).and_then(Slot::idle);
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

    /// Not inlined: a connection that came from the pool does not need it.
    #[inline(never)]
    fn find_or_add(&mut self, key: &Key<'_>) -> Option<Link> {
        self.find(key).or_else(|| self.groups.add(key))
    }

    #[inline]
    fn server(&mut self, key: &Key<'_>, group: Option<GroupRef>) -> Option<Link> {
        let group = group.and_then(|group| self.groups.known(group, key));
        let server = group.and_then(|group| self.groups.server(group));
        server.and_then(|server| self.servers.known(server)).or_else(|| self.servers.find_or_add(key.address))
    }

    /// Evicts a connection if the ring of the offer is full. Returns it, and the seat of the offer.
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

    /// A slot without a connection, or else the one whose connection was lent first. `None` if the connections of all are stored.
    #[inline]
    fn free_slot(&mut self) -> Option<Link> {
        let oldest = self.free.oldest();
        let is_lent = |slot: &Slot<C>| slot.conn.is_some();
        if self.slots.get(oldest as usize).is_none_or(is_lent) {
            if let Some(added) = self.add_slot() {
                return Some(added);
            }
        }
        (oldest != NONE).then(|| {
            self.free.unlink(&mut self.slots, oldest);
            oldest
        })
    }

    /// A slot that was never used. `None` if there are as many as may be, or no memory for one more.
    #[inline(never)]
    fn add_slot(&mut self) -> Option<Link> {
        let capacity = self.limit.capacity();
        steps::make_room(&mut self.slots, capacity)?;
        self.limited.follow(self.slots.len() + 1, capacity)?;
        self.slots.push(Slot::default());
        Some((self.slots.len() - 1) as Link)
    }

    #[inline(never)]
    fn release(&mut self, at: Link) -> Option<C> {
        self.detach(at)?;
        self.free.push_oldest(&mut self.slots, at);
        self.slots.get_mut(at as usize)?.conn.take()
    }

    /// Removes a slot, if its connection is stored, from all lists. It is to be added to the free ones.
    #[inline(always)]
    fn detach(&mut self, at: Link) -> Option<()> {
        // Once, or the compiler reads it again after each store.
        let slots = self.slots.as_mut_slice();
        let slot = slots.get_mut(at as usize).filter(|slot| slot.is_idle())?;
        slot.end();
        let group = slot.group.at;
        self.len -= 1;
        self.limited.remove(slot.conn.as_ref().and_then(C::server), at);
        match self.limit {
            Limit::Total(_) => self.total.remove(slots, at),
            Limit::PerServer(_) => self.servers.release(self.groups.server(group), slots, at),
        }
        let entry = self.groups.get_mut(group);
        entry.idle.unlink(slots, at);
        if entry.idle.newest() == NONE && entry.is_noted_when_vacant() {
            self.groups.vacated(group);
        }
        Some(())
    }
}
