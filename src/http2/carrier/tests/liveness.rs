//! Silence, PING, and a window that stays at 0.
#![forbid(unsafe_code)]

use super::super::frame::*;
use super::*;

fn is_ping(carrier: &mut Carrier<u32>) -> bool {
    let frames = output(carrier);
    assert!(frames.iter().all(|it| (it.0, it.1) == (PING, 0)), "{frames:?}");
    !frames.is_empty()
}

/// An answer to PING.
fn pong() -> Vec<u8> {
    frame(PING, ACK, 0, &[0; 8])
}

fn wait(at: Msec) -> Tick {
    Tick::Wait(Some(at))
}

#[test]
fn an_idle_carrier_needs_no_time() {
    let mut carrier = settled();
    assert_eq!((carrier.tick(0), carrier.tick(1 << 40)), (Tick::Wait(None), Tick::Wait(None)));
    let mut carrier = fresh(1);
    assert_eq!(carrier.tick(7), Tick::Wait(None));
}

#[test]
fn silence_is_asked_about_more_and_more_rarely() {
    // Also where the clock wraps around.
    for start in [0, Msec::MAX - 15_000] {
        let at = |time: Msec| start.wrapping_add(time);
        let mut carrier = fresh(9);
        carrier.receive(&settings(&[]), at(0)).unwrap();
        carrier.open(Kind::Translated, 1, at(0)).unwrap();
        output(&mut carrier);
        assert_eq!(carrier.tick(at(0)), wait(at(10_000)));
        carrier.receive(&frame(PING, 0, 0, &[0; 8]), at(4_000)).unwrap();
        output(&mut carrier);
        assert_eq!(carrier.tick(at(10_000)), wait(at(14_000)));
        for (due, next) in [(14_000, 34_000), (34_000, 334_000), (334_000, 634_000)] {
            assert_eq!((carrier.tick(at(due - 1)), is_ping(&mut carrier)), (wait(at(due)), false));
            assert_eq!((carrier.tick(at(due)), is_ping(&mut carrier)), (wait(at(due + 5_000)), true));
            carrier.receive(&pong(), at(due + 100)).unwrap();
            assert_eq!(carrier.tick(at(due + 100)), wait(at(next)));
        }
        let counters = carrier.counters();
        assert_eq!((counters.pings_sent, counters.pings_answered), (3, 3));
    }
}

#[test]
fn a_frame_of_a_stream_makes_pings_harmless() {
    let mut carrier = settled();
    get(&mut carrier);
    output(&mut carrier);
    let mut now = 0;
    for _ in 0..5 {
        now += 10_000;
        assert_eq!((carrier.tick(now), is_ping(&mut carrier)), (wait(now + 5_000), true));
        let head = frame(HEADERS, END_HEADERS, 1, INTERIM);
        carrier.receive(&head, now).unwrap();
    }
}

#[test]
fn without_a_sign_of_life_all_streams_fail_at_once() {
    let mut carrier = settled();
    let sent = get(&mut carrier);
    output(&mut carrier);
    let waiting = get(&mut carrier);
    assert_eq!(carrier.tick(10_000), wait(15_000));
    assert_eq!(carrier.tick(14_999), wait(15_000));
    assert_eq!(carrier.tick(15_000), Tick::Dead(Fault::NoAnswer));
    assert_eq!(woken(&mut carrier).len(), 2);
    assert_eq!(read(&mut carrier, sent), Read::Failed(Failure::Lost));
    assert_eq!(read(&mut carrier, waiting), Read::Failed(Failure::Refused));
    assert_eq!(carrier.tick(15_001), Tick::Dead(Fault::NoAnswer));
    // Anything is a sign of life.
    let mut carrier = settled();
    get(&mut carrier);
    carrier.tick(10_000);
    carrier.receive(&settings(&[]), 14_000).unwrap();
    assert_eq!(carrier.tick(15_000), wait(30_000));
}

#[test]
fn a_server_that_says_nothing_at_all_is_found() {
    let mut carrier = fresh(9);
    carrier.open(Kind::Translated, 1, 500).unwrap();
    assert_eq!(carrier.tick(500), wait(10_500));
    assert_eq!(carrier.tick(10_500), wait(15_500));
    assert_eq!(carrier.tick(15_500), Tick::Dead(Fault::NoAnswer));
}

#[test]
fn the_first_request_after_idleness_waits_for_a_sign_of_life() {
    let mut carrier = settled();
    let keys: Vec<_> = (0..2).map(|nth| carrier.open(Kind::Translated, nth, 10_001).unwrap()).collect();
    assert!(is_ping(&mut carrier));
    for key in &keys {
        assert_eq!(carrier.send(*key, GET), Ok(0));
    }
    assert_eq!((writers(&mut carrier), carrier.tick(10_001)), (vec![], wait(12_001)));
    carrier.receive(&pong(), 10_050).unwrap();
    assert_eq!(writers(&mut carrier), [0, 1]);
    assert_eq!(carrier.send(keys[0], GET), Ok(GET.len()));
    assert_eq!(kinds(&mut carrier), [(HEADERS, 1)]);
    // Not idle, or not for long.
    for now in [0, 10_000] {
        let mut carrier = settled();
        let key = carrier.open(Kind::Translated, 0, now).unwrap();
        assert_eq!(carrier.send(key, GET), Ok(GET.len()));
    }
}

#[test]
fn held_requests_go_elsewhere_if_there_is_no_sign_of_life() {
    let mut carrier = settled();
    let key = carrier.open(Kind::Translated, 0, 60_000).unwrap();
    assert_eq!((carrier.send(key, GET), carrier.tick(61_999)), (Ok(0), wait(62_000)));
    assert_eq!(carrier.tick(62_000), Tick::Dead(Fault::NoAnswer));
    assert_eq!(read(&mut carrier, key), Read::Failed(Failure::Refused));
    assert_eq!(carrier.close(key), Close::Refused);
}

#[test]
fn a_window_that_stays_at_0_retires_the_carrier() {
    let mut carrier = settled_with(9, &[(4, 1 << 20)]);
    let key = put(&mut carrier, 1 << 20);
    for _ in 0..3 {
        let _ = carrier.send(key, &[b'b'; 40_000]);
        output(&mut carrier);
    }
    assert_eq!(carrier.tick(0), wait(2_000));
    carrier.receive(&pong(), 1_000).unwrap();
    assert!(matches!(carrier.tick(1_999), Tick::Wait(_)) && !carrier.is_draining());
    carrier.receive(&pong(), 2_000).unwrap();
    assert!(matches!(carrier.tick(2_000), Tick::Wait(_)) && carrier.is_draining());
    // As long as anything of a stream comes, it lives.
    carrier.receive(&frame(HEADERS, END_HEADERS, 1, OK), 60_000).unwrap();
    for now in (60_000..120_000).step_by(4_000) {
        carrier.receive(&pong(), now).unwrap();
        assert!(matches!(carrier.tick(now), Tick::Wait(_)), "{now}");
    }
    carrier.receive(&pong(), 120_000).unwrap();
    assert_eq!(carrier.tick(120_000), Tick::Dead(Fault::Stalled));
    assert!(matches!(read(&mut carrier, key), Read::Bytes(_)));
}

#[test]
fn a_window_that_is_used_up_when_the_last_stream_ends_retires_the_carrier() {
    for (body, is_retired) in [(40_000, false), (65_535, true)] {
        let mut carrier = settled_with(9, &[(4, 1 << 20)]);
        let key = put(&mut carrier, 1 << 20);
        let mut left = body;
        while left > 0 {
            let taken = carrier.send(key, &vec![b'b'; left]).unwrap();
            output(&mut carrier);
            assert!(taken > 0, "{left} of {body}");
            left -= taken;
        }
        carrier.close(key);
        assert_eq!(carrier.is_draining(), is_retired, "{body}");
    }
}

#[test]
fn a_window_that_opens_in_time_is_no_stall() {
    let mut carrier = settled_with(9, &[(4, 1 << 20)]);
    let key = put(&mut carrier, 1 << 20);
    for _ in 0..3 {
        let _ = carrier.send(key, &[b'b'; 40_000]);
        output(&mut carrier);
    }
    for now in (0..100_000).step_by(1_900) {
        assert!(matches!(carrier.tick(now), Tick::Wait(_)));
        carrier.receive(&number(WINDOW_UPDATE, 0, 1), now + 1).unwrap();
        assert!(matches!(carrier.tick(now + 1), Tick::Wait(_)));
        while writers(&mut carrier) == [0] {
            let _ = carrier.send(key, &[b'b'; 9]);
        }
        output(&mut carrier);
    }
    assert!(!carrier.is_draining());
}

#[test]
fn requests_that_fail_one_after_the_other_are_one_silence() {
    // After 10 s without a word the next request is held behind a PING; a server that was never heard gets one meanwhile.
    for (has_settings, end) in [(true, 13_000), (false, 16_000)] {
        let mut carrier = fresh(9);
        if has_settings {
            carrier.receive(&settings(&[]), 0).unwrap();
        }
        output(&mut carrier);
        let mut died = None;
        for now in (1_000..30_000).step_by(1_000) {
            let Some(key) = carrier.open(Kind::Translated, 1, now) else { break };
            if let Tick::Dead(fault) = carrier.tick(now + 900) {
                died = Some((now, fault));
                break;
            }
            carrier.close(key);
        }
        assert_eq!(died, Some((end, Fault::NoAnswer)), "{has_settings}");
    }
}

#[test]
fn a_server_that_leaves_its_first_request_unanswered_gets_no_more() {
    let mut carrier = fresh(9);
    let key = get(&mut carrier);
    output(&mut carrier);
    carrier.close(key);
    assert!(carrier.is_draining());
    // A request that was not sent says nothing of the server.
    let mut carrier = fresh(9);
    let key = open(&mut carrier, Kind::Translated);
    carrier.close(key);
    assert!(!carrier.is_draining());
}
