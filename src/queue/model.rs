//! Compares the queue with a plain vector: any sequence of operations must have the same outcome in both. The unit tests and
//! the fuzzers in `t/fuzz` use it.
#![forbid(unsafe_code)]

use super::*;

/// An operation on a queue.
#[derive(Clone, Copy, Debug)]
pub enum QueueOp {
    /// Adds a waiter.
    Push,
    /// Removes the nth waiter.
    Remove(usize),
    /// Removes the nth of the waiters that have left once more.
    RemoveAgain(usize),
}

/// Applies all operations to a queue and to a vector, and compares them after each.
///
/// # Panics
/// If the queue does what the vector does not.
pub fn agree(capacity: usize, ops: impl IntoIterator<Item = QueueOp>) {
    let mut queue = WaitQueue::new(capacity);
    let (mut model, mut gone) = (Vec::<Entry<u32>>::new(), Vec::<Ticket>::new());
    for (waiter, op) in (0..).zip(ops) {
        let since = waiter as Msec * 10;
        match op {
            QueueOp::Push => match queue.push(waiter, since) {
                Some(ticket) => model.push(Entry { waiter, since, ticket }),
                None => assert_eq!(model.len(), capacity),
            },
            QueueOp::Remove(nth) if !model.is_empty() => {
                let Entry { waiter, ticket, .. } = model.remove(nth % model.len());
                assert_eq!(queue.remove(ticket), Some(waiter));
                gone.push(ticket);
            }
            QueueOp::RemoveAgain(nth) if !gone.is_empty() => {
                let ticket = gone[nth % gone.len()];
                assert_eq!(
                    (queue.remove(ticket), queue.get(ticket), queue.next_after(ticket)),
                    (None, None, None)
                );
            }
            QueueOp::Remove(_) | QueueOp::RemoveAgain(_) => {}
        }
        let mut at = queue.first();
        for entry in &model {
            assert_eq!(at, Some(*entry));
            assert_eq!(queue.get(entry.ticket), Some(*entry));
            at = queue.next_after(entry.ticket);
        }
        assert_eq!(at, None);
        assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
    }
}
