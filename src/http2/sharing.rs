//! Which requests share a carrier: those with equal keys. For each key there are a few carriers, and requests that wait
//! for one of their streams.
//!
//! ```text
//!   a request --> has a carrier a free stream, and nobody waits for it?
//!                   | no         yes: the one with the most free streams                         -> Join
//!                   +-- the server did not choose HTTP/2: an ordinary connection                 -> Ordinary
//!                   +-- as many carriers as allowed, with those that are being opened            -> Wait
//!                   +-- those being opened, and those whose servers have yet to say how many
//!                   |   streams they allow, will have room for all who wait, in a second         -> Wait
//!                   +-- else the request opens one                                               -> Open
//! ```
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::base::clock::Msec;
use crate::pool::Key;

/// A group of equal keys. It is valid as long as the group has a carrier, an opener or a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupId(u32);

/// What a carrier can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The number of streams that can be opened now.
    pub streams: usize,
    /// The server has said how many streams it allows.
    pub is_settled: bool,
    /// It takes no further stream, ever.
    pub is_draining: bool,
}

/// Where a request finds its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<C> {
    /// On this carrier.
    Join(C),
    /// On a carrier that it opens: [`Sharing::opened`] or [`Sharing::not_opened`] follows.
    Open(GroupId),
    /// On a connection of its own: the server does not speak HTTP/2.
    Ordinary,
    /// It waits.
    Wait(GroupId),
    /// There is no memory.
    Failed,
}

/// What each key may have, at least 1 of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Carriers.
    pub carriers: usize,
    /// Streams of a carrier.
    pub streams: usize,
}

/// How long requests wait for a carrier that is to come before another one may be opened, in milliseconds.
const PATIENCE: Msec = 1_000;

/// Up to how many keys those without carriers are remembered, because their servers do not speak HTTP/2.
const MAX_ORDINARY: usize = 4096;

/// The carriers of one upstream in one worker.
#[derive(Debug)]
pub struct Sharing<C> {
    groups: Vec<Option<Group<C>>>,
    /// The first group for a hash.
    heads: HashMap<u32, u32>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Group<C> {
    key: OwnedKey,
    hash: u32,
    /// The next group with the same hash.
    next: Option<u32>,
    carriers: Vec<C>,
    /// Requests that open a connection which is to become a carrier.
    opening: usize,
    /// When the last of them has begun.
    opened: Msec,
    waiting: usize,
    is_ordinary: bool,
}

#[derive(Debug)]
struct OwnedKey {
    address: Box<[u8]>,
    protocol: usize,
    location: usize,
    identity: Box<[u8]>,
}

impl OwnedKey {
    fn of(key: &Key<'_>) -> Option<Self> {
        let copy = |bytes: &[u8]| {
            let mut copy = Vec::new();
            copy.try_reserve_exact(bytes.len()).ok()?;
            copy.extend_from_slice(bytes);
            Some(copy.into_boxed_slice())
        };
        Some(Self {
            address: copy(key.address)?,
            protocol: key.protocol,
            location: key.location,
            identity: copy(key.identity)?,
        })
    }

    fn is(&self, key: &Key<'_>) -> bool {
        self.protocol == key.protocol
            && self.location == key.location
            && *self.address == *key.address
            && *self.identity == *key.identity
    }
}

impl<C> Default for Sharing<C> {
    fn default() -> Self {
        Self { groups: Vec::new(), heads: HashMap::new(), free: Vec::new() }
    }
}

impl<C: Clone> Sharing<C> {
    /// Finds the place of a request. `has_waited` says that the request has its turn, so it does not wait behind others; `look` tells
    /// what a carrier can take.
    pub fn place(
        &mut self,
        key: &Key<'_>,
        most: Most,
        has_waited: bool,
        now: Msec,
        look: impl Fn(&C) -> Room,
    ) -> Place<C> {
        let Some(id) = self.find(key).or_else(|| self.add(key)) else { return Place::Failed };
        let Some(group) = self.group_mut(id) else { return Place::Failed };
        let (best, usable) = group.survey(look);
        let waits = group.waiting > 0 && !has_waited;
        match best {
            Some(carrier) if !waits => return Place::Join(carrier),
            _ if group.is_ordinary => return Place::Ordinary,
            _ => {}
        }
        if group.needs_another(&usable, most, !has_waited, now) {
            group.opening += 1;
            group.opened = now;
            return Place::Open(id);
        }
        Place::Wait(id)
    }

    /// Whether a request that waits at a group would find a place.
    pub fn has_place(&self, id: GroupId, most: Most, now: Msec, look: impl Fn(&C) -> Room) -> bool {
        let Some(group) = self.group(id) else { return true };
        let (best, usable) = group.survey(look);
        best.is_some() || group.is_ordinary || group.needs_another(&usable, most, false, now)
    }

    /// The connection of an opener has become a carrier. `None` if there is no memory: nobody else uses it then.
    pub fn opened(&mut self, id: GroupId, carrier: C) -> Option<()> {
        let group = self.group_mut(id)?;
        group.opening = group.opening.saturating_sub(1);
        group.is_ordinary = false;
        group.carriers.try_reserve(1).ok()?;
        group.carriers.push(carrier);
        Some(())
    }

    /// The connection of an opener has failed, or carries one request only. `is_ordinary`: the server did not choose HTTP/2.
    pub fn not_opened(&mut self, id: GroupId, is_ordinary: bool) {
        if let Some(group) = self.group_mut(id) {
            group.opening = group.opening.saturating_sub(1);
            group.is_ordinary |= is_ordinary;
        }
        self.drop_if_empty(id);
    }

    /// A request waits at the group.
    pub fn wait(&mut self, id: GroupId) {
        if let Some(group) = self.group_mut(id) {
            group.waiting += 1;
        }
    }

    /// A request does not wait any more.
    pub fn end_wait(&mut self, id: GroupId) {
        if let Some(group) = self.group_mut(id) {
            group.waiting = group.waiting.saturating_sub(1);
        }
        self.drop_if_empty(id);
    }

    /// Takes out the carriers of a group for which `is_it` is true. Returns one of them.
    pub fn remove(&mut self, id: GroupId, is_it: impl Fn(&C) -> bool) -> Option<C> {
        let group = self.group_mut(id)?;
        let at = group.carriers.iter().position(is_it)?;
        let carrier = group.carriers.swap_remove(at);
        self.drop_if_empty(id);
        Some(carrier)
    }

    /// The group with this key, where a connection that nobody has announced becomes a carrier.
    pub fn announce(&mut self, key: &Key<'_>) -> Option<GroupId> {
        let id = self.find(key).or_else(|| self.add(key))?;
        self.group_mut(id)?.opening += 1;
        Some(id)
    }

    /// All carriers, with the addresses of their servers.
    pub fn carriers(&self) -> impl Iterator<Item = (&[u8], &C)> {
        let groups = self.groups.iter().flatten();
        groups.flat_map(|group| group.carriers.iter().map(|carrier| (&*group.key.address, carrier)))
    }

    fn find(&self, key: &Key<'_>) -> Option<GroupId> {
        let mut at = self.heads.get(&key.hash()).copied();
        while let Some(number) = at {
            let group = self.group(GroupId(number))?;
            if group.key.is(key) {
                return Some(GroupId(number));
            }
            at = group.next;
        }
        None
    }

    fn add(&mut self, key: &Key<'_>) -> Option<GroupId> {
        let hash = key.hash();
        let owned = OwnedKey::of(key)?;
        self.heads.try_reserve(1).ok()?;
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                let number = u32::try_from(self.groups.len()).ok()?;
                self.groups.try_reserve(1).ok()?;
                // One place for each group that can become free: giving one back needs no memory.
                self.free.try_reserve(self.groups.len() + 1).ok()?;
                self.groups.push(None);
                number
            }
        };
        let next = self.heads.insert(hash, number);
        *self.groups.get_mut(number as usize)? = Some(Group {
            key: owned,
            hash,
            next,
            carriers: Vec::new(),
            opening: 0,
            opened: 0,
            waiting: 0,
            is_ordinary: false,
        });
        Some(GroupId(number))
    }

    fn group(&self, id: GroupId) -> Option<&Group<C>> {
        self.groups.get(id.0 as usize)?.as_ref()
    }

    fn group_mut(&mut self, id: GroupId) -> Option<&mut Group<C>> {
        self.groups.get_mut(id.0 as usize)?.as_mut()
    }

    /// Forgets a group that has nothing any more. A server that does not speak HTTP/2 is remembered.
    fn drop_if_empty(&mut self, id: GroupId) {
        let Some(group) = self.group(id) else { return };
        if !group.carriers.is_empty() || group.opening > 0 || group.waiting > 0 {
            return;
        }
        if !group.is_ordinary || self.groups.len() - self.free.len() > MAX_ORDINARY {
            self.take_out(id);
        }
    }

    fn take_out(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.free.push(id.0);
        match (self.heads.get(&group.hash).copied(), group.next) {
            (Some(head), Some(next)) if head == id.0 => {
                self.heads.insert(group.hash, next);
            }
            (Some(head), None) if head == id.0 => {
                self.heads.remove(&group.hash);
            }
            (Some(mut at), next) => {
                while let Some(before) = self.group_mut(GroupId(at)) {
                    match before.next {
                        Some(behind) if behind == id.0 => {
                            before.next = next;
                            return;
                        }
                        Some(behind) => at = behind,
                        None => return,
                    }
                }
            }
            (None, _) => {}
        }
    }
}

/// The carriers of a group that still take requests.
struct Usable {
    number: usize,
    /// How many of them have yet to be told how many streams their servers allow.
    unsettled: usize,
}

impl<C: Clone> Group<C> {
    /// The carrier with the most free streams, if any has one, and what is usable.
    fn survey(&self, look: impl Fn(&C) -> Room) -> (Option<C>, Usable) {
        let (mut best, mut most) = (None, 0);
        let mut usable = Usable { number: 0, unsettled: 0 };
        for carrier in &self.carriers {
            let room = look(carrier);
            if room.is_draining {
                continue;
            }
            usable.number += 1;
            usable.unsettled += usize::from(!room.is_settled);
            if room.streams > most {
                (best, most) = (Some(carrier), room.streams);
            }
        }
        (best.cloned(), usable)
    }

    /// Whether a request opens a carrier. It waits if the carriers to come will have room for all: for it, if it `is_new`, for those
    /// who wait, and for those who open them, of whom each has a stream.
    /// A carrier that does not come within a second is not waited for.
    fn needs_another(&self, usable: &Usable, most: Most, is_new: bool, now: Msec) -> bool {
        let is_soon = now.wrapping_sub(self.opened) < PATIENCE;
        let to_come = if is_soon { self.opening + usable.unsettled } else { 0 };
        let requests = self.waiting + usize::from(is_new) + to_come;
        usable.number + self.opening < most.carriers && requests > most.streams.saturating_mul(to_come)
    }
}

#[cfg(test)]
mod tests;
