//! The addresses of groups and of servers. What is not zero in an IPv4 address lies in its entry, so that an
//! entry is small; any other address lies apart.
#![forbid(unsafe_code)]

use super::steps;
use crate::base::address::MAX_ADDRESS;
use crate::base::list::{Link, NONE};

/// The size of an IPv4 socket address, in bytes.
const IPV4: usize = 16;

/// How many of them may differ from zero: the others fill the address up.
const START: usize = 8;

/// The size of an IPv6 socket address, in bytes.
const MEDIUM: usize = 28;

/// An address, or where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// The beginning of the address, if the others are zero. Otherwise the link to it.
    start: [u8; START],
    /// Its length, or [`HERE`].
    length: u8,
}

/// The mark of an IPv4 address that is not apart.
const HERE: u8 = u8::MAX;

/// The bytes of an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whole<'a> {
    Ipv4([u8; IPV4]),
    Apart(&'a [u8]),
}

impl Whole<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Ipv4(bytes) => bytes,
            Self::Apart(bytes) => bytes,
        }
    }
}

/// The longer addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    medium: Shelf<MEDIUM>,
    long: Shelf<MAX_ADDRESS>,
}

/// Addresses up to a size.
#[derive(Debug)]
struct Shelf<const SIZE: usize> {
    rooms: Vec<[u8; SIZE]>,
    /// The first room that is not in use. Each has the link to the next at its beginning.
    free: Link,
}

impl Address {
    /// Of an entry that is not in use.
    pub(super) const EMPTY: Self = Self { start: [u8::MAX; START], length: 0 };
}

impl Addresses {
    /// Keeps an address, one of at most `limit`. `None` if there is no memory, or it is too long.
    pub(super) fn keep(&mut self, address: &[u8], limit: usize) -> Option<Address> {
        if let Ok(ipv4) = <&[u8; IPV4]>::try_from(address) {
            if ipv4.last_chunk() == Some(&[0; IPV4 - START]) {
                return Some(Address { start: *ipv4.first_chunk()?, length: HERE });
            }
        }
        let length = u8::try_from(address.len()).ok()?;
        let link = if address.len() > MEDIUM {
            self.long.keep(address, limit)?
        } else {
            self.medium.keep(address, limit)?
        };
        let mut kept = Address { length, ..Address::EMPTY };
        set_link(&mut kept.start, link);
        Some(kept)
    }

    /// An address is not needed any more.
    pub(super) fn release(&mut self, address: Address) {
        if address.length == HERE {
            return;
        }
        let link = link(&address.start);
        if usize::from(address.length) > MEDIUM {
            self.long.release(link);
        } else {
            self.medium.release(link);
        }
    }

    /// The bytes of an address.
    pub(super) fn get(&self, address: &Address) -> Whole<'_> {
        if address.length == HERE {
            let mut bytes = [0; IPV4];
            if let Some(start) = bytes.first_chunk_mut() {
                *start = address.start;
            }
            return Whole::Ipv4(bytes);
        }
        let (length, link) = (usize::from(address.length), link(&address.start));
        let room = if length > MEDIUM { self.long.get(link) } else { self.medium.get(link) };
        Whole::Apart(room.get(..length).unwrap_or_default())
    }

    /// Whether an address is this one, byte for byte. IPv4 addresses, the usual ones, are compared as two words.
    #[inline(always)]
    pub(super) fn is(&self, address: &Address, other: &[u8]) -> bool {
        match <&[u8; IPV4]>::try_from(other) {
            Ok(other) if address.length == HERE => {
                other.first_chunk() == Some(&address.start) && other.last_chunk() == Some(&[0; IPV4 - START])
            }
            _ => self.is_same(address, other),
        }
    }

    #[inline(never)]
    fn is_same(&self, address: &Address, other: &[u8]) -> bool {
        self.get(address).bytes() == other
    }
}

impl<const SIZE: usize> Shelf<SIZE> {
    fn keep(&mut self, address: &[u8], limit: usize) -> Option<Link> {
        let at = self.free;
        match self.rooms.get_mut(at as usize) {
            Some(room) => {
                self.free = link(room);
                room.get_mut(..address.len())?.copy_from_slice(address);
                Some(at)
            }
            None => {
                let mut room = [0; SIZE];
                room.get_mut(..address.len())?.copy_from_slice(address);
                steps::make_room(&mut self.rooms, limit)?;
                self.rooms.push(room);
                Some((self.rooms.len() - 1) as Link)
            }
        }
    }

    fn release(&mut self, at: Link) {
        if let Some(room) = self.rooms.get_mut(at as usize) {
            set_link(room, std::mem::replace(&mut self.free, at));
        }
    }

    fn get(&self, at: Link) -> &[u8] {
        self.rooms.get(at as usize).map_or(&[], |room| room)
    }
}

impl<const SIZE: usize> Default for Shelf<SIZE> {
    fn default() -> Self {
        Self { rooms: Vec::new(), free: NONE }
    }
}

fn link(bytes: &[u8]) -> Link {
    bytes.first_chunk().map_or(NONE, |link| Link::from_ne_bytes(*link))
}

fn set_link(bytes: &mut [u8], link: Link) {
    if let Some(room) = bytes.first_chunk_mut() {
        *room = link.to_ne_bytes();
    }
}
