//! How streams end: RST_STREAM, GOAWAY, early responses, and the end of the connection.
#![forbid(unsafe_code)]

use super::super::frame::*;
use super::*;

const BOTH: Wake = Wake { read: true, write: true };

#[test]
fn the_owner_leaves() {
    let mut carrier = settled();
    let unsent = open(&mut carrier, Kind::Translated);
    assert_eq!((carrier.close(unsent), kinds(&mut carrier)), (Close::Unsent, vec![]));
    let key = get(&mut carrier);
    output(&mut carrier);
    assert_eq!(carrier.close(key), Close::ResetByUs);
    assert_eq!(output(&mut carrier), [(RST_STREAM, 0, 1, CANCEL.to_be_bytes().to_vec())]);
    let counters = carrier.counters();
    assert_eq!((counters.opened, counters.reset_by_us), (2, 1));
    // What was on its way does no harm.
    receive(&mut carrier, &[answer(1), number(RST_STREAM, 1, 8), number(WINDOW_UPDATE, 1, 9)]);
    assert!(woken(&mut carrier).is_empty());
}

#[test]
fn the_server_resets() {
    let mut carrier = settled();
    let keys: Vec<_> = (0..4).map(|_| get(&mut carrier)).collect();
    output(&mut carrier);
    let head = frame(HEADERS, END_HEADERS, 3, OK);
    receive(
        &mut carrier,
        &[number(RST_STREAM, 1, 7), head, number(RST_STREAM, 3, 7), number(RST_STREAM, 5, 2)],
    );
    assert_eq!(woken(&mut carrier), [(0, BOTH), (1, BOTH), (2, BOTH)]);
    // It is told at once, before what has come. A refusal after an answer is none.
    assert_eq!(read(&mut carrier, keys[0]), Read::Failed(Failure::Refused));
    assert_eq!(carrier.send(keys[0], b""), Err(Failure::Refused));
    assert_eq!(read(&mut carrier, keys[1]), Read::Failed(Failure::Reset(7)));
    assert_eq!(read(&mut carrier, keys[2]), Read::Failed(Failure::Reset(2)));
    assert_eq!(read(&mut carrier, keys[3]), Read::Pending);
    let closed: Vec<_> = keys.iter().map(|key| carrier.close(*key)).collect();
    let by_server = Close::ResetByServer;
    assert_eq!(closed, [Close::Refused, by_server, by_server, Close::ResetByUs]);
    assert_eq!(kinds(&mut carrier), [(RST_STREAM, 7)]);
    let counters = carrier.counters();
    assert_eq!((counters.refused, counters.reset_by_server, counters.reset_by_us), (1, 2, 1));
    assert_eq!(carrier.room(), 100);
}

#[test]
fn an_early_response_is_a_response() {
    let early = [frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, END_STREAM, 1, b"early")];
    for reset in [None, Some(NO_ERROR), Some(CANCEL)] {
        let mut carrier = settled();
        let key = put(&mut carrier, 1 << 20);
        carrier.send(key, &[b'b'; 9_000]).unwrap();
        output(&mut carrier);
        receive(&mut carrier, &early);
        if let Some(code) = reset {
            receive(&mut carrier, &[number(RST_STREAM, 1, code)]);
        }
        assert_eq!(woken(&mut carrier), [(0, BOTH)]);
        // The rest is taken and dropped.
        assert_eq!(carrier.send(key, &vec![b'b'; 1 << 19]), Ok(1 << 19));
        assert!(output(&mut carrier).is_empty());
        let (bytes, end) = read_all(&mut carrier, key);
        assert!(bytes.windows(5).any(|it| it == b"early"));
        assert_eq!((end, carrier.is_done(key)), (Read::End, reset.is_some()));
        assert_eq!(carrier.close(key), Close::Complete);
        let expected = (RST_STREAM, 0, 1, NO_ERROR.to_be_bytes().to_vec());
        assert_eq!(output(&mut carrier), reset.map_or(vec![expected], |_| vec![]));
    }
}

#[test]
fn what_follows_the_end_of_a_response_is_ignored() {
    let mut carrier = settled();
    let keys = [put(&mut carrier, 9), get(&mut carrier)];
    for id in [1, 3] {
        receive(&mut carrier, &[answer(id), frame(DATA, 0, id, b"more"), answer(id)]);
    }
    for key in keys {
        let (bytes, end) = read_all(&mut carrier, key);
        assert!(!bytes.windows(4).any(|it| it == b"more") && end == Read::End);
    }
}

#[test]
fn goaway_refuses_what_is_above() {
    let mut carrier = settled();
    let keys = [get(&mut carrier), put(&mut carrier, 9), get(&mut carrier)];
    let unsent = open(&mut carrier, Kind::Translated);
    output(&mut carrier);
    // Graceful: first without a limit, then with one. A larger one changes nothing.
    receive(&mut carrier, &[goaway(LARGEST, 0)]);
    assert_eq!((carrier.is_draining(), carrier.room()), (true, 0));
    assert_eq!(read(&mut carrier, unsent), Read::Failed(Failure::Refused));
    assert_eq!(carrier.send(unsent, GET), Err(Failure::Refused));
    assert_eq!(woken(&mut carrier), [(3, BOTH)]);
    receive(&mut carrier, &[goaway(1, 0), goaway(5, 11)]);
    assert_eq!(woken(&mut carrier), [(1, BOTH), (2, BOTH)]);
    assert_eq!(carrier.send(keys[1], b"body"), Err(Failure::Refused));
    assert_eq!(read(&mut carrier, keys[2]), Read::Failed(Failure::Refused));
    assert_eq!(carrier.counters().goaways, 3);
    receive(&mut carrier, &[answer(1), answer(3)]);
    assert_eq!(read_all(&mut carrier, keys[0]).1, Read::End);
    assert_eq!(carrier.open(Kind::Translated, 9, 0), None);
    let closed: Vec<_> = keys.iter().chain([&unsent]).map(|key| carrier.close(*key)).collect();
    assert_eq!(closed, [Close::Complete, Close::Refused, Close::Refused, Close::Refused]);
    assert_eq!((output(&mut carrier), carrier.streams(), carrier.counters().refused), (vec![], 0, 3));
}

#[test]
fn what_goaway_refuses_needs_no_reset() {
    let mut carrier = settled();
    let key = get(&mut carrier);
    carrier.output.fill_for_test();
    carrier.close(key);
    receive(&mut carrier, &[goaway(0, 0)]);
    assert_eq!((carrier.slots.live, carrier.slots.used), (0, 0));
    carrier.written(1 << 20);
    assert!(carrier.output().is_empty());
}

#[test]
fn goaway_does_not_refuse_what_was_answered() {
    let mut carrier = settled();
    let keys = [put(&mut carrier, 9), put(&mut carrier, 9)];
    receive(&mut carrier, &[frame(HEADERS, END_HEADERS, 1, OK), answer(3), goaway(0, 0)]);
    assert!(matches!(read(&mut carrier, keys[0]), Read::Bytes(_)));
    assert_eq!(read(&mut carrier, keys[0]), Read::Failed(Failure::Lost));
    assert_eq!(read_all(&mut carrier, keys[1]).1, Read::End);
}

#[test]
fn the_connection_ends() {
    let mut carrier = settled();
    let keys: Vec<_> = (0..3).map(|_| get(&mut carrier)).collect();
    let whole = carrier.output().len();
    receive(&mut carrier, &[frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, 0, 1, b"half")]);
    // The second is written whole, the third but for a byte.
    carrier.written(whole - 1);
    let unsent = open(&mut carrier, Kind::Translated);
    carrier.end();
    assert_eq!(woken(&mut carrier).len(), 4);
    let (bytes, end) = read_all(&mut carrier, keys[0]);
    assert!(bytes.windows(4).any(|it| it == b"half"));
    assert_eq!(end, Read::Failed(Failure::Lost));
    assert_eq!(read(&mut carrier, keys[1]), Read::Failed(Failure::Lost));
    assert_eq!(read(&mut carrier, keys[2]), Read::Failed(Failure::Refused));
    assert_eq!(read(&mut carrier, unsent), Read::Failed(Failure::Refused));
    assert_eq!((carrier.room(), carrier.tick(1 << 30)), (0, Tick::Wait(None)));
    let closed: Vec<_> = keys.iter().chain([&unsent]).map(|key| carrier.close(*key)).collect();
    assert_eq!(closed, [Close::Failed, Close::Failed, Close::Refused, Close::Refused]);
    assert_eq!((carrier.receive(b"anything", 0), carrier.streams()), (Ok(()), 0));
    carrier.end();
}

#[test]
fn a_complete_response_outlives_the_connection() {
    let mut carrier = settled();
    let key = get(&mut carrier);
    receive(&mut carrier, &[answer(1)]);
    carrier.end();
    let (bytes, end) = read_all(&mut carrier, key);
    assert!(!bytes.is_empty() && end == Read::End && carrier.close(key) == Close::Complete);
}

#[test]
fn a_fault_takes_back_what_was_not_written() {
    let mut carrier = settled();
    let keys: Vec<_> = (0..4).map(|_| get(&mut carrier)).collect();
    let first = frames_of(carrier.output())[0].3.len() + HEADER;
    let whole = carrier.output()[..2 * first].to_vec();
    // The second was begun, so it is written to its end.
    carrier.written(first + 3);
    assert_eq!(carrier.receive(&number(WINDOW_UPDATE, 0, 0), 0), Err(Fault::NoIncrement));
    let rest = carrier.output().to_vec();
    let written = frames_of(&[&whole[..first + 3], &rest].concat());
    let shape: Vec<_> = written.iter().map(|it| (it.0, it.2)).collect();
    assert_eq!(shape, [(HEADERS, 1), (HEADERS, 3), (GOAWAY, 0)]);
    let failures: Vec<_> = keys.iter().map(|key| read(&mut carrier, *key)).collect();
    let (lost, refused) = (Read::Failed(Failure::Lost), Read::Failed(Failure::Refused));
    assert_eq!(failures, [lost, lost, refused, refused]);
    // At the very beginning, the preface and SETTINGS stay.
    let mut carrier = fresh(9);
    get(&mut carrier);
    assert_eq!(carrier.receive(b"HTTP/1.1 505 ?", 0), Err(Fault::NotHttp2));
    assert_eq!(kinds(&mut carrier), [(SETTINGS, 0), (WINDOW_UPDATE, 0), (GOAWAY, 0)]);
}

#[test]
fn a_shut_down_lets_streams_end() {
    let mut carrier = settled();
    let keys = [get(&mut carrier), open(&mut carrier, Kind::Translated)];
    carrier.shut_down();
    assert_eq!((carrier.room(), carrier.is_draining()), (0, true));
    assert_eq!(kinds(&mut carrier), [(HEADERS, 1)]);
    assert_eq!(carrier.send(keys[1], GET), Ok(GET.len()));
    assert_eq!(kinds(&mut carrier), [(HEADERS, 3), (GOAWAY, 0)]);
    receive(&mut carrier, &[answer(1), answer(3)]);
    for key in keys {
        assert_eq!((read_all(&mut carrier, key).1, carrier.close(key)), (Read::End, Close::Complete));
    }
    carrier.shut_down();
    assert_eq!((output(&mut carrier), carrier.counters().goaways), (vec![], 0));
}

#[test]
fn a_rapid_reset_by_the_server_is_a_flood_only_without_requests() {
    let mut carrier = settled();
    get(&mut carrier);
    for nth in 0..5_000u32 {
        let key = get(&mut carrier);
        output(&mut carrier);
        receive(&mut carrier, &[number(RST_STREAM, nth * 2 + 3, 7)]);
        assert_eq!(carrier.close(key), Close::Refused);
    }
    assert_eq!((carrier.slots.all.len(), carrier.is_draining()), (2, false));
    // A server that refuses the only stream there is would refuse the next one, too.
    receive(&mut carrier, &[number(RST_STREAM, 1, 7)]);
    assert!(carrier.is_draining());
}
