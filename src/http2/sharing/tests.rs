//! Who joins, opens, waits; and what is remembered.
#![forbid(unsafe_code)]

use super::*;

fn key(number: &u8) -> Key<'_> {
    Key { address: std::slice::from_ref(number), protocol: 1, location: 0, identity: b"" }
}

fn most(carriers: usize) -> Most {
    Most { carriers, streams: 100 }
}

fn room(streams: usize) -> impl Fn(&u32) -> Room {
    move |_| Room { streams, is_settled: true, is_draining: false }
}

fn open(sharing: &mut Sharing<u32>, server: u8, carrier: u32, carriers: usize) -> GroupId {
    let Place::Open(id) = sharing.place(&key(&server), most(carriers), false, 0, room(0)) else { panic!() };
    sharing.opened(id, carrier).unwrap();
    id
}

#[test]
fn one_request_opens_a_carrier_and_others_wait_for_it() {
    let mut sharing = Sharing::default();
    let Place::Open(id) = sharing.place(&key(&1), most(2), false, 0, room(0)) else { panic!() };
    assert_eq!(sharing.place(&key(&1), most(2), false, 0, room(0)), Place::Wait(id));
    assert!(matches!(sharing.place(&key(&2), most(2), false, 0, room(0)), Place::Open(_)));
    sharing.opened(id, 7).unwrap();
    assert_eq!(sharing.place(&key(&1), most(2), false, 0, room(9)), Place::Join(7));
    let unsettled = |_: &u32| Room { streams: 0, is_settled: false, is_draining: false };
    assert_eq!(sharing.place(&key(&1), most(2), false, 0, unsettled), Place::Wait(id));
    assert_eq!(sharing.place(&key(&1), most(2), false, 0, room(0)), Place::Open(id));
}

#[test]
fn the_least_loaded_carrier_is_joined_and_the_number_is_limited() {
    let mut sharing = Sharing::default();
    let id = open(&mut sharing, 1, 10, 2);
    open(&mut sharing, 1, 20, 2);
    let by_carrier = |carrier: &u32| Room {
        streams: if *carrier == 20 { 5 } else { 4 },
        is_settled: true,
        is_draining: false,
    };
    assert_eq!(sharing.place(&key(&1), most(2), false, 0, by_carrier), Place::Join(20));
    assert_eq!(sharing.place(&key(&1), most(2), false, 0, room(0)), Place::Wait(id));
    sharing.wait(id);
    assert!(!sharing.has_place(id, most(2), 0, room(0)) && sharing.has_place(id, most(3), 0, room(0)));
    assert!(sharing.has_place(id, most(2), 0, by_carrier));
}

#[test]
fn as_many_are_opened_at_a_time_as_there_are_requests_for() {
    for (streams, opened) in [(1, [0, 1, 2]), (2, [0, 2, 4]), (100, [0, 100, 200])] {
        let mut sharing = Sharing::<u32>::default();
        let most = Most { carriers: 3, streams };
        let mut openers = Vec::new();
        for number in 0..300 {
            match sharing.place(&key(&1), most, false, 0, room(0)) {
                Place::Open(_) => openers.push(number),
                Place::Wait(id) => sharing.wait(id),
                place => panic!("{place:?}"),
            }
        }
        assert_eq!(openers, opened, "{streams}");
        // One fails: a request that waits opens another one.
        let Some(id) = sharing.find(&key(&1)) else { panic!() };
        assert!(!sharing.has_place(id, most, 0, room(0)));
        sharing.not_opened(id, false);
        assert!(sharing.has_place(id, most, 0, room(0)));
        assert_eq!(sharing.place(&key(&1), most, true, 0, room(0)), Place::Open(id));
        sharing.end_wait(id);
        assert!(!sharing.has_place(id, most, 0, room(0)));
    }
}

#[test]
fn who_waits_is_patient_for_a_second() {
    let mut sharing = Sharing::<u32>::default();
    let begun = Msec::MAX - 100;
    let unsettled = |_: &u32| Room { streams: 0, is_settled: false, is_draining: false };
    let Place::Open(id) = sharing.place(&key(&1), most(2), false, begun, unsettled) else { panic!() };
    sharing.wait(id);
    for is_opened in [false, true] {
        assert!(!sharing.has_place(id, most(2), begun.wrapping_add(999), unsettled));
        assert!(sharing.has_place(id, most(2), begun.wrapping_add(1_000), unsettled));
        assert!(!sharing.has_place(id, most(1), begun.wrapping_add(1_000), unsettled));
        if !is_opened {
            sharing.opened(id, 1).unwrap();
        }
    }
    let late = begun.wrapping_add(1_000);
    assert_eq!(sharing.place(&key(&1), most(3), true, late, unsettled), Place::Open(id));
    assert!(!sharing.has_place(id, most(3), late, unsettled));
}

#[test]
fn a_draining_carrier_does_not_count() {
    let mut sharing = Sharing::default();
    let id = open(&mut sharing, 1, 10, 1);
    let draining = |_: &u32| Room { streams: 0, is_settled: false, is_draining: true };
    assert_eq!(sharing.place(&key(&1), most(1), false, 0, draining), Place::Open(id));
}

#[test]
fn who_waits_has_the_first_turn() {
    let mut sharing = Sharing::default();
    let id = open(&mut sharing, 1, 10, 1);
    sharing.wait(id);
    assert_eq!(sharing.place(&key(&1), most(1), false, 0, room(1)), Place::Wait(id));
    assert_eq!(sharing.place(&key(&1), most(1), true, 0, room(1)), Place::Join(10));
    sharing.end_wait(id);
    assert_eq!(sharing.place(&key(&1), most(1), false, 0, room(1)), Place::Join(10));
}

#[test]
fn a_server_without_http2_is_remembered() {
    let mut sharing = Sharing::<u32>::default();
    let Place::Open(id) = sharing.place(&key(&1), most(1), false, 0, room(0)) else { panic!() };
    sharing.not_opened(id, true);
    assert_eq!(sharing.place(&key(&1), most(1), false, 0, room(0)), Place::Ordinary);
    let again = sharing.announce(&key(&1)).unwrap();
    sharing.opened(again, 3).unwrap();
    assert_eq!(sharing.place(&key(&1), most(1), false, 0, room(1)), Place::Join(3));
}

#[test]
fn a_failed_opener_lets_the_next_one_open() {
    let mut sharing = Sharing::<u32>::default();
    let Place::Open(id) = sharing.place(&key(&1), most(1), false, 0, room(0)) else { panic!() };
    sharing.wait(id);
    sharing.not_opened(id, false);
    assert_eq!(sharing.place(&key(&1), most(1), true, 0, room(0)), Place::Open(id));
}

#[test]
fn groups_with_equal_hashes_stay_apart_and_are_forgotten() {
    let mut sharing = Sharing::default();
    let ids: Vec<_> = (0..5).map(|server| open(&mut sharing, server, server.into(), 1)).collect();
    // As if all had one hash.
    for number in 0..5 {
        let group = sharing.groups[number].as_mut().unwrap();
        (group.hash, group.next) = (99, number.checked_sub(1).map(|before| before as u32));
    }
    sharing.heads = HashMap::from([(99, 4)]);
    for (number, id) in [(2, ids[2]), (4, ids[4]), (0, ids[0]), (1, ids[1]), (3, ids[3])] {
        assert_eq!(sharing.remove(id, |carrier| *carrier == number), Some(number));
        let left: Vec<_> = sharing.carriers().map(|(_, carrier)| *carrier).collect();
        let mut chain = Vec::new();
        let mut at = sharing.heads.get(&99).copied();
        while let Some(group) = at {
            chain.push(group);
            at = sharing.groups[group as usize].as_ref().unwrap().next;
        }
        chain.sort_unstable();
        assert_eq!(chain, left);
    }
    assert!(sharing.heads.is_empty() && sharing.free.len() == 5);
}

#[test]
fn not_too_many_servers_are_remembered() {
    let mut sharing = Sharing::<u32>::default();
    for server in 0..=MAX_ORDINARY as u32 {
        let address = server.to_be_bytes();
        let key = Key { address: &address, protocol: 1, location: 0, identity: b"" };
        let Place::Open(id) = sharing.place(&key, most(1), false, 0, room(0)) else { panic!() };
        sharing.not_opened(id, true);
    }
    assert_eq!((sharing.heads.len(), sharing.free.len()), (MAX_ORDINARY, 1));
}
