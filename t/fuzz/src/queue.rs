//! The wait queue: any sequence of operations.
#![forbid(unsafe_code)]

use keepalive::queue::model::{agree, QueueOp};

use crate::input::Input;

/// The capacity, then for each operation which one it is, and of which waiter.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let capacity = input.below(10);
    let ops = std::iter::from_fn(|| {
        (!input.is_empty()).then(|| match input.below(4) {
            0 | 1 => QueueOp::Push,
            2 => QueueOp::Remove(input.byte().into()),
            _ => QueueOp::RemoveAgain(input.byte().into()),
        })
    });
    agree(capacity, ops.take(500));
}
