//! The pool against a naive model: any sequence of operations must have the same outcome in both. Of the unit tests, and of
//! the fuzzers in `t/fuzz`.

use std::collections::{HashMap, VecDeque};

use super::*;

pub(super) const TIMEOUT: Msec = 800;

/// A connection with a number, opened with an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conn {
    pub(super) number: u32,
    pub(super) identity: &'static [u8],
}

impl Connection for Conn {
    fn identity(&self) -> &[u8] {
        self.identity
    }
}

/// What a request wants, in short: server, one of [`SERVERS`]; protocol, location, identity.
pub type TestKey = (u8, usize, usize, &'static [u8]);

/// How many servers the model knows.
pub const SERVERS: u8 = 6;

/// Of these so many limit their connections.
const LIMITED: u32 = 3;

pub(super) fn with<T>(key: TestKey, f: impl FnOnce(&Key<'_>) -> T) -> T {
    let address = [2, 0, 0, 80, 10, 0, 0, key.0, 0, 0, 0, 0, 0, 0, 0, 0];
    f(&Key { address: &address, protocol: key.1, location: key.2, identity: key.3 })
}

pub(super) fn pool(limit: Limit) -> IdlePool<Conn> {
    IdlePool::new(limit, LIMITED as usize)
}

fn limited(key: TestKey) -> Option<u32> {
    Some(u32::from(key.0)).filter(|server| *server < LIMITED)
}

pub(super) fn put(
    pool: &mut IdlePool<Conn>,
    key: TestKey,
    number: u32,
    reused: bool,
    now: Msec,
) -> Put<Conn> {
    let conn = Conn { number, identity: key.3 };
    let offer = Offer { conn, group: None, reused, now, timeout: TIMEOUT, server: limited(key) };
    with(key, |wanted| pool.put(wanted, offer))
}

/// With the group that an earlier checkout has told, which may be gone.
pub(super) fn put_known(
    pool: &mut IdlePool<Conn>,
    key: TestKey,
    number: u32,
    group: Option<GroupRef>,
    now: Msec,
) -> Put<Conn> {
    let conn = Conn { number, identity: key.3 };
    let offer = Offer { conn, group, reused: true, now, timeout: TIMEOUT, server: limited(key) };
    with(key, |wanted| pool.put(wanted, offer))
}

/// The rule of `ring.rs`, written down naively: members from the newest to the oldest, and a guest.
#[derive(Default)]
struct ModelRing {
    members: VecDeque<Stored>,
    guest: Option<Stored>,
    newcomers: u32,
}

#[derive(Clone, Copy)]
struct Stored {
    slot: u32,
    number: u32,
    key: TestKey,
    stored_at: Msec,
    order: u32,
}

impl ModelRing {
    fn len(&self) -> usize {
        self.members.len() + usize::from(self.guest.is_some())
    }

    fn all(&self) -> impl Iterator<Item = &Stored> {
        self.members.iter().chain(&self.guest)
    }

    fn take(&mut self, number: u32) -> Option<Stored> {
        if self.guest.is_some_and(|g| g.number == number) {
            return self.guest.take();
        }
        let at = self.members.iter().position(|m| m.number == number)?;
        self.members.remove(at)
    }

    /// Returns who goes, and whether the newcomer is the guest.
    fn make_room(&mut self, reused: bool, now: Msec) -> (u32, bool) {
        let Some(oldest) = self.members.back().copied() else {
            return (self.guest.take().unwrap().number, true);
        };
        if now - oldest.stored_at >= TIMEOUT - TIMEOUT / 8 {
            self.members.pop_back();
            return (oldest.number, false);
        }
        let newcomer_is_member = reused
            || (self.guest.is_some() && {
                self.newcomers += 1;
                self.newcomers % 8 == 0
            });
        match self.guest {
            Some(guest) if reused || !newcomer_is_member => {
                self.guest = None;
                (guest.number, !newcomer_is_member)
            }
            _ => {
                self.members.pop_back();
                (oldest.number, !newcomer_is_member)
            }
        }
    }
}

/// What can be done to a pool.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A connection comes; it came from the pool before, or not.
    Put(TestKey, bool),
    /// A request asks for one.
    Checkout(TestKey),
    /// The nth of those that are stored is removed.
    Remove(usize),
    /// One that has gone is removed from a slot.
    RemoveStale(u32),
    /// So much time passes; less than the timeout.
    Expire(Msec),
    /// A server leaves the upstream.
    RemoveServer(u8),
    /// A connection is given up.
    TakeOldest,
    /// The oldest connection to a server makes room.
    TakeOldestOf(u32),
    /// Those to a server that were stored so long ago, or longer, are removed.
    RemoveOlder(u8, Msec),
    /// All are.
    Reset,
}

/// # Panics
/// If the pool does what the model does not.
pub fn agree(limit: Limit, ops: impl IntoIterator<Item = Op>) {
    let mut pool = pool(limit);
    let mut now = Msec::MAX - 3000; // The clock wraps around in most runs.
    let mut clock = 0; // The model's, which does not.
    let mut rings: Vec<ModelRing> = (0..SERVERS).map(|_| ModelRing::default()).collect();
    let mut known: HashMap<TestKey, Option<GroupRef>> = HashMap::new();
    let ring_of = |key: TestKey| if matches!(limit, Limit::Total(_)) { 0 } else { usize::from(key.0) };
    let per_ring = match limit {
        Limit::Total(n) | Limit::PerServer(n) => n,
    };

    for (number, op) in (0u32..).zip(ops) {
        match op {
            Op::Put(key, reused) => {
                let ring = &mut rings[ring_of(key)];
                let (evicted, guest) = match ring.len() == per_ring {
                    true => {
                        let (who, guest) = ring.make_room(reused, clock);
                        (Some(who), guest)
                    }
                    false => (None, false),
                };
                let put = match reused {
                    true => put_known(&mut pool, key, number, known.get(&key).copied().flatten(), now),
                    false => put(&mut pool, key, number, false, now),
                };
                assert_eq!(put.evicted.map(|c| c.number), evicted);
                let slot = put.stored.unwrap();
                let stored = Stored { slot, number, key, stored_at: clock, order: number };
                if guest {
                    ring.guest = Some(stored)
                } else {
                    ring.members.push_front(stored)
                }
            }
            Op::Checkout(key) => {
                let ring = &mut rings[ring_of(key)];
                let newest = ring.all().filter(|s| s.key == key).max_by_key(|s| s.order).map(|s| s.number);
                let (found, group) = with(key, |wanted| pool.checkout(wanted));
                assert_eq!(found.map(|conn| conn.number), newest);
                known.insert(key, group);
                newest.map(|number| ring.take(number));
            }
            Op::Remove(nth) => {
                let all: Vec<Stored> = rings.iter().flat_map(ModelRing::all).copied().collect();
                if let Some(s) = all.get(nth % all.len().max(1)) {
                    assert_eq!(
                        pool.remove(s.slot, |c| c.number == s.number).map(|c| c.number),
                        Some(s.number)
                    );
                    rings[ring_of(s.key)].take(s.number);
                }
            }
            Op::RemoveStale(slot) => assert_eq!(pool.remove(slot, |_| false), None),
            Op::Expire(after) => {
                now = now.wrapping_add(after);
                clock += after;
                // What nginx's timers do: each connection is removed by its slot when its time is over.
                let all: Vec<Stored> = rings.iter().flat_map(ModelRing::all).copied().collect();
                for s in all.iter().filter(|s| clock - s.stored_at >= TIMEOUT) {
                    assert!(pool.remove(s.slot, |c| c.number == s.number).is_some());
                    rings[ring_of(s.key)].take(s.number);
                }
            }
            Op::RemoveServer(server) => {
                pool.mark_removed(|address| address[7] != server);
                let mut from = 0;
                let mut taken: Vec<u32> =
                    std::iter::from_fn(|| pool.take_removed(&mut from)).map(|c| c.number).collect();
                let all = rings.iter().flat_map(ModelRing::all);
                let mut expected: Vec<u32> = all.filter(|s| s.key.0 == server).map(|s| s.number).collect();
                taken.sort_unstable();
                expected.sort_unstable();
                assert_eq!(&taken, &expected);
                for number in expected {
                    rings.iter_mut().find_map(|ring| ring.take(number));
                }
            }
            Op::TakeOldest => {
                let oldest = |ring: &ModelRing| ring.all().map(|s| s.stored_at).min();
                let taken = pool.take_oldest().map(|conn| conn.number);
                // Any server's may be the one: whose turn it is depends on when their entries were made.
                let ring =
                    taken.and_then(|it| rings.iter().position(|ring| ring.all().any(|s| s.number == it)));
                assert_eq!(ring.is_some(), rings.iter().any(|ring| ring.len() > 0));
                if let (Some(ring), Some(number)) = (ring, taken) {
                    let age = rings[ring].all().find(|s| s.number == number).map(|s| s.stored_at);
                    assert_eq!(age, oldest(&rings[ring]));
                    rings[ring].take(number);
                }
            }
            Op::TakeOldestOf(server) => {
                let of_server = |s: &&Stored| server < LIMITED && u32::from(s.key.0) == server;
                let all = rings.iter().flat_map(ModelRing::all);
                let oldest = all.filter(of_server).min_by_key(|s| s.order).map(|s| s.number);
                assert_eq!(pool.take_oldest_of(server).map(|conn| conn.number), oldest);
                oldest.map(|number| rings.iter_mut().find_map(|ring| ring.take(number)));
            }
            Op::RemoveOlder(server, ago) => {
                let key = (server, 0, 0, &b""[..]);
                let (mut from, mut taken) = (0, Vec::new());
                let then = now.wrapping_sub(ago);
                while let Some((slot, number)) = with(key, |wanted| {
                    pool.next_older(&mut from, wanted.address, then).map(|(slot, conn)| (slot, conn.number))
                }) {
                    taken.extend(pool.remove(slot, |conn| conn.number == number).map(|conn| conn.number));
                }
                let is_older = |s: &&Stored| s.key.0 == server && clock - s.stored_at >= ago;
                let mut expected: Vec<u32> =
                    rings.iter().flat_map(ModelRing::all).filter(is_older).map(|s| s.number).collect();
                taken.sort_unstable();
                expected.sort_unstable();
                assert_eq!(&taken, &expected);
                for number in expected {
                    rings.iter_mut().find_map(|ring| ring.take(number));
                }
            }
            Op::Reset => {
                pool.mark_removed(|_| false);
                let mut from = 0;
                while pool.take_removed(&mut from).is_some() {}
                for ring in &mut rings {
                    ring.members.clear();
                    ring.guest = None;
                }
                assert!(pool.is_empty());
            }
        }
        assert_eq!(pool.len(), rings.iter().map(ModelRing::len).sum::<usize>());
        assert!(pool.slots.len() <= limit.capacity());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = TestKey> {
        let identity = prop_oneof![Just(&b""[..]), Just(&b"a"[..]), Just(&b"bb"[..])];
        (0..SERVERS, 0usize..2, 0usize..2, identity)
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (key(), any::<bool>()).prop_map(|(key, reused)| Op::Put(key, reused)),
            5 => key().prop_map(Op::Checkout),
            2 => any::<usize>().prop_map(Op::Remove),
            1 => any::<u32>().prop_map(Op::RemoveStale),
            2 => (0usize..TIMEOUT).prop_map(Op::Expire),
            1 => (0..SERVERS).prop_map(Op::RemoveServer),
            1 => Just(Op::TakeOldest),
            2 => (0..u32::from(SERVERS)).prop_map(Op::TakeOldestOf),
            1 => (0..SERVERS, 0usize..2 * TIMEOUT).prop_map(|(server, ago)| Op::RemoveOlder(server, ago)),
            1 => Just(Op::Reset),
        ]
    }

    fn limit() -> impl Strategy<Value = Limit> {
        prop_oneof![(1usize..9).prop_map(Limit::Total), (1usize..4).prop_map(Limit::PerServer)]
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_model(limit in limit(), ops in prop::collection::vec(op(), 0..300)) {
            agree(limit, ops);
        }
    }
}
