//! The wait queue: requests that wait for a connection, in order of arrival.
#![forbid(unsafe_code)]

mod bits;
#[cfg(any(test, fuzzing))]
pub mod model;
pub mod released;
pub mod room;

use std::collections::TryReserveError;

use crate::base::clock::Msec;
use crate::base::list::{Link, List, Neighbours, Node, NONE};

/// The largest capacity: numbers of places have 32 bits, and one value marks the end of a list.
pub const MAX_WAITERS: usize = NONE as usize - 1;

/// Waiters `W` in order of arrival. The cost of each operation does not depend on the number of waiters. Only the first
/// waiter allocates: it reserves the memory of all places.
#[derive(Debug)]
pub struct WaitQueue<W> {
    capacity: usize,
    places: Vec<QueueSlot<W>>,
    waiting: List<InLine>,
    free: List<InLine>,
    len: usize,
}

#[derive(Debug)]
struct QueueSlot<W> {
    entry: Option<Entry<W>>,
    /// Counts the waiters that have left the place.
    version: u32,
    links: Neighbours,
}

/// An entry of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<W> {
    /// Who waits.
    pub waiter: W,
    /// Since when.
    pub since: Msec,
    /// Its place in the queue.
    pub ticket: Ticket,
}

/// A place in the queue. It is invalid once its waiter has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    at: Link,
    version: u32,
}

/// The kind of the lists of places.
#[derive(Debug)]
struct InLine;

impl<W> Node<InLine> for QueueSlot<W> {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.links
    }
}

impl<W: Copy> WaitQueue<W> {
    /// An empty queue for at most `capacity` waiters. It allocates nothing.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(MAX_WAITERS);
        Self { capacity, places: Vec::new(), waiting: List::default(), free: List::default(), len: 0 }
    }

    /// Reserves the memory of a full queue, as the first waiter does.
    ///
    /// # Errors
    /// If there is no memory.
    #[cold]
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.places.try_reserve_exact(self.capacity - self.places.len())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no one waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a waiter at the end. `None` if the queue is full, or there is no memory for it.
    pub fn push(&mut self, waiter: W, since: Msec) -> Option<Ticket> {
        let at = self.free_place()?;
        let place = &mut self.places[at as usize];
        let ticket = Ticket { at, version: place.version };
        place.entry = Some(Entry { waiter, since, ticket });
        self.waiting.push(&mut self.places, at);
        self.len += 1;
        Some(ticket)
    }

    /// The entry that has waited longest.
    pub fn first(&self) -> Option<Entry<W>> {
        self.places.get(self.waiting.oldest() as usize)?.entry
    }

    /// The entry with this ticket, if it still waits.
    pub fn get(&self, ticket: Ticket) -> Option<Entry<W>> {
        self.places.get(ticket.at as usize)?.entry.filter(|entry| entry.ticket == ticket)
    }

    /// The entry behind the one with this ticket. `None` if it is the last one, or does not wait any more.
    pub fn next_after(&self, ticket: Ticket) -> Option<Entry<W>> {
        self.get(ticket)?;
        let next = self.places.get(ticket.at as usize)?.links.newer();
        self.places.get(next as usize)?.entry
    }

    /// Removes the waiter with this ticket, wherever it is. `None` if it has left already.
    pub fn remove(&mut self, ticket: Ticket) -> Option<W> {
        let place = self.places.get_mut(ticket.at as usize)?;
        let entry = place.entry.take_if(|entry| entry.ticket == ticket)?;
        place.version = place.version.wrapping_add(1);
        self.waiting.unlink(&mut self.places, ticket.at);
        self.free.push(&mut self.places, ticket.at);
        self.len -= 1;
        Some(entry.waiter)
    }

    /// A place without a waiter. `None` if the queue is full, or there is no memory for it.
    fn free_place(&mut self) -> Option<Link> {
        let at = self.free.newest();
        if at != NONE {
            self.free.unlink(&mut self.places, at);
            return Some(at);
        }
        if self.places.capacity() == 0 && self.reserve().is_err() {
            return None;
        }
        // Within the reserved memory, so nothing is allocated.
        (self.places.len() < self.capacity).then(|| {
            self.places.push(QueueSlot { entry: None, version: 0, links: Neighbours::default() });
            (self.places.len() - 1) as Link
        })
    }
}

#[cfg(test)]
mod tests {
    use super::model::{agree, QueueOp};
    use super::*;
    use proptest::prelude::*;

    fn queue(capacity: usize) -> WaitQueue<u32> {
        WaitQueue::new(capacity)
    }

    #[test]
    fn the_first_to_come_is_the_first() {
        let mut queue = queue(3);
        let tickets: Vec<Ticket> = (0..3).map(|n| queue.push(n, 100 + n as Msec).unwrap()).collect();
        assert_eq!(queue.first(), Some(Entry { waiter: 0, since: 100, ticket: tickets[0] }));
        assert_eq!(queue.remove(tickets[0]), Some(0));
        assert_eq!(queue.first().map(|entry| entry.waiter), Some(1));
        assert_eq!(queue.next_after(tickets[1]).map(|entry| entry.waiter), Some(2));
        assert_eq!(queue.next_after(tickets[2]), None);
    }

    #[test]
    fn refuses_a_waiter_when_full() {
        let mut queue = queue(2);
        let first = queue.push(1, 0).unwrap();
        queue.push(2, 0).unwrap();
        assert_eq!(queue.push(3, 0), None);
        queue.remove(first);
        assert!(queue.push(4, 0).is_some());
        assert_eq!(queue.push(5, 0), None);
    }

    #[test]
    fn a_ticket_is_void_once_its_waiter_has_left() {
        let mut queue = queue(1);
        let old = queue.push(1, 0).unwrap();
        assert_eq!(queue.remove(old), Some(1));
        assert_eq!(queue.remove(old), None);
        let new = queue.push(2, 0).unwrap();
        assert_eq!(queue.remove(old), None);
        assert_eq!(queue.next_after(old), None);
        assert_eq!(queue.remove(new), Some(2));
        assert!(queue.is_empty());
    }

    #[test]
    fn refuses_a_waiter_if_there_is_no_memory() {
        let mut queue = queue(MAX_WAITERS);
        assert_eq!((queue.push(1, 0), queue.first(), queue.len()), (None, None, 0));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_vector(ops in prop::collection::vec(op(), 0..200)) {
            agree(5, ops);
        }
    }

    fn op() -> impl Strategy<Value = QueueOp> {
        prop_oneof![
            2 => Just(QueueOp::Push),
            1 => any::<usize>().prop_map(QueueOp::Remove),
            1 => any::<usize>().prop_map(QueueOp::RemoveAgain),
        ]
    }
}
