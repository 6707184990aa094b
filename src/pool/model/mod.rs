//! Compares the pool with a naive model: any sequence of operations must have the same outcome in both. The unit tests
//! and the fuzzers in `t/fuzz` use it.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::*;

mod lending;
pub(super) mod memory;
mod ring;

use ring::{ModelEntry, ModelRing};

pub(super) const TIMEOUT: Msec = 800;

/// The protocol of connections that are set aside.
const ASIDE: usize = 7;

/// A connection: its number, and the identity that it was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TestConn {
    pub(super) number: u32,
    pub(super) identity: &'static [u8],
    pub(super) server: Option<u32>,
}

impl Connection for TestConn {
    fn identity(&self) -> &[u8] {
        self.identity
    }

    fn server(&self) -> Option<u32> {
        self.server
    }
}

/// A [`Key`] in short: the server, below [`SERVERS`]; the protocol, the location and the identity.
pub type TestKey = (u8, usize, usize, &'static [u8]);

/// How many servers the model knows.
pub const SERVERS: u8 = 6;

/// How many of these servers limit their connections.
const LIMITED: u32 = 3;

pub(super) fn with<T>(key: TestKey, f: impl FnOnce(&Key<'_>) -> T) -> T {
    let address: [u8; MAX_ADDRESS] = std::array::from_fn(|at| {
        if at == 7 {
            key.0
        } else if at < 8 || key.0 > 2 {
            at as u8
        } else {
            0
        }
    });
    // As long as those of IPv4, IPv6, and unix sockets.
    let length = [16, 28, 110][usize::from(key.0) % 3];
    f(&Key { address: &address[..length], protocol: key.1, location: key.2, identity: key.3 })
}

pub(super) fn pool(limit: Limit) -> IdlePool<TestConn> {
    IdlePool::new(limit, LIMITED as usize, TIMEOUT)
}

/// Each fourth connection has a timer of its own.
pub(super) fn expiry(number: u32) -> Expiry {
    if number % 4 == 0 {
        Expiry::Other(TIMEOUT)
    } else {
        Expiry::Usual
    }
}

fn limited(key: TestKey) -> Option<u32> {
    Some(u32::from(key.0)).filter(|server| *server < LIMITED)
}

pub(super) fn put(
    pool: &mut IdlePool<TestConn>,
    key: TestKey,
    number: u32,
    reused: bool,
    now: Msec,
) -> Put<TestConn> {
    let conn = TestConn { number, identity: key.3, server: limited(key) };
    let offer = Offer { conn, group: None, reused, now, expiry: expiry(number) };
    with(key, |key| pool.put(key, offer))
}

/// Puts a connection with the group that an earlier checkout told. That group may be gone.
pub(super) fn put_known(
    pool: &mut IdlePool<TestConn>,
    key: TestKey,
    number: u32,
    group: Option<GroupRef>,
    now: Msec,
) -> Put<TestConn> {
    let conn = TestConn { number, identity: key.3, server: limited(key) };
    let offer = Offer { conn, group, reused: true, now, expiry: expiry(number) };
    with(key, |key| pool.put(key, offer))
}

/// An operation on a pool.
#[derive(Clone, Copy, Debug)]
pub enum PoolOp {
    /// Puts a connection. The flag says whether it came from the pool before.
    Put(TestKey, bool),
    /// A request asks for a connection.
    Checkout(TestKey),
    /// A request asks for a connection, which its slot remembers.
    Lend(TestKey),
    /// Puts the nth of the lent connections back.
    PutBack(usize),
    /// The nth of the lent connections is closed.
    Forget(usize),
    /// Removes the nth of the stored connections.
    Remove(usize),
    /// Sets the nth of the stored connections aside.
    SetAside(usize),
    /// Removes a connection that is gone from a slot.
    RemoveStale(u32),
    /// Time passes, in milliseconds: less than the timeout.
    Expire(Msec),
    /// A server leaves the upstream.
    RemoveServer(u8),
    /// Takes the connection that has been idle for the longest time.
    TakeOldest,
    /// Takes the oldest connection to a server.
    TakeOldestOf(u32),
    /// Removes the connections to a server that were stored this long ago, in milliseconds, or earlier.
    RemoveOlder(u8, Msec),
    /// Removes all connections.
    Reset,
    /// Whether there is memory from now on.
    Memory(bool),
}

/// Applies all operations to a pool with `limit` and to the model, and compares them after each.
///
/// # Panics
/// If the pool does what the model does not.
pub fn agree(limit: Limit, ops: impl IntoIterator<Item = PoolOp>) {
    memory::set(true);
    let mut both = Both::new(limit);
    for (number, op) in (0u32..).zip(ops) {
        both.apply(number, op);
        both.compare_lengths();
    }
}

/// A pool and its model.
struct Both {
    limit: Limit,
    pool: IdlePool<TestConn>,
    /// One ring for each server, or with [`Limit::Total`] only the first one.
    rings: Vec<ModelRing>,
    /// What the last checkout told for each key.
    known: HashMap<TestKey, Option<GroupRef>>,
    /// The connections that were lent.
    lent: Vec<ModelEntry>,
    /// The pool's clock. It wraps around in most runs.
    now: Msec,
    /// The model's clock, which does not wrap around.
    clock: Msec,
}

impl Both {
    fn new(limit: Limit) -> Self {
        let rings = (0..SERVERS).map(|_| ModelRing::default()).collect();
        Self {
            limit,
            pool: pool(limit),
            rings,
            known: HashMap::new(),
            lent: Vec::new(),
            now: Msec::MAX - 3000,
            clock: 0,
        }
    }

    /// `number` is a new one for each operation; a connection that is put gets it.
    fn apply(&mut self, number: u32, op: PoolOp) {
        match op {
            PoolOp::Put(key, reused) => self.put(key, number, reused),
            PoolOp::Checkout(key) => self.checkout(key),
            PoolOp::Lend(key) => self.lend(key),
            PoolOp::PutBack(nth) => self.put_back(nth, number),
            PoolOp::Forget(nth) => self.forget_lent(nth),
            PoolOp::Remove(nth) => self.remove(nth),
            PoolOp::SetAside(nth) => self.set_aside(nth, number),
            PoolOp::RemoveStale(slot) => assert_eq!(self.pool.remove(slot, |_| false), None),
            PoolOp::Expire(after) => self.expire(after),
            PoolOp::RemoveServer(server) => self.remove_server(server),
            PoolOp::TakeOldest => self.take_oldest(),
            PoolOp::TakeOldestOf(server) => self.take_oldest_of(server),
            PoolOp::RemoveOlder(server, ago) => self.remove_older(server, ago),
            PoolOp::Reset => self.reset(),
            PoolOp::Memory(is_there) => memory::set(is_there),
        }
    }

    fn put(&mut self, key: TestKey, number: u32, reused: bool) {
        let (Limit::Total(limit) | Limit::PerServer(limit)) = self.limit;
        let (clock, now) = (self.clock, self.now);
        let ring = self.ring_of(key);
        let (evicted, guest) = match ring.len() == limit {
            true => {
                let (evicted, guest) = ring.make_room(reused, clock);
                (Some(evicted), guest)
            }
            false => (None, false),
        };
        let put = match reused {
            true => {
                let group = self.known.get(&key).copied().flatten();
                put_known(&mut self.pool, key, number, group, now)
            }
            false => put(&mut self.pool, key, number, false, now),
        };
        assert_eq!(put.evicted.map(|conn| conn.number), evicted);
        // Without memory for one more, it is not stored, and nothing else changes.
        let slot = match put.stored {
            Ok(slot) => slot,
            Err(conn) => return assert!(conn.number == number && memory::is_out()),
        };
        let is_usual = expiry(number) == Expiry::Usual;
        let stored = ModelEntry { slot, number, key, stored_at: clock, order: number, aside: 0, is_usual };
        let ring = self.ring_of(key);
        if guest {
            ring.guest = Some(stored)
        } else {
            ring.members.push_front(stored)
        }
    }

    fn newest(&mut self, key: TestKey) -> Option<ModelEntry> {
        let all = self.ring_of(key).all();
        all.filter(|s| s.key == key).max_by_key(|s| s.order).copied()
    }

    fn checkout(&mut self, key: TestKey) {
        let newest = self.newest(key);
        let newest = newest.map(|s| (s.number, s.stored_at));
        let looked_up = with(key, |key| self.pool.newest_like(key).map(|(conn, since)| (conn.number, since)));
        let mut since = 0;
        let (found, group) = with(key, |key| self.pool.checkout(key, &mut since));
        let found = found.map(|conn| (conn.number, since));
        assert_eq!(looked_up, found);
        let is_since = |stored_at| self.now.wrapping_sub((self.clock - stored_at) as Msec);
        assert_eq!(found, newest.map(|(number, stored_at)| (number, is_since(stored_at))));
        self.known.insert(key, group);
        newest.into_iter().for_each(|(number, _)| self.forget(number));
    }

    fn remove(&mut self, nth: usize) {
        let all = self.stored(|_| true);
        if let Some(stored) = all.get(nth % all.len().max(1)) {
            self.remove_stored(stored);
        }
    }

    fn set_aside(&mut self, nth: usize, number: u32) {
        let all = self.stored(|_| true);
        let Some(stored) = all.get(nth % all.len().max(1)).copied() else { return };
        let (server, _, _, identity) = stored.key;
        let key = (server, ASIDE, 0, identity);
        if !self.pool.set_aside(stored.slot, ASIDE) {
            return assert!(memory::is_out());
        }
        self.forget(stored.number);
        let ring = self.ring_of(key);
        let order = if stored.key == key { stored.order } else { number };
        ring.members.push_back(ModelEntry { key, order, aside: number + 1, is_usual: false, ..stored });
    }

    /// What nginx's timers do: each connection is removed by its slot when its time is over.
    fn expire(&mut self, after: Msec) {
        self.now = self.now.wrapping_add(after);
        self.clock += after;
        let clock = self.clock;
        self.expire_usual();
        for stored in self.stored(|s| clock - s.stored_at >= TIMEOUT) {
            self.remove_stored(&stored);
        }
    }

    /// The timer of the pool. Every other connection that has expired stays in the pool.
    fn expire_usual(&mut self) {
        loop {
            let usual = self.stored(|s| s.is_usual);
            let left = |s: &ModelEntry| TIMEOUT.saturating_sub(self.clock - s.stored_at);
            let (number, expected) = match self.pool.next_due(self.now) {
                Due::Expired(slot, conn) => {
                    assert!(usual.iter().any(|s| s.slot == slot && s.number == conn.number));
                    (conn.number, 0)
                }
                Due::Left(conn, left) => (conn.number, left),
                Due::Later(time) => return assert!(usual.iter().all(|s| left(s) >= time)),
                Due::Never => return assert!(usual.is_empty()),
            };
            let entry = usual.iter().find(|s| s.number == number).expect("it is stored");
            assert_eq!(left(entry), expected);
            self.rings.iter_mut().for_each(|ring| ring.leaves_usual(number));
            if expected == 0 && number % 2 == 0 {
                self.remove_stored(entry);
            }
        }
    }

    fn remove_server(&mut self, server: u8) {
        self.pool.mark_removed(|address| address[7] != server);
        let mut from = 0;
        let taken =
            std::iter::from_fn(|| self.pool.take_removed(&mut from)).map(|conn| conn.number).collect();
        self.are_gone(taken, |s| s.key.0 == server);
    }

    fn take_oldest(&mut self) {
        let Some(conn) = self.pool.take_oldest() else {
            assert!(self.rings.iter().all(|ring| ring.len() == 0));
            return;
        };
        // Any server may be the one: whose turn it is depends on when their entries were made.
        let mut rings = self.rings.iter();
        let ring = rings.find(|ring| ring.all().any(|s| s.number == conn.number)).expect("it was stored");
        let oldest = ring.members.back().into_iter().chain(&ring.guest).min_by_key(|s| s.stored_at);
        assert_eq!(Some(conn.number), oldest.map(|s| s.number));
        self.forget(conn.number);
    }

    fn take_oldest_of(&mut self, server: u32) {
        let all = self.stored(|s| server < LIMITED && u32::from(s.key.0) == server);
        let oldest = all.iter().min_by_key(|s| (std::cmp::Reverse(s.aside), s.order)).map(|s| s.number);
        assert_eq!(self.pool.take_oldest_of(server).map(|conn| conn.number), oldest);
        oldest.into_iter().for_each(|number| self.forget(number));
    }

    fn remove_older(&mut self, server: u8, ago: Msec) {
        let (clock, then) = (self.clock, self.now.wrapping_sub(ago));
        let (mut from, mut taken) = (0, Vec::new());
        while let Some((slot, number)) = with((server, 0, 0, b""), |key| {
            let next = self.pool.next_older(&mut from, key.address, then);
            next.map(|(slot, conn)| (slot, conn.number))
        }) {
            taken.extend(self.pool.remove(slot, |conn| conn.number == number).map(|conn| conn.number));
        }
        self.are_gone(taken, |s| s.key.0 == server && clock - s.stored_at >= ago);
    }

    fn reset(&mut self) {
        self.pool.mark_removed(|_| false);
        let mut from = 0;
        while self.pool.take_removed(&mut from).is_some() {}
        for ring in &mut self.rings {
            ring.members.clear();
            ring.guest = None;
        }
        assert!(self.pool.is_empty());
    }

    /// Removes a connection from the pool by its slot, and from the model.
    fn remove_stored(&mut self, stored: &ModelEntry) {
        let removed = self.pool.remove(stored.slot, |conn| conn.number == stored.number);
        assert_eq!(removed.map(|conn| conn.number), Some(stored.number));
        self.forget(stored.number);
    }

    /// Asserts that `taken` are the connections of the model for which `is_expected` returns true, and removes these.
    fn are_gone(&mut self, mut taken: Vec<u32>, is_expected: impl Fn(&ModelEntry) -> bool) {
        let mut expected: Vec<u32> = self.stored(is_expected).iter().map(|s| s.number).collect();
        taken.sort_unstable();
        expected.sort_unstable();
        assert_eq!(taken, expected);
        for number in expected {
            self.forget(number);
        }
    }

    fn ring_of(&mut self, key: TestKey) -> &mut ModelRing {
        let at = if matches!(self.limit, Limit::Total(_)) { 0 } else { usize::from(key.0) };
        &mut self.rings[at]
    }

    /// The connections of the model that have a property.
    fn stored(&self, has: impl Fn(&ModelEntry) -> bool) -> Vec<ModelEntry> {
        self.rings.iter().flat_map(ModelRing::all).copied().filter(has).collect()
    }

    fn forget(&mut self, number: u32) {
        self.rings.iter_mut().find_map(|ring| ring.take(number));
    }

    fn compare_lengths(&self) {
        assert_eq!(self.pool.len(), self.rings.iter().map(ModelRing::len).sum::<usize>());
        assert!(self.pool.slots.len() <= self.limit.capacity());
    }
}
