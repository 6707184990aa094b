//! The servers of [`Limit::PerServer`](super::Limit::PerServer): one entry for each address.
#![forbid(unsafe_code)]

use std::collections::TryReserveError;

use super::ring::{Aging, Ring};
use super::MAX_BUCKETS;
use crate::base::address::MAX_ADDRESS;
use crate::base::hash::hash_bytes;
use crate::base::list::{Link, List, Neighbours, Node};

/// A fixed number of servers. A server without idle connections stays until its entry is needed for
/// another.
#[derive(Debug, Default)]
pub(super) struct ServerTable {
    entries: Vec<ServerEntry>,
    buckets: Vec<List<InServerBucket>>,
    /// All servers without idle connections, and some that have one again.
    vacant: List<Vacant>,
    /// From which server on [`ServerTable::next_with_idle`] looks.
    turn: usize,
}

#[derive(Debug)]
pub(super) struct ServerEntry {
    /// Its idle connections.
    pub(super) ring: Ring,
    /// Whether it is in the list `vacant`.
    listed: bool,
    hash: u32,
    /// Counts the addresses that the entry has had.
    version: u32,
    in_bucket: Neighbours,
    in_vacant: Neighbours,
    length: u8,
    address: [u8; MAX_ADDRESS],
}

#[derive(Debug)]
struct InServerBucket;

impl Node<InServerBucket> for ServerEntry {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_bucket
    }
}

#[derive(Debug)]
struct Vacant;

impl Node<Vacant> for ServerEntry {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_vacant
    }
}

impl ServerEntry {
    pub(super) fn address(&self) -> &[u8] {
        self.address.get(..usize::from(self.length)).unwrap_or_default()
    }

    fn set_address(&mut self, address: &[u8], hash: u32) {
        if let Some(room) = self.address.get_mut(..address.len()) {
            room.copy_from_slice(address);
            self.length = address.len() as u8;
        }
        self.hash = hash;
        self.version = self.version.wrapping_add(1);
    }
}

impl ServerTable {
    pub(super) fn new(capacity: usize) -> Result<Self, TryReserveError> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(capacity)?;
        Ok(Self { entries, buckets: buckets(capacity)?, vacant: List::default(), turn: 0 })
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
        let mut at = self.buckets[hash as usize & (self.buckets.len() - 1)].newest();
        while let Some(server) = self.entries.get(at as usize) {
            if server.hash == hash && server.address() == address {
                return Some(at);
            }
            at = server.in_bucket.older();
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

    /// The server at an address. `None` if it is new and every entry is a server with idle connections.
    #[inline]
    pub(super) fn find_or_add(&mut self, address: &[u8]) -> Option<Link> {
        let hash = hash_bytes(0, address) as u32;
        self.find_hashed(address, hash).or_else(|| self.add(address, hash))
    }

    #[cold]
    fn add(&mut self, address: &[u8], hash: u32) -> Option<Link> {
        let mask = self.buckets.len() - 1;
        let at = if self.entries.len() < self.entries.capacity() {
            self.entries.push(ServerEntry::default());
            (self.entries.len() - 1) as Link
        } else {
            let at = self.longest_vacant()?;
            let bucket = self.entries[at as usize].hash as usize & mask;
            self.buckets[bucket].unlink(&mut self.entries, at);
            at
        };
        self.entries[at as usize].set_address(address, hash);
        self.buckets[hash as usize & mask].push(&mut self.entries, at);
        self.list_as_vacant(at);
        Some(at)
    }

    /// Removes the server that has been vacant longest from the list. Servers that are not vacant any more are removed on
    /// the way. Each was listed once, so the cost is constant on average.
    fn longest_vacant(&mut self) -> Option<Link> {
        loop {
            let at = self.vacant.oldest();
            let server = self.entries.get_mut(at as usize)?;
            server.listed = false;
            let vacant = server.ring.len() == 0;
            self.vacant.unlink(&mut self.entries, at);
            if vacant {
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
            in_bucket: Neighbours::default(),
            in_vacant: Neighbours::default(),
            length: 0,
            address: [0; MAX_ADDRESS],
        }
    }
}

/// A reference to a server; see [`ServerTable::known`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerRef {
    at: Link,
    version: u32,
}

/// Empty buckets for a number of elements: the next power of two, at most [`MAX_BUCKETS`].
pub(super) fn buckets<K>(elements: usize) -> Result<Vec<List<K>>, TryReserveError> {
    let number = elements.min(MAX_BUCKETS).next_power_of_two();
    let mut buckets = Vec::new();
    buckets.try_reserve_exact(number)?;
    buckets.resize_with(number, List::default);
    Ok(buckets)
}
