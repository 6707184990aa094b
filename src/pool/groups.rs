//! Groups: connections with an equal key, which are interchangeable for every request.
#![forbid(unsafe_code)]

use super::addresses::{Address, Addresses, Whole};
use super::buckets::{Buckets, Hashed};
use super::fifo::{Fifo, Queued};
use super::servers::ServerRef;
use super::{steps, InGroup, Key};
use crate::base::hash::{hash_bytes, mix};
use crate::base::list::{Link, List, NONE};
use crate::base::memory;

/// The groups, of which there is a largest number. A group without an identity stays when its last connection is taken, until its entry is
/// needed for another one. So nothing changes here when a connection is taken and stored again, the usual case. A group
/// with an identity is removed with its last connection, which holds the identity.
#[derive(Debug)]
pub(super) struct Groups {
    entries: Vec<Group>,
    /// The largest number of entries.
    limit: usize,
    buckets: Buckets,
    /// The kinds of all groups that there were: few, so that a group has only a number.
    kinds: Vec<Kind>,
    addresses: Addresses,
    /// With [`Limit::PerServer`](super::Limit::PerServer) the server of each entry, once the group has had a connection.
    servers: Option<Vec<Option<ServerRef>>>,
    /// All groups without an identity that have no idle connections, and some that have one again.
    vacant: Fifo,
    /// The first of the entries that are not in use.
    free: Link,
    /// The group without an identity that was found last: it is looked at first.
    recent: Recent,
}

/// What a key has besides the address and the identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) protocol: usize,
    pub(super) location: usize,
}

/// A group, or none.
#[derive(Debug)]
struct Recent {
    at: Link,
    kind: Kind,
}

impl Recent {
    const NOTHING: Self = Self { at: NONE, kind: Kind { protocol: 0, location: 0 } };
}

#[derive(Debug)]
pub(super) struct Group {
    /// Its idle connections.
    pub(super) idle: List<InGroup>,
    hash: u32,
    /// Counts the groups that the entry has been.
    version: u32,
    /// The number of its kind.
    kind: u32,
    in_bucket: Link,
    in_spare: Link,
    address: Address,
    /// Whether its server has left the upstream. Then its connections are being taken.
    pub(super) removed: bool,
    /// Whether it has an identity. Each of its connections holds it.
    has_identity: bool,
    /// Whether it is in the queue `vacant`.
    listed: bool,
}

/// A reference to a group. It is valid until the entry is needed for another group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupRef {
    pub(super) at: Link,
    version: u32,
}

impl Hashed for Group {
    fn hash(&self) -> u32 {
        self.hash
    }

    fn next(&mut self) -> &mut Link {
        &mut self.in_bucket
    }
}

impl Queued for Group {
    fn newer(&mut self) -> &mut Link {
        &mut self.in_spare
    }
}

impl Group {
    /// The hash of its key.
    #[inline]
    pub(super) fn hash(&self) -> u32 {
        self.hash
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
    /// No groups yet. With `by_server`, each has a server.
    pub(super) fn new(limit: usize, by_server: bool) -> Self {
        Self {
            entries: Vec::new(),
            limit,
            buckets: Buckets::default(),
            kinds: Vec::new(),
            addresses: Addresses::default(),
            servers: by_server.then(Vec::new),
            vacant: Fifo::default(),
            free: NONE,
            recent: Recent::NOTHING,
        }
    }

    /// The memory of one group, in bytes.
    pub(super) const ENTRY: usize = size_of::<Group>();

    /// Reserves memory for so many groups. `None` if there is none.
    #[cold]
    pub(super) fn reserve(&mut self, number: usize) -> Option<()> {
        self.buckets.grow(&mut self.entries, number)?;
        steps::reserve(&mut self.entries, number)
    }

    pub(super) fn get(&self, group: Link) -> &Group {
        &self.entries[group as usize]
    }

    pub(super) fn get_mut(&mut self, group: Link) -> &mut Group {
        &mut self.entries[group as usize]
    }

    /// The address of a group.
    pub(super) fn address(&self, group: Link) -> Whole<'_> {
        self.addresses.get(&self.entries[group as usize].address)
    }

    /// Whether a group has this address.
    pub(super) fn is_at(&self, group: Link, address: &[u8]) -> bool {
        self.addresses.is(&self.entries[group as usize].address, address)
    }

    /// The protocol and the location of a group.
    pub(super) fn kind(&self, group: Link) -> Kind {
        self.kinds.get(self.get(group).kind as usize).copied().unwrap_or_default()
    }

    /// The server of a group, if it has one.
    #[inline]
    pub(super) fn server(&self, group: Link) -> Option<ServerRef> {
        self.servers.as_ref()?.get(group as usize).copied().flatten()
    }

    pub(super) fn set_server(&mut self, group: Link, server: Option<ServerRef>) {
        if let Some(own) = self.servers.as_mut().and_then(|servers| servers.get_mut(group as usize)) {
            *own = server;
        }
    }

    /// Marks the groups with idle connections for whose address `is_there` is false. Returns whether there are any.
    pub(super) fn mark_removed(&mut self, mut is_there: impl FnMut(&[u8]) -> bool) -> bool {
        let mut any = false;
        for group in self.entries.iter_mut().filter(|group| !group.is_vacant()) {
            group.removed = !is_there(self.addresses.get(&group.address).bytes());
            any |= group.removed;
        }
        any
    }

    /// Whether everything but the identity matches the key.
    #[inline(always)]
    fn leads_to(&self, group: &Group, key: &Key<'_>) -> bool {
        self.kinds.get(group.kind as usize) == Some(&key.kind())
            && self.addresses.is(&group.address, key.address)
    }

    /// The group with this key. `same_identity` compares the identity of the connection in a slot with the key's; equal
    /// hashes are not enough.
    #[inline(always)]
    pub(super) fn find(&self, key: &Key<'_>, same_identity: impl Fn(Link) -> bool) -> Option<Link> {
        let hash = key.hash();
        let mut at = self.buckets.first(hash);
        while let Some(group) = self.entries.get(at as usize) {
            if group.hash == hash
                && self.leads_to(group, key)
                && group.has_identity != key.identity.is_empty()
                && (!group.has_identity || same_identity(group.idle.newest()))
            {
                return Some(at);
            }
            at = group.in_bucket;
        }
        None
    }

    /// The newest connection of the group that was found last, or [`NONE`], if that is the group with this key. It takes no hash to
    /// know that.
    #[inline(always)]
    pub(super) fn recent(&self, key: &Key<'_>) -> Option<Link> {
        let Recent { at, kind } = &self.recent;
        let group = self.entries.get(*at as usize)?;
        let is_same =
            key.identity.is_empty() && *kind == key.kind() && self.addresses.is(&group.address, key.address);
        is_same.then_some(group.idle.newest())
    }

    /// From now on the group with this key is the one that was found last.
    pub(super) fn look_first_at(&mut self, group: Link, key: &Key<'_>) {
        if key.identity.is_empty() {
            self.recent = Recent { at: group, kind: key.kind() };
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
        (entry.version == group.version && self.leads_to(entry, key)).then_some(group.at)
    }

    /// The group of a connection that was lent, unless its entry has become another group.
    #[inline]
    pub(super) fn still(&mut self, group: GroupRef) -> Option<&mut Group> {
        self.entries.get_mut(group.at as usize).filter(|entry| entry.version == group.version)
    }

    /// Adds a group with this key. `None` if every entry is a group with idle connections, or there is no memory.
    #[cold]
    pub(super) fn add(&mut self, key: &Key<'_>) -> Option<Link> {
        let kind = self.number_of(key.kind())?;
        let at = self.free_entry()?;
        let Some(address) = self.addresses.keep(key.address, self.limit) else {
            self.give_back(at);
            return None;
        };
        self.set_server(at, None);
        let group = &mut self.entries[at as usize];
        group.removed = false;
        group.address = address;
        self.name(at, kind, key);
        Some(at)
    }

    /// Makes a group that of another key with the same address, with its connections. Those have the identity of the key. `None` if there
    /// is no memory: then nothing has changed.
    #[cold]
    pub(super) fn rename(&mut self, at: Link, key: &Key<'_>) -> Option<()> {
        let kind = self.number_of(key.kind())?;
        self.forget_name(at);
        self.name(at, kind, key);
        Some(())
    }

    /// From now on the entry is another group.
    #[inline]
    fn forget_name(&mut self, at: Link) {
        if self.recent.at == at {
            self.recent = Recent::NOTHING;
        }
        let group = &mut self.entries[at as usize];
        group.version = group.version.wrapping_add(1);
        self.buckets.remove(&mut self.entries, at);
    }

    fn name(&mut self, at: Link, kind: u32, key: &Key<'_>) {
        let group = &mut self.entries[at as usize];
        group.kind = kind;
        group.has_identity = !key.identity.is_empty();
        group.hash = key.hash();
        self.buckets.add(&mut self.entries, at);
    }

    /// The number of a kind. `None` if it is a new one, and there is no memory.
    fn number_of(&mut self, kind: Kind) -> Option<u32> {
        let known = self.kinds.iter().position(|known| *known == kind);
        if known.is_none() {
            memory::push(&mut self.kinds, kind)?;
        }
        u32::try_from(known.unwrap_or(self.kinds.len() - 1)).ok()
    }

    /// An entry for a new group. `None` if every entry is a group with idle connections, or there is no memory.
    fn free_entry(&mut self) -> Option<Link> {
        if self.free == NONE {
            if let Some(added) = self.add_entry() {
                return Some(added);
            }
            self.remove_longest_vacant();
        }
        let at = self.free;
        self.free = self.entries.get(at as usize)?.in_spare;
        Some(at)
    }

    /// An entry that was never used. `None` if there are as many as may be, or no memory for one more.
    fn add_entry(&mut self) -> Option<Link> {
        steps::make_room(&mut self.entries, self.limit)?;
        let number = self.entries.len() + 1;
        self.buckets.grow(&mut self.entries, number)?;
        if let Some(servers) = &mut self.servers {
            steps::make_room(servers, self.limit)?;
            servers.push(None);
        }
        self.entries.push(Group::default());
        Some((self.entries.len() - 1) as Link)
    }

    /// Removes the group that has been vacant longest. Groups that are not vacant any more are removed from the queue on the
    /// way. Each was listed once, so the cost is constant on average.
    fn remove_longest_vacant(&mut self) {
        while let Some(at) = self.vacant.pop(&mut self.entries) {
            let group = &mut self.entries[at as usize];
            group.listed = false;
            if group.is_vacant() {
                return self.remove(at);
            }
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
        let address = std::mem::replace(&mut self.entries[at as usize].address, Address::EMPTY);
        self.addresses.release(address);
        self.give_back(at);
    }

    /// An entry is not in use any more.
    fn give_back(&mut self, at: Link) {
        self.entries[at as usize].in_spare = std::mem::replace(&mut self.free, at);
    }
}

impl Default for Group {
    fn default() -> Self {
        Self {
            idle: List::default(),
            hash: 0,
            version: 0,
            kind: 0,
            in_bucket: NONE,
            in_spare: NONE,
            address: Address::EMPTY,
            removed: false,
            has_identity: false,
            listed: false,
        }
    }
}

impl Key<'_> {
    #[inline(always)]
    fn kind(&self) -> Kind {
        Kind { protocol: self.protocol, location: self.location }
    }

    /// The hash by which the group is found. Equal hashes do not mean equal keys.
    #[inline]
    pub fn hash(&self) -> u32 {
        let hash = hash_bytes(mix(self.protocol as u64, self.location as u64), self.address);
        let hash = if self.identity.is_empty() { hash } else { hash_bytes(hash, self.identity) };
        hash as u32
    }
}
