//! The addresses of groups and of servers. An IPv4 address lies in its entry, so that an entry is small; a longer one lies apart.
#![forbid(unsafe_code)]

use super::steps;
use crate::base::address::MAX_ADDRESS;
use crate::base::list::{Link, NONE};

/// The size of an IPv4 socket address, in bytes.
const SHORT: usize = 16;

/// The size of an IPv6 socket address, in bytes.
const MEDIUM: usize = 28;

/// An address, or where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// The address, if it is a short one. Otherwise its link is at the beginning.
    bytes: [u8; SHORT],
    length: u8,
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
    pub(super) const EMPTY: Self = Self { bytes: [0; SHORT], length: 0 };

    fn linked(link: Link, length: u8) -> Self {
        let mut bytes = [0; SHORT];
        set_link(&mut bytes, link);
        Self { bytes, length }
    }
}

impl Addresses {
    /// Keeps an address, one of at most `limit`. `None` if there is no memory, or it is too long.
    pub(super) fn keep(&mut self, address: &[u8], limit: usize) -> Option<Address> {
        let length = u8::try_from(address.len()).ok()?;
        if address.len() > MEDIUM {
            return Some(Address::linked(self.long.keep(address, limit)?, length));
        }
        if address.len() > SHORT {
            return Some(Address::linked(self.medium.keep(address, limit)?, length));
        }
        let mut kept = Address { length, ..Address::EMPTY };
        kept.bytes.get_mut(..address.len())?.copy_from_slice(address);
        Some(kept)
    }

    /// An address is not needed any more.
    pub(super) fn release(&mut self, address: Address) {
        if usize::from(address.length) > MEDIUM {
            self.long.release(link(&address.bytes));
        } else if usize::from(address.length) > SHORT {
            self.medium.release(link(&address.bytes));
        }
    }

    /// The bytes of an address.
    pub(super) fn get<'a>(&'a self, address: &'a Address) -> &'a [u8] {
        let length = usize::from(address.length);
        let bytes = if length > MEDIUM {
            self.long.get(link(&address.bytes))
        } else if length > SHORT {
            self.medium.get(link(&address.bytes))
        } else {
            &address.bytes
        };
        bytes.get(..length).unwrap_or_default()
    }

    /// Whether an address is this one, byte for byte. IPv4 addresses, the usual ones, are compared as two words.
    #[inline(always)]
    pub(super) fn is(&self, address: &Address, other: &[u8]) -> bool {
        match <&[u8; SHORT]>::try_from(other) {
            Ok(other) => usize::from(address.length) == SHORT && address.bytes == *other,
            Err(_) => self.is_same(address, other),
        }
    }

    #[inline(never)]
    fn is_same(&self, address: &Address, other: &[u8]) -> bool {
        self.get(address) == other
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
