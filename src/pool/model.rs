//! The pool against a naive model: random sequences of operations, which must have the same outcome.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::tests::{pool, put, put_known, with, Key, LIMITED, TIMEOUT};
use super::*;

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
    key: Key,
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
    fn make_room(&mut self, proven: bool, now: Msec) -> (u32, bool) {
        let Some(oldest) = self.members.back().copied() else {
            return (self.guest.take().unwrap().number, true);
        };
        if now - oldest.stored_at >= TIMEOUT - TIMEOUT / 8 {
            self.members.pop_back();
            return (oldest.number, false);
        }
        let newcomer_is_member = proven
            || (self.guest.is_some() && {
                self.newcomers += 1;
                self.newcomers % 8 == 0
            });
        match self.guest {
            Some(guest) if proven || !newcomer_is_member => {
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

#[derive(Clone, Debug)]
enum Op {
    Put(Key, bool),
    Checkout(Key),
    Remove(usize),
    RemoveStale(u32),
    Expire(Msec),
    RemoveServer(u8),
    TakeOldestOf(u32),
    RemoveOlder(u8, Msec),
    Reset,
}

fn key() -> impl Strategy<Value = Key> {
    let identity = prop_oneof![Just(&b""[..]), Just(&b"a"[..]), Just(&b"bb"[..])];
    (0u8..6, 0usize..2, 0usize..2, identity)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (key(), any::<bool>()).prop_map(|(key, proven)| Op::Put(key, proven)),
        5 => key().prop_map(Op::Checkout),
        2 => any::<usize>().prop_map(Op::Remove),
        1 => any::<u32>().prop_map(Op::RemoveStale),
        2 => (0usize..TIMEOUT).prop_map(Op::Expire),
        1 => (0u8..6).prop_map(Op::RemoveServer),
        2 => (0u32..6).prop_map(Op::TakeOldestOf),
        1 => (0u8..6, 0usize..2 * TIMEOUT).prop_map(|(server, ago)| Op::RemoveOlder(server, ago)),
        1 => Just(Op::Reset),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    prop_oneof![(1usize..9).prop_map(Limit::Total), (1usize..4).prop_map(Limit::PerServer)]
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model(limit in limit(), ops in prop::collection::vec(op(), 0..300)) {
        let mut pool = pool(limit);
        let mut now = Msec::MAX - 3000; // The clock wraps around in most runs.
        let mut clock = 0; // The model's, which does not.
        let mut rings: Vec<ModelRing> = (0..6).map(|_| ModelRing::default()).collect();
        let mut known: HashMap<Key, Option<ClassRef>> = HashMap::new();
        let ring_of = |key: Key| if matches!(limit, Limit::Total(_)) { 0 } else { usize::from(key.0) };
        let per_ring = match limit { Limit::Total(n) | Limit::PerServer(n) => n };

        for (number, op) in (0u32..).zip(ops) {
            match op {
                Op::Put(key, proven) => {
                    let ring = &mut rings[ring_of(key)];
                    let (evicted, guest) = match ring.len() == per_ring {
                        true => { let (who, guest) = ring.make_room(proven, clock); (Some(who), guest) }
                        false => (None, false),
                    };
                    let put = match proven {
                        true => put_known(&mut pool, key, number, known.get(&key).copied().flatten(), now),
                        false => put(&mut pool, key, number, false, now),
                    };
                    prop_assert_eq!(put.evicted.map(|c| c.number), evicted);
                    let slot = put.stored.unwrap();
                    let stored = Stored { slot, number, key, stored_at: clock, order: number };
                    if guest { ring.guest = Some(stored) } else { ring.members.push_front(stored) }
                }
                Op::Checkout(key) => {
                    let ring = &mut rings[ring_of(key)];
                    let newest = ring.all().filter(|s| s.key == key).max_by_key(|s| s.order).map(|s| s.number);
                    let (found, class) = with(key, |wanted| pool.checkout(wanted));
                    prop_assert_eq!(found.map(|conn| conn.number), newest);
                    known.insert(key, class);
                    newest.map(|number| ring.take(number));
                }
                Op::Remove(nth) => {
                    let all: Vec<Stored> = rings.iter().flat_map(ModelRing::all).copied().collect();
                    if let Some(s) = all.get(nth % all.len().max(1)) {
                        prop_assert_eq!(pool.remove(s.slot, |c| c.number == s.number).map(|c| c.number), Some(s.number));
                        rings[ring_of(s.key)].take(s.number);
                    }
                }
                Op::RemoveStale(slot) => prop_assert_eq!(pool.remove(slot, |_| false), None),
                Op::Expire(after) => {
                    now = now.wrapping_add(after);
                    clock += after;
                    // What nginx's timers do: each connection is removed by its slot when its time is over.
                    let all: Vec<Stored> = rings.iter().flat_map(ModelRing::all).copied().collect();
                    for s in all.iter().filter(|s| clock - s.stored_at >= TIMEOUT) {
                        prop_assert!(pool.remove(s.slot, |c| c.number == s.number).is_some());
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
                    prop_assert_eq!(&taken, &expected);
                    for number in expected {
                        rings.iter_mut().find_map(|ring| ring.take(number));
                    }
                }
                Op::TakeOldestOf(server) => {
                    let of_server = |s: &&Stored| server < LIMITED && u32::from(s.key.0) == server;
                    let all = rings.iter().flat_map(ModelRing::all);
                    let oldest = all.filter(of_server).min_by_key(|s| s.order).map(|s| s.number);
                    prop_assert_eq!(pool.take_oldest_of(server).map(|conn| conn.number), oldest);
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
                    prop_assert_eq!(&taken, &expected);
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
                    prop_assert!(pool.is_empty());
                }
            }
            prop_assert_eq!(pool.len(), rings.iter().map(ModelRing::len).sum::<usize>());
            prop_assert!(pool.slots.len() <= limit.capacity());
        }
    }
}
