//! Classes: connections that are equal for every request, because all that shaped them is equal.

use std::collections::TryReserveError;

use crate::base::address::MAX_ADDRESS;

use super::servers::{buckets, ServerRef};
use super::{InClass, Wanted};
use crate::base::hash::{hash_bytes, mix};
use crate::base::list::{Link, List, Neighbours, Node, NONE};

/// A fixed number of classes. A plain one stays when its last connection goes, until its entry is
/// needed for another: so the usual way of a connection, out of the pool and back, changes nothing
/// here. One with an identity goes with its last connection, as that holds the identity.
#[derive(Debug, Default)]
pub(super) struct Classes {
    entries: Vec<Class>,
    buckets: Vec<List<InBucket>>,
    /// All plain classes without idle connections, and some that have got one since.
    vacant: List<InSpare>,
    /// Entries that are no class.
    free: List<InSpare>,
}

#[derive(Debug)]
pub(super) struct Class {
    /// Its idle connections.
    pub(super) idle: List<InClass>,
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
    /// Counts the classes that the entry has been.
    version: u32,
    protocol: usize,
    location: usize,
    in_bucket: Neighbours,
    in_spare: Neighbours,
    address: [u8; MAX_ADDRESS],
}

/// Which class a request's connection belongs to. Holds until the entry is needed for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassRef {
    at: Link,
    version: u32,
}

#[derive(Debug)]
struct InBucket;

impl Node<InBucket> for Class {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_bucket
    }
}

/// The lists of entries that can be had for a new class.
#[derive(Debug)]
struct InSpare;

impl Node<InSpare> for Class {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.in_spare
    }
}

impl Class {
    pub(super) fn address(&self) -> &[u8] {
        self.address.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Whether all but the identity is as wanted. Addresses of IPv4, the usual ones, are compared
    /// in two words.
    #[inline]
    fn leads_to(&self, wanted: &Wanted<'_>) -> bool {
        self.protocol == wanted.protocol
            && self.location == wanted.location
            && match (self.address.first_chunk::<16>(), <&[u8; 16]>::try_from(wanted.address)) {
                (Some(own), Ok(address)) => self.length == 16 && own == address,
                _ => self.address() == wanted.address,
            }
    }

    fn is_vacant(&self) -> bool {
        self.idle.newest() == NONE
    }
}

impl Classes {
    pub(super) fn new(capacity: usize) -> Result<Self, TryReserveError> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(capacity)?;
        let buckets = buckets(capacity)?;
        Ok(Self { entries, buckets, vacant: List::default(), free: List::default() })
    }

    pub(super) fn get(&self, class: Link) -> &Class {
        &self.entries[class as usize]
    }

    pub(super) fn get_mut(&mut self, class: Link) -> &mut Class {
        &mut self.entries[class as usize]
    }

    /// Those with idle connections.
    pub(super) fn occupied(&mut self) -> impl Iterator<Item = &mut Class> {
        self.entries.iter_mut().filter(|class| !class.is_vacant())
    }

    /// The class of what is wanted. `same_identity` compares with that of a connection; the hash
    /// has no say in it.
    #[inline(always)]
    pub(super) fn find(&self, wanted: &Wanted<'_>, same_identity: impl Fn(Link) -> bool) -> Option<Link> {
        let hash = wanted.hash();
        // Before any is stored there are no buckets.
        let mut at = self.buckets.get(self.bucket(hash))?.newest();
        while let Some(class) = self.entries.get(at as usize) {
            if class.hash == hash
                && class.leads_to(wanted)
                && class.has_identity != wanted.identity.is_empty()
                && (!class.has_identity || same_identity(class.idle.newest()))
            {
                return Some(at);
            }
            at = class.in_bucket.older();
        }
        None
    }

    /// The name of a class for later.
    #[inline]
    pub(super) fn reference(&self, class: Link) -> ClassRef {
        ClassRef { at: class, version: self.entries[class as usize].version }
    }

    /// The class, unless its entry has become another one, or the server is another one by now.
    #[inline]
    pub(super) fn known(&self, class: ClassRef, wanted: &Wanted<'_>) -> Option<Link> {
        let entry = self.entries.get(class.at as usize)?;
        (entry.version == class.version && entry.leads_to(wanted)).then_some(class.at)
    }

    /// Makes the class of what is wanted; `None` if each entry is a class with idle connections.
    #[cold]
    pub(super) fn add(&mut self, wanted: &Wanted<'_>) -> Option<Link> {
        let at = self.free_entry()?;
        let hash = wanted.hash();
        let class = &mut self.entries[at as usize];
        if let Some(room) = class.address.get_mut(..wanted.address.len()) {
            room.copy_from_slice(wanted.address);
            class.length = wanted.address.len() as u8;
        }
        class.protocol = wanted.protocol;
        class.location = wanted.location;
        class.has_identity = !wanted.identity.is_empty();
        class.hash = hash;
        class.server = None;
        class.removed = false;
        let bucket = self.bucket(hash);
        self.buckets[bucket].push(&mut self.entries, at);
        Some(at)
    }

    fn free_entry(&mut self) -> Option<Link> {
        if self.free.newest() == NONE {
            if self.entries.len() < self.entries.capacity() {
                self.entries.push(Class::default());
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

    /// Each class that is passed over was listed once for it, so the cost is constant on average.
    fn remove_longest_vacant(&mut self) {
        let mut at = self.vacant.oldest();
        while let Some(class) = self.entries.get_mut(at as usize) {
            class.listed = false;
            let vacant = class.is_vacant();
            self.vacant.unlink(&mut self.entries, at);
            if vacant {
                return self.remove(at);
            }
            at = self.vacant.oldest();
        }
    }

    /// To be called when the last idle connection of a class has gone.
    #[inline]
    pub(super) fn vacated(&mut self, at: Link) {
        let class = &mut self.entries[at as usize];
        if class.has_identity {
            self.remove(at);
        } else if !class.listed {
            self.list_as_vacant(at);
        }
    }

    fn remove(&mut self, at: Link) {
        let class = &mut self.entries[at as usize];
        class.version = class.version.wrapping_add(1);
        let bucket = class.hash as usize & (self.buckets.len() - 1);
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

impl Default for Class {
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

impl Wanted<'_> {
    /// A number to find the class by. Whether two are equal is never for it to say.
    #[inline]
    fn hash(&self) -> u32 {
        let hash = hash_bytes(mix(self.protocol as u64, self.location as u64), self.address);
        let hash = if self.identity.is_empty() { hash } else { hash_bytes(hash, self.identity) };
        hash as u32
    }
}
