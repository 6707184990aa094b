//! Sets connections aside: no request finds them, and they are the first to be evicted.
#![forbid(unsafe_code)]

use super::{Connection, IdlePool, Key, Limit};
use crate::base::address::MAX_ADDRESS;
use crate::base::list::NONE;

impl<C: Connection> IdlePool<C> {
    /// Gives the connection in a slot another protocol, by which nobody looks for it, and makes it the next one to be evicted. It
    /// keeps its slot. `false` if the slot has none: then nothing has changed.
    #[cold]
    pub fn set_aside(&mut self, slot: u32, protocol: usize) -> bool {
        let Some(place) = self.slots.get(slot as usize) else { return false };
        let Some(conn) = place.idle() else { return false };
        let former = place.group.at;
        let mut address = [0; MAX_ADDRESS];
        let own = self.groups.address(former);
        let Some(room) = address.get_mut(..own.bytes().len()) else { return false };
        room.copy_from_slice(own.bytes());
        let key = Key { address: room, protocol, location: 0, identity: conn.identity() };
        let found = self.find(&key);
        let idle = &self.groups.get(former).idle;
        let group = match found {
            Some(found) => found,
            // Each entry may be needed by a group with a connection: this one becomes the other group.
            None if idle.newest() == idle.oldest() => match self.groups.rename(former, &key) {
                Some(()) => former,
                None => return false,
            },
            None => match self.groups.add(&key) {
                Some(added) => added,
                None => return false,
            },
        };

        let server = self.groups.server(former);
        if group != former {
            let entry = self.groups.get_mut(former);
            entry.idle.unlink(&mut self.slots, slot);
            if entry.idle.newest() == NONE && entry.is_noted_when_vacant() {
                self.groups.vacated(former);
            }
            self.groups.set_server(group, server);
            let entry = self.groups.get_mut(group);
            entry.idle.push(&mut self.slots, slot);
        }
        let place = &mut self.slots[slot as usize];
        place.group = self.groups.reference(group);
        place.let_expire();
        self.limited.put_last(place.conn.as_ref().and_then(C::server), slot);
        let ring = match self.limit {
            Limit::Total(_) => Some(&mut self.total),
            Limit::PerServer(_) => {
                server.and_then(|server| self.servers.known(server)).map(|server| self.servers.ring(server))
            }
        };
        if let Some(ring) = ring {
            ring.put_last(&mut self.slots, slot);
        }
        true
    }
}
