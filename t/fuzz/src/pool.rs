//! The pool: any sequence of operations.
#![forbid(unsafe_code)]

use keepalive::pool::model::{agree, PoolOp, TestKey, SERVERS};
use keepalive::pool::Limit;

use crate::input::Input;

/// The kind of limit and the limit, then the operations, each a byte with bytes of its own.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let limit = match input.flag() {
        false => Limit::Total(1 + input.below(24)),
        true => Limit::PerServer(1 + input.below(3)),
    };
    let ops = std::iter::from_fn(|| (!input.is_empty()).then(|| op(&mut input)));
    agree(limit, ops.take(500));
}

fn op(input: &mut Input<'_>) -> PoolOp {
    let server = |input: &mut Input<'_>| input.below(SERVERS.into()) as u8;
    match input.below(16) {
        0 => PoolOp::Put(key(input), false),
        1 => PoolOp::Put(key(input), true),
        2 => PoolOp::Checkout(key(input)),
        3 => PoolOp::Remove(input.byte().into()),
        4 => PoolOp::RemoveStale(input.byte().into()),
        // Up to nearly the timeout.
        5 => PoolOp::Expire(usize::from(input.byte()) * 3),
        6 => PoolOp::RemoveServer(server(input)),
        7 => PoolOp::TakeOldestOf(server(input).into()),
        8 => PoolOp::RemoveOlder(server(input), usize::from(input.byte()) * 6),
        9 => PoolOp::TakeOldest,
        10 => PoolOp::Reset,
        11 => PoolOp::Lend(key(input)),
        12 => PoolOp::PutBack(input.byte().into()),
        13 => PoolOp::Forget(input.byte().into()),
        14 => PoolOp::SetAside(input.byte().into()),
        _ => PoolOp::Memory(input.flag()),
    }
}

/// A server, and in one more byte the protocol, the location and the identity.
fn key(input: &mut Input<'_>) -> TestKey {
    let server = input.below(SERVERS.into()) as u8;
    let others = input.below(12);
    (server, others & 1, (others >> 1) & 1, [&b""[..], b"a", b"bb"][others / 4])
}
