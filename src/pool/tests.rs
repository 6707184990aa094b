//! Tests of each rule of the pool.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::model::{agree, memory, pool, put, put_known, with, PoolOp, TestConn, TestKey, SERVERS, TIMEOUT};
use super::*;

fn checkout(pool: &mut IdlePool<TestConn>, key: TestKey) -> Option<u32> {
    with(key, |key| pool.checkout(key, &mut 0)).0.map(|conn| conn.number)
}

fn server(number: u8) -> TestKey {
    (number, 0, 0, b"")
}

#[test]
fn takes_the_connection_that_has_been_idle_longest() {
    let mut pool = pool(Limit::Total(3));
    assert_eq!(pool.take_oldest(), None);
    let (a, other): (TestKey, TestKey) = ((3, 0, 0, b""), (4, 0, 0, b""));
    for (number, key, since) in [(1, a, Msec::MAX - 9), (2, other, Msec::MAX - 5), (3, a, 2)] {
        put(&mut pool, key, number, true, since);
    }
    let mut oldest = || pool.take_oldest().map(|conn| conn.number);
    assert_eq!([oldest(), oldest(), oldest(), oldest()], [Some(1), Some(2), Some(3), None]);
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
fn every_part_of_the_key_separates() {
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
    let key = |address: &'static [u8]| Key { address, protocol: 0, location: 0, identity: b"" };
    let offer = |number| Offer {
        conn: TestConn { number, identity: b"", server: None },
        group: None,
        reused: false,
        now: 0,
        expiry: Expiry::Usual,
    };
    assert!(pool.put(&key(&[1; 16]), offer(1)).stored.is_ok());
    assert!(pool.put(&key(&[1; 17]), offer(2)).stored.is_ok());
    assert!(pool.put(&key(&[1; 112]), offer(3)).stored.is_ok());
    assert!(pool.put(&key(&[1; 113]), offer(4)).stored.is_err());
    assert_eq!(pool.checkout(&key(&[1; 17]), &mut 0).0.map(|c| c.number), Some(2));
    assert_eq!(pool.checkout(&key(&[1; 113]), &mut 0), (None, None));
    assert_eq!(pool.len(), 2);
}

#[test]
fn addresses_of_any_length_change_places() {
    for limit in [Limit::Total(3), Limit::PerServer(1)] {
        let mut pool = pool(limit);
        let mut bytes = [0; MAX_ADDRESS];
        for number in 0..5 * MAX_SERVERS {
            // Each byte matters, and the last one most.
            let length = [8, 16, 17, 28, 29, 110, 112, 16][number % 8];
            bytes[..2].copy_from_slice(&(number as u16).to_ne_bytes());
            bytes[12] = (number % 16 / 8) as u8;
            let mut key = Key { address: &bytes[..length], protocol: number % 3, location: 0, identity: b"" };
            let conn = TestConn { number: number as u32, identity: b"", server: None };
            let offer = Offer { conn, group: None, reused: true, now: 0, expiry: Expiry::Other(TIMEOUT) };
            let slot = pool.put(&key, offer).stored.unwrap();
            assert_eq!(
                pool.entry(slot)
                    .map(|entry| entry.key().address == key.address && entry.key().protocol == key.protocol),
                Some(true)
            );
            let mut other = bytes;
            other[length - 1] ^= 1;
            key.address = &other[..length];
            assert!(pool.newest_like(&key).is_none());
            key.address = &bytes[..length];
            assert!(number % 5 > 0 || pool.checkout(&key, &mut 0).0.is_some());
            if limit == Limit::PerServer(1) && number >= 900 {
                pool.take_oldest();
            }
        }
        let most = if limit == Limit::Total(3) { 3 } else { 900 };
        assert!(pool.len() <= most, "{}", pool.len());
    }
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
fn a_lent_connection_gets_its_slot_back_until_all_others_are_taken() {
    let key = (4, 0, 0, &b""[..]);
    for limit in [Limit::Total(4), Limit::PerServer(4)] {
        let mut pool = pool(limit);
        for number in 0..2 {
            put(&mut pool, key, number, false, 0);
        }
        let lend = |pool: &mut IdlePool<TestConn>| {
            let slot = with(key, |key| pool.lend(key)).unwrap();
            pool.lent(slot, |conn, since| (conn.number, slot, since)).unwrap()
        };
        let (number, slot, _) = lend(&mut pool);
        assert_eq!((number, pool.len()), (1, 1));
        // A slot that was emptied, and one that was never used, are taken first.
        pool.remove(0, |_| true).unwrap();
        let others = |pool: &mut IdlePool<TestConn>, numbers: std::ops::Range<u32>| {
            numbers.map(|number| put(pool, key, number, false, 0).stored.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(others(&mut pool, 2..5), [0, 2, 3]);
        let back = |pool: &mut IdlePool<TestConn>| {
            pool.put_back(slot, |conn| conn.number == 1, 5, Expiry::Usual, None)
        };
        assert!(back(&mut pool).is_some());
        assert_eq!((back(&mut pool), pool.len()), (None, 4));
        assert_eq!(lend(&mut pool), (1, slot, 5));
        if limit == Limit::Total(4) {
            assert_eq!(others(&mut pool, 5..6), [slot]);
            assert_eq!(back(&mut pool), None);
        }
    }
}

#[test]
fn any_connection_of_a_full_pool_is_set_aside() {
    for limit in [Limit::Total(1), Limit::Total(3), Limit::PerServer(1)] {
        let mut pool = pool(limit);
        let keys: [TestKey; 3] = [server(1), server(2), (3, 0, 0, b"sni")];
        for (key, number) in keys.into_iter().zip(1..).take(pool.capacity()) {
            let slot = put(&mut pool, key, number, true, 0).stored.unwrap();
            assert!(pool.set_aside(slot, 9), "{limit:?}: {number}");
            assert_eq!(checkout(&mut pool, key), None, "{limit:?}: {number}");
        }
        for (key, number) in keys.into_iter().zip(4..).take(pool.capacity()) {
            put(&mut pool, key, number, true, 0);
            assert_eq!(checkout(&mut pool, key), Some(number), "{limit:?}: {number}");
        }
    }
}

#[test]
fn more_servers_than_there_is_room_for_are_not_stored_until_one_is_empty() {
    let mut pool = pool(Limit::PerServer(1));
    let numbers: Vec<[u8; 8]> = (0..=MAX_SERVERS).map(usize::to_ne_bytes).collect();
    let key = |at: usize| Key { address: &numbers[at], protocol: 0, location: 0, identity: b"" };
    let offer = |number| Offer {
        conn: TestConn { number, identity: b"", server: None },
        group: None,
        reused: false,
        now: 0,
        expiry: Expiry::Usual,
    };
    for at in 0..MAX_SERVERS {
        assert!(pool.put(&key(at), offer(at as u32)).stored.is_ok());
    }
    assert!(pool.put(&key(MAX_SERVERS), offer(1)).stored.is_err());
    assert_eq!(pool.checkout(&key(5), &mut 0).0.map(|c| c.number), Some(5));
    assert!(pool.put(&key(MAX_SERVERS), offer(1)).stored.is_ok());
    assert_eq!(pool.checkout(&key(5), &mut 0), (None, None));
}

/// The share of requests that find a connection, with one client and round robin.
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
    // These four servers are never used again; four others are.
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
fn a_group_of_another_server_is_not_taken() {
    for limit in [Limit::Total(4), Limit::PerServer(2)] {
        let mut pool = pool(limit);
        put(&mut pool, server(1), 1, false, 0);
        let (_, group) = with(server(1), |key| pool.checkout(key, &mut 0));
        assert!(put_known(&mut pool, server(2), 2, group, 0).stored.is_ok());
        assert_eq!(checkout(&mut pool, server(1)), None);
        assert_eq!(checkout(&mut pool, server(2)), Some(2));
    }
}

#[test]
fn nothing_is_lost_when_slots_run_out() {
    // One server may fill all slots. Then there is none for another one.
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
    let mut pool = pool(Limit::Total(MAX_CAPACITY));
    assert!(pool.reserve().is_none());
    // It grows as far as there is memory.
    assert!(put(&mut pool, server(1), 1, false, 0).stored.is_ok());
    assert_eq!(Limit::PerServer(usize::MAX).capacity(), MAX_CAPACITY);
    assert_eq!(Limit::PerServer(2).capacity(), 2 * MAX_SERVERS);
    assert_eq!(Limit::PerServer(100_000).capacity(), MAX_OF_ALL_SERVERS);
}

#[test]
fn the_memory_grows_in_steps() {
    let mut pool = pool(Limit::Total(150));
    let mut steps = vec![pool.slots.capacity()];
    for number in 0..200 {
        put(&mut pool, server(number), number.into(), true, 0);
        if steps.last() != Some(&pool.slots.capacity()) {
            steps.push(pool.slots.capacity());
        }
    }
    assert_eq!((steps, pool.len()), (vec![0, 4, 8, 16, 32, 64, 150], 150));
    for number in 0..200 {
        assert_eq!(checkout(&mut pool, server(number)), Some(number.into()).filter(|_| number >= 50));
    }
}

#[test]
fn without_memory_for_another_step_nothing_is_stored_and_nothing_lost() {
    let mut pool = pool(Limit::Total(9));
    let is_stored = |pool: &mut IdlePool<TestConn>, number: u8| {
        put(pool, server(number), number.into(), true, 0).stored.is_ok()
    };
    memory::set(false);
    assert!(!is_stored(&mut pool, 1) && pool.is_empty());
    memory::set(true);
    assert!((1..=4).all(|number| is_stored(&mut pool, number)));
    memory::set(false);
    assert!(!is_stored(&mut pool, 5) && pool.len() == 4);
    // The slot of a connection that was lent is taken.
    let slot = with(server(1), |key| pool.lend(key)).unwrap();
    assert!(is_stored(&mut pool, 5) && pool.len() == 4);
    assert_eq!(pool.put_back(slot, |conn| conn.number == 1, 0, Expiry::Usual, None), None);
    assert_eq!(checkout(&mut pool, server(5)), Some(5));
    memory::set(true);
    assert!((5..=9).all(|number| is_stored(&mut pool, number)));
    assert!((2..=9).all(|number| checkout(&mut pool, server(number)) == Some(number.into())));
}

fn key() -> impl Strategy<Value = TestKey> {
    let identity = prop_oneof![Just(&b""[..]), Just(&b"a"[..]), Just(&b"bb"[..])];
    (0..SERVERS, 0usize..2, 0usize..2, identity)
}

fn op() -> impl Strategy<Value = PoolOp> {
    prop_oneof![
        8 => (key(), any::<bool>()).prop_map(|(key, reused)| PoolOp::Put(key, reused)),
        3 => key().prop_map(PoolOp::Checkout),
        5 => key().prop_map(PoolOp::Lend),
        5 => any::<usize>().prop_map(PoolOp::PutBack),
        1 => any::<usize>().prop_map(PoolOp::Forget),
        2 => any::<usize>().prop_map(PoolOp::Remove),
        1 => any::<usize>().prop_map(PoolOp::SetAside),
        1 => any::<u32>().prop_map(PoolOp::RemoveStale),
        2 => (0usize..TIMEOUT).prop_map(PoolOp::Expire),
        1 => (0..SERVERS).prop_map(PoolOp::RemoveServer),
        1 => Just(PoolOp::TakeOldest),
        2 => (0..u32::from(SERVERS)).prop_map(PoolOp::TakeOldestOf),
        1 => (0..SERVERS, 0usize..2 * TIMEOUT).prop_map(|(server, ago)| PoolOp::RemoveOlder(server, ago)),
        1 => Just(PoolOp::Reset),
        1 => (0..4).prop_map(|number| PoolOp::Memory(number > 0)),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    prop_oneof![(1usize..25).prop_map(Limit::Total), (1usize..4).prop_map(Limit::PerServer)]
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model(limit in limit(), ops in prop::collection::vec(op(), 0..300)) {
        agree(limit, ops);
    }
}
