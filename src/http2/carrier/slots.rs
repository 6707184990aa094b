//! The places of streams: by key, by number, and in the lists of those who wait.
#![forbid(unsafe_code)]

use super::stream::{InWait, Kind, Owing, Slot, StreamKey, Waiting, Wake, Woken};
use crate::base::list::{Link, List, NONE};
use crate::base::memory;

/// The most lists of streams by number. Numbers are consecutive, so each list has few.
const MOST_BUCKETS: usize = 1 << 10;

/// The places of all streams, found by their numbers, and the lists that they are in.
#[derive(Debug)]
pub(super) struct Slots<T> {
    pub(super) all: Vec<Slot<T>>,
    buckets: Vec<Link>,
    free: Link,
    /// How many places are in use.
    pub(super) used: u32,
    /// How many of them have an owner.
    pub(super) owned: u32,
    /// How many of those in use are closed at the server.
    pub(super) closed: u32,
    /// How many have a number and are not closed at the server.
    pub(super) live: u32,
    pub(super) woken: List<Woken>,
    pub(super) heads: List<InWait>,
    pub(super) senders: List<InWait>,
    pub(super) owing: List<Owing>,
}

impl<T: Copy> Slots<T> {
    /// No streams; later at most `streams`. `None` if there is no memory.
    pub(super) fn new(streams: u32) -> Option<Self> {
        let buckets = (streams as usize).clamp(1, MOST_BUCKETS).next_power_of_two();
        Some(Self {
            all: Vec::new(),
            buckets: memory::collect((0..buckets).map(|_| NONE))?,
            free: NONE,
            used: 0,
            owned: 0,
            closed: 0,
            live: 0,
            woken: List::default(),
            heads: List::default(),
            senders: List::default(),
            owing: List::default(),
        })
    }

    /// Takes a place. `None` if there is no memory for one more.
    #[inline]
    pub(super) fn take(&mut self, kind: Kind, owner: T) -> Option<StreamKey> {
        let at = match self.free {
            NONE => {
                memory::push(&mut self.all, Slot::new())?;
                (self.all.len() - 1) as Link
            }
            at => at,
        };
        let slot = &mut self.all[at as usize];
        if at == self.free {
            self.free = slot.next;
        }
        slot.begin(kind, owner);
        self.used += 1;
        self.owned += 1;
        Some(StreamKey { slot: at, generation: slot.generation })
    }

    /// The place of a stream. `None` if it was closed.
    #[inline]
    pub(super) fn at(&self, key: StreamKey) -> Option<Link> {
        let slot = self.all.get(key.slot as usize)?;
        (slot.generation == key.generation && slot.owner.is_some()).then_some(key.slot)
    }

    pub(super) fn key(&self, at: Link) -> StreamKey {
        StreamKey { slot: at, generation: self.all[at as usize].generation }
    }

    #[inline]
    fn bucket(&self, id: u32) -> usize {
        (id >> 1) as usize & (self.buckets.len() - 1)
    }

    /// Gives a stream its number.
    #[inline]
    pub(super) fn number(&mut self, at: Link, id: u32) {
        let bucket = self.bucket(id);
        let slot = &mut self.all[at as usize];
        slot.id = id;
        slot.next = std::mem::replace(&mut self.buckets[bucket], at);
        self.live += 1;
    }

    /// The stream with this number, if it has not ended.
    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<Link> {
        let mut at = self.buckets[self.bucket(id)];
        loop {
            let slot = self.all.get(at as usize)?;
            if slot.id == id {
                return Some(at);
            }
            at = slot.next;
        }
    }

    /// The stream is not found by its number any more. Again is not wrong.
    #[inline]
    pub(super) fn forget(&mut self, at: Link) {
        let (id, next) = (self.all[at as usize].id, self.all[at as usize].next);
        let bucket = self.bucket(id);
        let mut before = self.buckets[bucket];
        if before == at {
            self.buckets[bucket] = next;
            return;
        }
        while let Some(slot) = self.all.get_mut(before as usize) {
            if slot.next == at {
                slot.next = next;
                return;
            }
            before = slot.next;
        }
    }

    /// How many have no number yet.
    #[inline]
    pub(super) fn unsent(&self) -> u32 {
        self.used - self.closed - self.live
    }

    /// Whether the server has, or will have, any stream.
    #[inline]
    pub(super) fn in_flight(&self) -> bool {
        self.used > self.closed
    }

    /// The server has not got the stream any more, or never will.
    #[inline]
    pub(super) fn close(&mut self, at: Link) {
        if self.all[at as usize].is_closed {
            return;
        }
        self.all[at as usize].is_closed = true;
        self.closed += 1;
        if self.all[at as usize].id != 0 {
            self.forget(at);
            self.live -= 1;
        }
    }

    /// Frees the place of a stream that has neither an owner nor anything to do, and is closed.
    #[inline]
    pub(super) fn free(&mut self, at: Link) {
        let slot = &mut self.all[at as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.buffer.clear();
        slot.partial = Vec::new();
        slot.next = std::mem::replace(&mut self.free, at);
        self.used -= 1;
        self.closed -= 1;
    }

    /// Notes that an owner is to be woken.
    #[inline]
    pub(super) fn wake(&mut self, at: Link, wake: Wake) {
        let slot = &mut self.all[at as usize];
        if slot.owner.is_none() {
            return;
        }
        let is_woken = slot.wake != Wake::default();
        slot.wake.read |= wake.read;
        slot.wake.write |= wake.write;
        if !is_woken {
            self.woken.push(&mut self.all, at);
        }
    }

    /// Takes a stream out of the list of those to be woken.
    #[inline]
    pub(super) fn let_sleep(&mut self, at: Link) -> Wake {
        let wake = std::mem::take(&mut self.all[at as usize].wake);
        if wake != Wake::default() {
            self.woken.unlink(&mut self.all, at);
        }
        wake
    }

    /// The stream waits, behind all others. If it waits already, it keeps its place.
    pub(super) fn wait(&mut self, at: Link, what: Waiting) {
        let before = self.all[at as usize].waiting;
        if before == what {
            return;
        }
        self.stop_waiting(at);
        self.all[at as usize].waiting = what;
        match what {
            Waiting::Head => self.heads.push(&mut self.all, at),
            Waiting::Data => self.senders.push(&mut self.all, at),
            Waiting::No => {}
        }
    }

    /// The stream does not wait any more.
    #[inline]
    pub(super) fn stop_waiting(&mut self, at: Link) {
        match std::mem::replace(&mut self.all[at as usize].waiting, Waiting::No) {
            Waiting::No => {}
            Waiting::Head => self.heads.unlink(&mut self.all, at),
            Waiting::Data => self.senders.unlink(&mut self.all, at),
        }
    }

    /// The stream owes the server a frame for which there is no room.
    #[cold]
    pub(super) fn owe(&mut self, at: Link) {
        if !std::mem::replace(&mut self.all[at as usize].is_owing, true) {
            self.owing.push(&mut self.all, at);
        }
    }

    /// The stream owes nothing any more.
    #[inline]
    pub(super) fn stop_owing(&mut self, at: Link) {
        if std::mem::take(&mut self.all[at as usize].is_owing) {
            self.owing.unlink(&mut self.all, at);
        }
    }
}
