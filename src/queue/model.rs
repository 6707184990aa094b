//! The queue against a plain vector: any sequence of operations must have the same outcome in both. Of the unit tests, and of
//! the fuzzers in `t/fuzz`.

use super::*;

/// What can be done to a queue.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// One comes.
    Push,
    /// The nth of those who wait goes.
    Remove(usize),
    /// The nth of those who have gone is to go once more.
    RemoveAgain(usize),
}

/// # Panics
/// If the queue does what the vector does not.
pub fn agree(capacity: usize, ops: impl IntoIterator<Item = Op>) {
    let mut queue = WaitQueue::new(capacity);
    let (mut model, mut gone) = (Vec::<Entry<u32>>::new(), Vec::<Ticket>::new());
    for (who, op) in (0..).zip(ops) {
        let since = who as Msec * 10;
        match op {
            Op::Push => match queue.push(who, since) {
                Some(ticket) => model.push(Entry { who, since, ticket }),
                None => assert_eq!(model.len(), capacity),
            },
            Op::Remove(nth) if !model.is_empty() => {
                let Entry { who, ticket, .. } = model.remove(nth % model.len());
                assert_eq!(queue.remove(ticket), Some(who));
                gone.push(ticket);
            }
            Op::RemoveAgain(nth) if !gone.is_empty() => {
                let ticket = gone[nth % gone.len()];
                assert_eq!(
                    (queue.remove(ticket), queue.get(ticket), queue.behind(ticket)),
                    (None, None, None)
                );
            }
            Op::Remove(_) | Op::RemoveAgain(_) => {}
        }
        let mut at = queue.first();
        for waiter in &model {
            assert_eq!(at, Some(*waiter));
            assert_eq!(queue.get(waiter.ticket), Some(*waiter));
            at = queue.behind(waiter.ticket);
        }
        assert_eq!(at, None);
        assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
    }
}
