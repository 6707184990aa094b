//! Groups: connections that are equal for every request, because all that shaped them is equal.
#![forbid(unsafe_code)]

use std::collections::TryReserveError;

use crate::base::address::MAX_ADDRESS;

use super::servers::{buckets, ServerRef};
use super::{InGroup, Key};
use crate::base::hash::{hash_bytes, mix};
use crate::base::list::{Link, List, Neighbours, Node, NONE};

/// A fixed number of groups. A plain one stays when its last connection goes, until its entry is
/// needed for another: so the usual way of a connection, out of the pool and back, changes nothing
/// here. One with an identity goes with its last connection, as that holds the identity.
#[derive(Debug, Default)]
pub(super) struct Groups {
    entries: Vec<Group>,
    buckets: Vec<List<InGroupBucket>>,
    /// All plain groups without idle connections, and some that have got one since.
    vacant: List<InSpare>,
    /// Entries that are no group.
    free: List<InSpare>,
}

#[derive(Debug)]
pub(super) struct Group {
    /// Its idle connections.
    pub(super) idle: List<InGroup>,
    /// Its server, if servers have limits of their own and it has had a connection.
    pub(super) server: Option<ServerRef>,
    /// Its server has left the upstream; its connections are being taken out.
    pub(super) removed: bool,
    /// Its connections have an identity, which the first of them holds.
    has_identity: bool,
    /// It is in the list `vacant`.
    listed: bool,
    length: u8,
    hash: u32,
    /// Counts the groups that the entry has been.
    version: u32,
    protocol: usize,
    location: usize,
    in_bucket: Neighbours,
    in_spare: Neighbours,
    address: [u8; MAX_ADDRESS],
}

/// Which group a request's connection belongs to. Holds until the entry is needed for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRef {
    at: Link,
    version: u32,
}

#[derive(Debug)]
struct InGroupBucket;

impl Node<InGroupBucket> for Group {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_bucket
    }
}

/// The lists of entries that can be had for a new group.
#[derive(Debug)]
struct InSpare;

impl Node<InSpare> for Group {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_spare
    }
}

impl Group {
    pub(super) fn address(&self) -> &[u8] {
        self.address.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Whether all but the identity is as key. Addresses of IPv4, the usual ones, are compared
    /// in two words.
    #[inline]
    fn leads_to(&self, key: &Key<'_>) -> bool {
        self.protocol == key.protocol
            && self.location == key.location
            && match (self.address.first_chunk::<16>(), <&[u8; 16]>::try_from(key.address)) {
                (Some(own), Ok(address)) => self.length == 16 && own == address,
                _ => self.address() == key.address,
            }
    }

    fn is_vacant(&self) -> bool {
        self.idle.newest() == NONE
    }
}

impl Groups {
    pub(super) fn new(capacity: usize) -> Result<Self, TryReserveError> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(capacity)?;
        let buckets = buckets(capacity)?;
        Ok(Self { entries, buckets, vacant: List::default(), free: List::default() })
    }

    pub(super) fn get(&self, group: Link) -> &Group {
        &self.entries[group as usize]
    }

    pub(super) fn get_mut(&mut self, group: Link) -> &mut Group {
        &mut self.entries[group as usize]
    }

    /// Those with idle connections.
    pub(super) fn occupied(&mut self) -> impl Iterator<Item = &mut Group> {
        self.entries.iter_mut().filter(|group| !group.is_vacant())
    }

    /// The group of what is key. `same_identity` compares with that of a connection; the hash
    /// has no say in it.
    #[inline(always)]
    pub(super) fn find(&self, key: &Key<'_>, same_identity: impl Fn(Link) -> bool) -> Option<Link> {
        let hash = key.hash();
        // Before any is stored there are no buckets.
        let mut at = self.buckets.get(self.bucket(hash))?.newest();
        while let Some(group) = self.entries.get(at as usize) {
            if group.hash == hash
                && group.leads_to(key)
                && group.has_identity != key.identity.is_empty()
                && (!group.has_identity || same_identity(group.idle.newest()))
            {
                return Some(at);
            }
            at = group.in_bucket.older();
        }
        None
    }

    /// The name of a group for later.
    #[inline]
    pub(super) fn reference(&self, group: Link) -> GroupRef {
        GroupRef { at: group, version: self.entries[group as usize].version }
    }

    /// The group, unless its entry has become another one, or the server is another one by now.
    #[inline]
    pub(super) fn known(&self, group: GroupRef, key: &Key<'_>) -> Option<Link> {
        let entry = self.entries.get(group.at as usize)?;
        (entry.version == group.version && entry.leads_to(key)).then_some(group.at)
    }

    /// Makes the group of what is key; `None` if each entry is a group with idle connections.
    #[cold]
    pub(super) fn add(&mut self, key: &Key<'_>) -> Option<Link> {
        let at = self.free_entry()?;
        let hash = key.hash();
        let group = &mut self.entries[at as usize];
        if let Some(room) = group.address.get_mut(..key.address.len()) {
            room.copy_from_slice(key.address);
            group.length = key.address.len() as u8;
        }
        group.protocol = key.protocol;
        group.location = key.location;
        group.has_identity = !key.identity.is_empty();
        group.hash = hash;
        group.server = None;
        group.removed = false;
        let bucket = self.bucket(hash);
        self.buckets[bucket].push(&mut self.entries, at);
        Some(at)
    }

    fn free_entry(&mut self) -> Option<Link> {
        if self.free.newest() == NONE {
            if self.entries.len() < self.entries.capacity() {
                self.entries.push(Group::default());
                return Some((self.entries.len() - 1) as Link);
            }
            self.remove_longest_vacant();
        }
        let at = self.free.newest();
        (at != NONE).then(|| {
            self.free.unlink(&mut self.entries, at);
            at
        })
    }

    /// Each group that is passed over was listed once for it, so the cost is constant on average.
    fn remove_longest_vacant(&mut self) {
        let mut at = self.vacant.oldest();
        while let Some(group) = self.entries.get_mut(at as usize) {
            group.listed = false;
            let vacant = group.is_vacant();
            self.vacant.unlink(&mut self.entries, at);
            if vacant {
                return self.remove(at);
            }
            at = self.vacant.oldest();
        }
    }

    /// To be called when the last idle connection of a group has gone.
    #[inline]
    pub(super) fn vacated(&mut self, at: Link) {
        let group = &mut self.entries[at as usize];
        if group.has_identity {
            self.remove(at);
        } else if !group.listed {
            self.list_as_vacant(at);
        }
    }

    fn remove(&mut self, at: Link) {
        let group = &mut self.entries[at as usize];
        group.version = group.version.wrapping_add(1);
        let bucket = group.hash as usize & (self.buckets.len() - 1);
        self.buckets[bucket].unlink(&mut self.entries, at);
        self.free.push(&mut self.entries, at);
    }

    #[cold]
    fn list_as_vacant(&mut self, at: Link) {
        self.entries[at as usize].listed = true;
        self.vacant.push(&mut self.entries, at);
    }

    fn bucket(&self, hash: u32) -> usize {
        hash as usize & self.buckets.len().wrapping_sub(1)
    }
}

impl Default for Group {
    fn default() -> Self {
        Self {
            idle: List::default(),
            server: None,
            removed: false,
            has_identity: false,
            listed: false,
            length: 0,
            hash: 0,
            version: 0,
            protocol: 0,
            location: 0,
            in_bucket: Neighbours::default(),
            in_spare: Neighbours::default(),
            address: [0; MAX_ADDRESS],
        }
    }
}

impl Key<'_> {
    /// A number to find the group by. Whether two are equal is never for it to say.
    #[inline]
    fn hash(&self) -> u32 {
        let hash = hash_bytes(mix(self.protocol as u64, self.location as u64), self.address);
        let hash = if self.identity.is_empty() { hash } else { hash_bytes(hash, self.identity) };
        hash as u32
    }
}
