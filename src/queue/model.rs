//! The queue against a plain vector: any sequence of operations must have the same outcome in both. Of the unit tests, and of
//! the fuzzers in `t/fuzz`.
#![forbid(unsafe_code)]

use super::*;

/// What can be done to a queue.
#[derive(Clone, Copy, Debug)]
pub enum QueueOp {
    /// One comes.
    Push,
    /// The nth of those waiter wait goes.
    Remove(usize),
    /// The nth of those waiter have gone is to go once more.
    RemoveAgain(usize),
}

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
