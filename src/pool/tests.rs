//! The pool against a naive model, and its rules one by one.

use std::collections::{HashMap, VecDeque};

use super::*;
use proptest::prelude::*;

const TIMEOUT: Msec = 800;

/// A connection with a number, opened with an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conn {
    number: u32,
    identity: &'static [u8],
}

impl Connection for Conn {
    fn identity(&self) -> &[u8] {
        self.identity
    }
}

/// What a request wants, in short: server, protocol, location, identity.
type Key = (u8, usize, usize, &'static [u8]);

fn with<T>(key: Key, f: impl FnOnce(&Wanted<'_>) -> T) -> T {
    let address = [2, 0, 0, 80, 10, 0, 0, key.0, 0, 0, 0, 0, 0, 0, 0, 0];
    f(&Wanted { address: &address, protocol: key.1, location: key.2, identity: key.3 })
}

fn pool(limit: Limit) -> IdlePool<Conn> {
    IdlePool::new(limit).unwrap()
}

fn put(pool: &mut IdlePool<Conn>, key: Key, number: u32, proven: bool, now: Msec) -> Put<Conn> {
    let conn = Conn { number, identity: key.3 };
    with(key, |wanted| pool.put(wanted, Offer { conn, class: None, proven, now, timeout: TIMEOUT }))
}

/// With the class that an earlier checkout has told, which may be gone.
fn put_known(
    pool: &mut IdlePool<Conn>,
    key: Key,
    number: u32,
    class: Option<ClassRef>,
    now: Msec,
) -> Put<Conn> {
    let conn = Conn { number, identity: key.3 };
    with(key, |wanted| pool.put(wanted, Offer { conn, class, proven: true, now, timeout: TIMEOUT }))
}

fn checkout(pool: &mut IdlePool<Conn>, key: Key) -> Option<u32> {
    with(key, |wanted| pool.checkout(wanted)).0.map(|conn| conn.number)
}

fn server(number: u8) -> Key {
    (number, 0, 0, b"")
}

#[test]
fn reuses_the_connection_stored_last() {
    let mut pool = pool(Limit::Total(3));
    for number in 1..=3 {
        put(&mut pool, server(1), number, false, 0);
    }
    assert_eq!([(); 4].map(|()| checkout(&mut pool, server(1))), [Some(3), Some(2), Some(1), None]);
    assert!(pool.is_empty());
}

#[test]
fn every_part_of_what_is_wanted_separates() {
    let mut pool = pool(Limit::Total(8));
    let key = (1, 1, 1, &b"sni"[..]);
    put(&mut pool, key, 1, false, 0);
    for other in
        [(2, 1, 1, &b"sni"[..]), (1, 2, 1, b"sni"), (1, 1, 2, b"sni"), (1, 1, 1, b"sn"), (1, 1, 1, b"")]
    {
        assert_eq!(checkout(&mut pool, other), None, "{other:?}");
    }
    assert_eq!(checkout(&mut pool, key), Some(1));
}

#[test]
fn addresses_of_different_length_are_different_servers() {
    let mut pool = pool(Limit::Total(8));
    let wanted = |address: &'static [u8]| Wanted { address, protocol: 0, location: 0, identity: b"" };
    let offer = |number| Offer {
        conn: Conn { number, identity: b"" },
        class: None,
        proven: false,
        now: 0,
        timeout: TIMEOUT,
    };
    assert!(pool.put(&wanted(&[1; 16]), offer(1)).stored.is_ok());
    assert!(pool.put(&wanted(&[1; 17]), offer(2)).stored.is_ok());
    assert!(pool.put(&wanted(&[1; 112]), offer(3)).stored.is_ok());
    assert!(pool.put(&wanted(&[1; 113]), offer(4)).stored.is_err());
    assert_eq!(pool.checkout(&wanted(&[1; 17])).0.map(|c| c.number), Some(2));
    assert_eq!(pool.checkout(&wanted(&[1; 113])), (None, None));
    assert_eq!(pool.len(), 2);
}

#[test]
fn evicts_oldest_when_full() {
    let mut pool = pool(Limit::Total(2));
    put(&mut pool, server(1), 1, true, 0);
    put(&mut pool, server(2), 2, true, 0);
    assert_eq!(put(&mut pool, server(3), 3, true, 0).evicted.map(|c| c.number), Some(1));
    assert_eq!(put(&mut pool, server(1), 4, true, 0).evicted.map(|c| c.number), Some(2));
}

#[test]
fn a_member_about_to_expire_goes_before_the_guest() {
    let mut pool = pool(Limit::Total(2));
    put(&mut pool, server(1), 1, true, 0);
    put(&mut pool, server(2), 2, true, 100);
    assert_eq!(put(&mut pool, server(3), 3, false, 100).evicted.map(|c| c.number), Some(1));
    assert_eq!(put(&mut pool, server(4), 4, false, 790).evicted.map(|c| c.number), Some(3));
    assert_eq!(put(&mut pool, server(5), 5, false, 800).evicted.map(|c| c.number), Some(2));
}

#[test]
fn a_limit_for_each_server_leaves_the_others_alone() {
    let mut pool = pool(Limit::PerServer(2));
    for round in 0..2 {
        for number in 0..40 {
            assert_eq!(
                put(&mut pool, server(number), u32::from(number) + 100 * round, true, 0).evicted,
                None
            );
        }
    }
    assert_eq!(put(&mut pool, server(7), 1000, true, 0).evicted.map(|c| c.number), Some(7));
    assert_eq!(pool.len(), 80);
}

#[test]
fn more_servers_than_there_is_room_for_are_not_stored_until_one_is_empty() {
    let mut pool = pool(Limit::PerServer(1));
    let numbers: Vec<[u8; 8]> = (0..=MAX_SERVERS).map(usize::to_ne_bytes).collect();
    let wanted = |at: usize| Wanted { address: &numbers[at], protocol: 0, location: 0, identity: b"" };
    let offer = |number| Offer {
        conn: Conn { number, identity: b"" },
        class: None,
        proven: false,
        now: 0,
        timeout: TIMEOUT,
    };
    for at in 0..MAX_SERVERS {
        assert!(pool.put(&wanted(at), offer(at as u32)).stored.is_ok());
    }
    assert!(pool.put(&wanted(MAX_SERVERS), offer(1)).stored.is_err());
    assert_eq!(pool.checkout(&wanted(5)).0.map(|c| c.number), Some(5));
    assert!(pool.put(&wanted(MAX_SERVERS), offer(1)).stored.is_ok());
    assert_eq!(pool.checkout(&wanted(5)), (None, None));
}

/// One client, round robin: a share of requests that find a connection.
fn reuse(limit: Limit, servers: u8, rounds: u32) -> f64 {
    let mut pool = pool(limit);
    let (mut found, mut total) = (0u32, 0u32);
    for round in 0..rounds {
        for number in 0..servers {
            let conn = checkout(&mut pool, server(number));
            if round > 0 {
                total += 1;
                found += u32::from(conn.is_some());
            }
            put(&mut pool, server(number), total, conn.is_some(), 0);
        }
    }
    f64::from(found) / f64::from(total)
}

#[test]
fn there_is_no_cliff() {
    assert!(reuse(Limit::Total(32), 32, 20) == 1.0);
    assert!(reuse(Limit::Total(32), 33, 20) >= 0.90, "{}", reuse(Limit::Total(32), 33, 20));
    assert!(reuse(Limit::Total(32), 40, 20) >= 0.70, "{}", reuse(Limit::Total(32), 40, 20));
    assert!(reuse(Limit::PerServer(2), 40, 20) == 1.0);
}

#[test]
fn the_members_follow_the_load() {
    let mut pool = pool(Limit::Total(4));
    for number in 0..4 {
        put(&mut pool, server(number), 0, true, 0);
    }
    // The four are never asked for again; four others are.
    let mut found = 0;
    for round in 0..40 {
        for number in 10..14 {
            let conn = checkout(&mut pool, server(number));
            found += u32::from(round >= 20 && conn.is_some());
            put(&mut pool, server(number), 1, conn.is_some(), 0);
        }
    }
    assert_eq!(found, 80);
}

#[test]
fn connections_to_removed_servers_are_taken_out() {
    let mut pool = pool(Limit::Total(8));
    for number in 0..8 {
        put(&mut pool, server(number % 4), u32::from(number), false, 0);
    }
    assert!(!pool.mark_removed(|_| true));
    assert!(pool.mark_removed(|address| address[7] != 2));
    let mut from = 0;
    let taken: Vec<u32> = std::iter::from_fn(|| pool.take_removed(&mut from)).map(|c| c.number).collect();
    assert_eq!(taken, [2, 6]);
    assert_eq!(pool.len(), 6);
    assert!(put(&mut pool, server(2), 9, false, 0).stored.is_ok());
    from = 0;
    assert!(!pool.mark_removed(|_| true));
    assert_eq!(pool.take_removed(&mut from), None);
}

#[test]
fn a_class_of_another_server_is_not_taken() {
    for limit in [Limit::Total(4), Limit::PerServer(2)] {
        let mut pool = pool(limit);
        put(&mut pool, server(1), 1, false, 0);
        let (_, class) = with(server(1), |wanted| pool.checkout(wanted));
        assert!(put_known(&mut pool, server(2), 2, class, 0).stored.is_ok());
        assert_eq!(checkout(&mut pool, server(1)), None);
        assert_eq!(checkout(&mut pool, server(2)), Some(2));
    }
}

#[test]
fn nothing_is_lost_when_slots_run_out() {
    // One server may fill all slots; then there is none for another.
    let limit = Limit::PerServer(MAX_OF_ALL_SERVERS);
    let mut pool = pool(limit);
    for number in 0..limit.capacity() as u32 {
        assert!(put(&mut pool, server(1), number, true, 0).stored.is_ok());
    }
    for number in 2..250 {
        assert!(put(&mut pool, server(number), 1, true, 0).stored.is_err());
    }
    assert!(checkout(&mut pool, server(1)).is_some());
    assert!(put(&mut pool, server(2), 1, true, 0).stored.is_ok());
    assert_eq!(checkout(&mut pool, server(2)), Some(1));
    assert_eq!(pool.len(), limit.capacity() - 1);
}

#[test]
fn a_stale_slot_number_removes_nothing() {
    let mut pool = pool(Limit::Total(1));
    let slot = put(&mut pool, server(1), 1, false, 0).stored.unwrap();
    assert!(put(&mut pool, server(1), 2, false, 0).evicted.is_some());
    assert_eq!(pool.remove(slot, |c| c.number == 1), None);
    assert_eq!(pool.remove(slot, |c| c.number == 2).map(|c| c.number), Some(2));
    assert_eq!(pool.remove(slot, |_| true), None);
    assert_eq!(pool.remove(7, |_| true), None);
}

#[test]
fn refuses_a_capacity_that_no_memory_can_hold() {
    assert!(IdlePool::<Conn>::new(Limit::Total(MAX_CAPACITY)).is_err());
    assert_eq!(Limit::PerServer(usize::MAX).capacity(), MAX_CAPACITY);
    assert_eq!(Limit::PerServer(2).capacity(), 2 * MAX_SERVERS);
    assert_eq!(Limit::PerServer(100_000).capacity(), MAX_OF_ALL_SERVERS);
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
