//! Groups: connections with an equal key, which are interchangeable for every request.
#![forbid(unsafe_code)]

use std::collections::TryReserveError;

use super::servers::{buckets, ServerRef};
use super::{InGroup, Key};
use crate::base::address::MAX_ADDRESS;
use crate::base::hash::{hash_bytes, mix};
use crate::base::list::{Link, List, Neighbours, Node, NONE};

/// A fixed number of groups. A group without an identity stays when its last connection is taken, until its entry is
/// needed for another one. So nothing changes here when a connection is taken and stored again, the usual case. A group
/// with an identity is removed with its last connection, which holds the identity.
#[derive(Debug, Default)]
pub(super) struct Groups {
    entries: Vec<Group>,
    buckets: Vec<List<InGroupBucket>>,
    /// All groups without an identity that have no idle connections, and some that have one again.
    vacant: List<InSpare>,
    /// Entries that are not in use.
    free: List<InSpare>,
    /// The group without an identity that was found last: it is looked at first.
    recent: Recent,
}

/// A group, or none.
#[derive(Debug)]
struct Recent(Link);

impl Default for Recent {
    fn default() -> Self {
        Self(NONE)
    }
}

#[derive(Debug)]
pub(super) struct Group {
    /// Its idle connections.
    pub(super) idle: List<InGroup>,
    /// Its server, with [`Limit::PerServer`](super::Limit::PerServer), once it has had a connection.
    pub(super) server: Option<ServerRef>,
    /// Whether its server has left the upstream. Then its connections are being taken.
    pub(super) removed: bool,
    /// Whether it has an identity. Each of its connections holds it.
    has_identity: bool,
    /// Whether it is in the list `vacant`.
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

/// A reference to a group. It is valid until the entry is needed for another group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupRef {
    pub(super) at: Link,
    version: u32,
}

#[derive(Debug)]
struct InGroupBucket;

impl Node<InGroupBucket> for Group {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_bucket
    }
}

/// The kind of the lists of entries that a new group can take.
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

    /// The key of its connections, which have this identity.
    pub(super) fn key<'a>(&'a self, identity: &'a [u8]) -> Key<'a> {
        Key { address: self.address(), protocol: self.protocol, location: self.location, identity }
    }

    /// The hash of its key.
    #[inline]
    pub(super) fn hash(&self) -> u32 {
        self.hash
    }

    /// Whether everything but the identity matches the key. IPv4 addresses, the usual ones, are compared
    /// as two words.
    #[inline(always)]
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

    /// Whether [`Groups::vacated`] has to be called when its last idle connection has been taken.
    #[inline]
    pub(super) fn is_noted_when_vacant(&self) -> bool {
        self.has_identity || !self.listed
    }
}

impl Groups {
    pub(super) fn new(capacity: usize) -> Result<Self, TryReserveError> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(capacity)?;
        let buckets = buckets(capacity)?;
        Ok(Self { entries, buckets, ..Self::default() })
    }

    pub(super) fn get(&self, group: Link) -> &Group {
        &self.entries[group as usize]
    }

    pub(super) fn get_mut(&mut self, group: Link) -> &mut Group {
        &mut self.entries[group as usize]
    }

    /// The groups with idle connections.
    pub(super) fn occupied(&mut self) -> impl Iterator<Item = &mut Group> {
        self.entries.iter_mut().filter(|group| !group.is_vacant())
    }

    /// The group with this key. `same_identity` compares the identity of the connection in a slot with the key's; equal
    /// hashes are not enough.
    #[inline(always)]
    pub(super) fn find(&self, key: &Key<'_>, same_identity: impl Fn(Link) -> bool) -> Option<Link> {
        let hash = key.hash();
        // There are no buckets before the first connection is stored.
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

    /// The newest connection of the group that was found last, or [`NONE`], if that is the group with this key. It takes no hash to
    /// know that.
    #[inline(always)]
    pub(super) fn recent(&self, key: &Key<'_>) -> Option<Link> {
        let group = self.entries.get(self.recent.0 as usize)?;
        (key.identity.is_empty() && group.leads_to(key)).then_some(group.idle.newest())
    }

    /// From now on this is the group that was found last.
    pub(super) fn look_first_at(&mut self, group: Link) {
        if !self.get(group).has_identity {
            self.recent = Recent(group);
        }
    }

    /// A reference to a group, for [`Groups::known`].
    #[inline]
    pub(super) fn reference(&self, group: Link) -> GroupRef {
        GroupRef { at: group, version: self.entries[group as usize].version }
    }

    /// The group, unless its entry has become another group, or the key has another server by now.
    #[inline]
    pub(super) fn known(&self, group: GroupRef, key: &Key<'_>) -> Option<Link> {
        let entry = self.entries.get(group.at as usize)?;
        (entry.version == group.version && entry.leads_to(key)).then_some(group.at)
    }

    /// The group of a connection that was lent, unless its entry has become another group.
    #[inline]
    pub(super) fn still(&mut self, group: GroupRef) -> Option<&mut Group> {
        self.entries.get_mut(group.at as usize).filter(|entry| entry.version == group.version)
    }

    /// Adds a group with this key. `None` if every entry is a group with idle connections.
    #[cold]
    pub(super) fn add(&mut self, key: &Key<'_>) -> Option<Link> {
        let at = self.free_entry()?;
        let group = &mut self.entries[at as usize];
        group.server = None;
        group.removed = false;
        self.name(at, key);
        Some(at)
    }

    /// Makes a group that of another key, with its connections. Those have the identity of the key.
    #[cold]
    pub(super) fn rename(&mut self, at: Link, key: &Key<'_>) {
        self.forget_name(at);
        self.name(at, key);
    }

    /// From now on the entry is another group.
    #[inline]
    fn forget_name(&mut self, at: Link) {
        if self.recent.0 == at {
            self.recent = Recent(NONE);
        }
        let group = &mut self.entries[at as usize];
        group.version = group.version.wrapping_add(1);
        let bucket = group.hash as usize & (self.buckets.len() - 1);
        self.buckets[bucket].unlink(&mut self.entries, at);
    }

    fn name(&mut self, at: Link, key: &Key<'_>) {
        let group = &mut self.entries[at as usize];
        if let Some(room) = group.address.get_mut(..key.address.len()) {
            room.copy_from_slice(key.address);
            group.length = key.address.len() as u8;
        }
        group.protocol = key.protocol;
        group.location = key.location;
        group.has_identity = !key.identity.is_empty();
        let hash = key.hash();
        group.hash = hash;
        let bucket = self.bucket(hash);
        self.buckets[bucket].push(&mut self.entries, at);
    }

    /// An entry for a new group. `None` if every entry is a group with idle connections.
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

    /// Removes the group that has been vacant longest. Groups that are not vacant any more are removed from the list on the
    /// way. Each was listed once, so the cost is constant on average.
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

    /// To be called when the last idle connection of a group has been taken, if [`Group::is_noted_when_vacant`].
    #[cold]
    pub(super) fn vacated(&mut self, at: Link) {
        let group = &mut self.entries[at as usize];
        if group.has_identity {
            self.remove(at);
        } else {
            group.listed = true;
            self.vacant.push(&mut self.entries, at);
        }
    }

    fn remove(&mut self, at: Link) {
        self.forget_name(at);
        self.free.push(&mut self.entries, at);
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
    /// The hash by which the group is found. Equal hashes do not mean equal keys.
    #[inline]
    pub fn hash(&self) -> u32 {
        let hash = hash_bytes(mix(self.protocol as u64, self.location as u64), self.address);
        let hash = if self.identity.is_empty() { hash } else { hash_bytes(hash, self.identity) };
        hash as u32
    }
}
