//! The servers of [`Limit::PerServer`](super::Limit::PerServer): one entry for each address.
#![forbid(unsafe_code)]

use super::addresses::{Address, Addresses};
use super::buckets::{Buckets, Hashed};
use super::fifo::{Fifo, Queued};
use super::ring::{Aging, Ring};
use super::{steps, MAX_SERVERS};
use crate::base::hash::hash_bytes;
use crate::base::list::{Link, NONE};

/// At most [`MAX_SERVERS`] servers. A server without idle connections stays until its entry is needed for
/// another.
#[derive(Debug, Default)]
pub(super) struct ServerTable {
    entries: Vec<ServerEntry>,
    buckets: Buckets,
    /// All servers without idle connections, and some that have one again.
    vacant: Fifo,
    addresses: Addresses,
    /// From which server on [`ServerTable::next_with_idle`] looks.
    turn: usize,
}

#[derive(Debug)]
pub(super) struct ServerEntry {
    /// Its idle connections.
    pub(super) ring: Ring,
    /// Whether it is in the queue `vacant`.
    listed: bool,
    hash: u32,
    /// Counts the addresses that the entry has had.
    version: u32,
    in_bucket: Link,
    in_vacant: Link,
    address: Address,
}

impl Hashed for ServerEntry {
    fn hash(&self) -> u32 {
        self.hash
    }

    fn next(&mut self) -> &mut Link {
        &mut self.in_bucket
    }
}

impl Queued for ServerEntry {
    fn newer(&mut self) -> &mut Link {
        &mut self.in_vacant
    }
}

impl ServerTable {
    /// Reserves memory for all servers. `None` if there is none.
    #[cold]
    pub(super) fn reserve(&mut self) -> Option<()> {
        self.buckets.grow(&mut self.entries, MAX_SERVERS)?;
        steps::reserve(&mut self.entries, MAX_SERVERS)
    }

    pub(super) fn ring(&mut self, server: Link) -> &mut Ring {
        &mut self.entries[server as usize].ring
    }

    /// The next server with idle connections: they take turns.
    pub(super) fn next_with_idle(&mut self) -> Option<Link> {
        let number = self.entries.len();
        let mut others = (self.turn..number).chain(0..self.turn.min(number));
        let at = others.find(|at| self.entries[*at].ring.len() > 0)?;
        self.turn = at + 1;
        Some(at as Link)
    }

    #[inline]
    fn find_hashed(&self, address: &[u8], hash: u32) -> Option<Link> {
        let mut at = self.buckets.first(hash);
        while let Some(server) = self.entries.get(at as usize) {
            if server.hash == hash && self.addresses.is(&server.address, address) {
                return Some(at);
            }
            at = server.in_bucket;
        }
        None
    }

    /// A reference to a server, for [`ServerTable::known`].
    #[inline]
    pub(super) fn reference(&self, server: Link) -> ServerRef {
        ServerRef { at: server, version: self.entries[server as usize].version }
    }

    /// The server, unless its entry has got another address since.
    #[inline]
    pub(super) fn known(&self, server: ServerRef) -> Option<Link> {
        let entry = self.entries.get(server.at as usize)?;
        (entry.version == server.version).then_some(server.at)
    }

    /// The server at an address. `None` if it is new and every entry is a server with idle connections, or there is no memory.
    #[inline]
    pub(super) fn find_or_add(&mut self, address: &[u8]) -> Option<Link> {
        let hash = hash_bytes(0, address) as u32;
        self.find_hashed(address, hash).or_else(|| self.add(address, hash))
    }

    #[cold]
    fn add(&mut self, address: &[u8], hash: u32) -> Option<Link> {
        let at = match self.add_entry() {
            Some(added) => added,
            None => self.longest_vacant()?,
        };
        self.list_as_vacant(at);
        let kept = self.addresses.keep(address, MAX_SERVERS)?;
        let entry = &mut self.entries[at as usize];
        (entry.address, entry.hash) = (kept, hash);
        self.buckets.add(&mut self.entries, at);
        Some(at)
    }

    /// An entry that was never used. `None` if there are as many as may be, or no memory for one more.
    fn add_entry(&mut self) -> Option<Link> {
        steps::make_room(&mut self.entries, MAX_SERVERS)?;
        let number = self.entries.len() + 1;
        self.buckets.grow(&mut self.entries, number)?;
        self.entries.push(ServerEntry::default());
        Some((self.entries.len() - 1) as Link)
    }

    /// Removes the server that has been vacant longest from the list. Servers that are not vacant any more are removed on
    /// the way. Each was listed once, so the cost is constant on average.
    fn longest_vacant(&mut self) -> Option<Link> {
        loop {
            let at = self.vacant.pop(&mut self.entries)?;
            let server = &mut self.entries[at as usize];
            server.listed = false;
            if server.ring.len() == 0 {
                server.version = server.version.wrapping_add(1);
                let address = std::mem::replace(&mut server.address, Address::EMPTY);
                self.addresses.release(address);
                self.buckets.remove(&mut self.entries, at);
                return Some(at);
            }
        }
    }

    #[cold]
    fn list_as_vacant(&mut self, at: Link) {
        self.entries[at as usize].listed = true;
        self.vacant.push(&mut self.entries, at);
    }

    /// Removes a slot from the ring of its server.
    #[inline(never)]
    pub(super) fn release(&mut self, server: Option<ServerRef>, slots: &mut [impl Aging], at: Link) {
        // The entry of a server is not reused while it has connections, so the server is known.
        if let Some(server) = server.and_then(|server| self.known(server)) {
            let ring = self.ring(server);
            ring.remove(slots, at);
            if ring.len() == 0 {
                self.vacated(server);
            }
        }
    }

    /// The last idle connection of a server has been taken.
    #[inline]
    fn vacated(&mut self, server: Link) {
        if !self.entries[server as usize].listed {
            self.list_as_vacant(server);
        }
    }
}

impl Default for ServerEntry {
    fn default() -> Self {
        Self {
            ring: Ring::default(),
            listed: false,
            hash: 0,
            version: 0,
            in_bucket: NONE,
            in_vacant: NONE,
            address: Address::EMPTY,
        }
    }
}

/// A reference to a server; see [`ServerTable::known`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerRef {
    at: Link,
    version: u32,
}
