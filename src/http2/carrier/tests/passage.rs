//! Requests that nginx's module writes as frames, and responses that it reads as frames.
#![forbid(unsafe_code)]

use super::super::frame::*;
use super::*;

/// What the module sends before a request, and with it.
fn opening() -> Vec<u8> {
    let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff]);
    [PREFACE, &settings, &number(WINDOW_UPDATE, 0, 0x7fff_0000)].concat()
}

pub(super) fn request(flags: u8) -> Vec<u8> {
    [opening(), frame(HEADERS, flags, 1, b"block")].concat()
}

/// Sends all of it.
pub(super) fn send(carrier: &mut Carrier<u32>, key: StreamKey, bytes: &[u8]) {
    assert_eq!(carrier.send(key, bytes), Ok(bytes.len()));
}

/// Opens a stream whose request has a body.
fn begun(carrier: &mut Carrier<u32>) -> StreamKey {
    let key = open(carrier, Kind::Frames);
    send(carrier, key, &request(END_HEADERS));
    output(carrier);
    key
}

/// The frames that the module reads now.
pub(super) fn delivered(carrier: &mut Carrier<u32>, key: StreamKey) -> Vec<Frame> {
    frames_of(&read_all(carrier, key).0)
}

#[test]
fn a_request_is_passed_with_our_number() {
    let whole = [
        request(0),
        frame(CONTINUATION, 0, 1, b"more"),
        frame(CONTINUATION, END_HEADERS, 1, b"last"),
        frame(SETTINGS, ACK, 0, b""),
        frame(DATA, 0, 1, b"body"),
        frame(PING, ACK, 0, &[0; 8]),
        number(WINDOW_UPDATE, 1, 7),
        frame(DATA, END_STREAM, 1, b"end"),
        frame(PING, 0, 0, &[0; 8]),
    ];
    let whole = whole.concat();
    for piece in 1..=whole.len() {
        let mut carrier = settled();
        get(&mut carrier);
        output(&mut carrier);
        let key = open(&mut carrier, Kind::Frames);
        for piece in whole.chunks(piece) {
            send(&mut carrier, key, piece);
            // Others send in between.
            receive(&mut carrier, &[frame(PING, 0, 0, &[0; 8])]);
        }
        let sent: Vec<_> = output(&mut carrier).into_iter().filter(|it| it.0 != PING).collect();
        let payload: Vec<u8> = sent.iter().flat_map(|it| it.3.clone()).collect();
        assert_eq!(payload, b"blockmorelastbodyend", "{piece}");
        let heads: Vec<_> = sent[..3].iter().map(|it| (it.0, it.1, it.2)).collect();
        assert_eq!(heads, [(HEADERS, 0, 3), (CONTINUATION, 0, 3), (CONTINUATION, END_HEADERS, 3)]);
        assert_eq!(sent.last().map(|it| (it.0, it.1, it.2)), Some((DATA, END_STREAM, 3)));
    }
}

#[test]
fn a_block_in_pieces_is_contiguous() {
    let mut carrier = settled();
    let key = open(&mut carrier, Kind::Frames);
    send(&mut carrier, key, &request(END_STREAM));
    get(&mut carrier);
    send(&mut carrier, key, &frame(CONTINUATION, END_HEADERS, 1, b"")[..8]);
    receive(&mut carrier, &[frame(PING, 0, 0, &[0; 8])]);
    send(&mut carrier, key, &[1]);
    let expected = [(HEADERS, 1), (PING, 0), (HEADERS, 3), (CONTINUATION, 3)];
    assert_eq!(kinds(&mut carrier), expected);
    receive(&mut carrier, &[answer(3)]);
    assert!(matches!(delivered(&mut carrier, key)[..], [(HEADERS, 5, 1, _)]));
    assert!(carrier.is_done(key));
}

#[test]
fn the_preface_may_be_missing_and_the_number_another() {
    let mut carrier = settled();
    let key = open(&mut carrier, Kind::Frames);
    send(&mut carrier, key, &frame(HEADERS, END_HEADERS | END_STREAM, 5, b"block"));
    let sent = [(HEADERS, END_STREAM, 1, vec![0x20]), (CONTINUATION, END_HEADERS, 1, b"block".to_vec())];
    assert_eq!(output(&mut carrier), sent);
    // A server that lowers the size of the dynamic table expects an update in the first block: it has come, in any case.
    let key = open(&mut carrier, Kind::Frames);
    send(&mut carrier, key, &frame(HEADERS, END_HEADERS | END_STREAM, 5, b"block"));
    assert_eq!(output(&mut carrier), [(HEADERS, END_HEADERS | END_STREAM, 3, b"block".to_vec())]);
}

#[test]
fn what_is_not_a_request_costs_the_stream() {
    let head = request(END_HEADERS);
    for bytes in [
        b"PRI * HTTP/1.1\r\n\r\n".to_vec(),
        [opening(), frame(DATA, 0, 1, b"no head")].concat(),
        [opening(), frame(CONTINUATION, END_HEADERS, 1, b"no head")].concat(),
        [head.clone(), frame(DATA, 0, 0, b"no number")].concat(),
        [head.clone(), frame(DATA, PADDED, 1, b"\0a")].concat(),
        [head.clone(), frame(DATA, END_STREAM, 1, b"end"), frame(DATA, 0, 1, b"more")].concat(),
        [head.clone(), frame(DATA, END_STREAM, 1, b""), frame(HEADERS, END_HEADERS, 1, b"more")].concat(),
        [opening(), frame(HEADERS, 0, 1, b"block"), frame(DATA, 0, 1, b"in between")].concat(),
        [opening(), frame(HEADERS, 0, 1, &[0; LONGEST + 1])].concat(),
        [opening(), frame(HEADERS, 0, 1, &[0; LONGEST]), frame(CONTINUATION, 0, 1, &[0; LONGEST]).repeat(5)]
            .concat(),
    ] {
        let mut carrier = settled();
        let key = open(&mut carrier, Kind::Frames);
        assert_eq!(carrier.send(key, &bytes), Err(Failure::Passage));
        assert_eq!(read(&mut carrier, key), Read::Failed(Failure::Passage));
    }
}

#[test]
fn data_is_sent_in_our_windows() {
    let mut carrier = settled_with(9, &[(4, 10)]);
    let key = begun(&mut carrier);
    let data = frame(DATA, END_STREAM, 1, &[b'b'; 25]);
    assert_eq!(carrier.send(key, &data), Ok(19));
    receive(&mut carrier, &[number(WINDOW_UPDATE, 1, 10)]);
    assert_eq!((writers(&mut carrier), carrier.send(key, &data[19..])), (vec![0], Ok(10)));
    receive(&mut carrier, &[number(WINDOW_UPDATE, 1, 10)]);
    assert_eq!((writers(&mut carrier), carrier.send(key, &data[29..])), (vec![0], Ok(5)));
    let sent: Vec<_> = output(&mut carrier).iter().map(|it| (it.1, it.2, it.3.len())).collect();
    assert_eq!(sent, [(0, 1, 10), (0, 1, 10), (END_STREAM, 1, 5)]);
}

#[test]
fn the_module_is_credited_for_what_was_taken() {
    let mut carrier = settled_with(9, &[(4, 1 << 20)]);
    receive(&mut carrier, &[number(WINDOW_UPDATE, 0, 1 << 20)]);
    let key = begun(&mut carrier);
    receive(&mut carrier, &[frame(HEADERS, END_HEADERS, 1, b"head")]);
    let mut credited = [0; 2];
    for _ in 0..10 {
        send(&mut carrier, key, &frame(DATA, 0, 1, &[b'b'; LONGEST]));
        output(&mut carrier);
        for (kind, _, stream, by) in delivered(&mut carrier, key) {
            if kind == WINDOW_UPDATE {
                credited[stream as usize] += u32::from_be_bytes(by[..].try_into().unwrap());
            }
        }
    }
    // Few frames, and never more than what was taken.
    assert_eq!(credited, [10 * LONGEST as u32; 2]);
}

#[test]
fn a_response_is_delivered_on_the_first_stream() {
    let mut carrier = settled();
    get(&mut carrier);
    let key = begun(&mut carrier);
    let block = vec![b'h'; LONGEST + 1];
    receive(&mut carrier, &[frame(HEADERS, PADDED, 3, &[&[2], &block[..LONGEST - 3], &[0; 2]].concat())]);
    receive(&mut carrier, &[frame(CONTINUATION, END_HEADERS, 3, &block[LONGEST - 3..])]);
    receive(&mut carrier, &[settings(&[(3, 50)]), frame(PING, 0, 0, &[0; 8]), goaway(9, 0)]);
    receive(&mut carrier, &[frame(DATA, PADDED, 3, b"\x02some\0\0"), frame(DATA, 0, 3, b"thing")]);
    receive(&mut carrier, &[frame(HEADERS, END_HEADERS | END_STREAM, 3, b"trailer")]);
    let read = delivered(&mut carrier, key);
    let shape: Vec<_> = read.iter().map(|it| (it.0, it.1, it.2, it.3.len())).collect();
    let expected = [
        (HEADERS, 0, 1, LONGEST),
        (CONTINUATION, END_HEADERS, 1, 1),
        // Both frames became one, as the module has not read the first.
        (DATA, 0, 1, 9),
        (HEADERS, END_HEADERS | END_STREAM, 1, 7),
    ];
    assert_eq!(shape, expected);
    assert_eq!(read[2].3, b"something");
    // The module goes on with the request.
    assert!(!carrier.is_done(key));
    send(&mut carrier, key, &frame(DATA, END_STREAM, 1, b"dropped"));
    assert_eq!(carrier.close(key), Close::Complete);
}

#[test]
fn small_frames_do_not_take_more_memory_than_their_payload() {
    let mut carrier = settled();
    let key = begun(&mut carrier);
    receive(&mut carrier, &[frame(HEADERS, END_HEADERS, 1, OK)]);
    read(&mut carrier, key);
    for _ in 0..60_000 {
        receive(&mut carrier, &[frame(DATA, 0, 1, b"x")]);
    }
    assert!(carrier.slots.all[0].buffer.len() < 60_100);
    assert_eq!(carrier.read(key, &mut [0; 20]), Read::Bytes(20));
    receive(&mut carrier, &[frame(DATA, END_STREAM, 1, b"y")]);
    let (rest, end) = read_all(&mut carrier, key);
    assert_eq!((rest.len(), rest.last(), end), (60_000 + 3 * 9 + 9 + 9 + 1 - 20, Some(&b'y'), Read::End));
}

#[test]
fn a_reset_is_passed_both_ways() {
    let mut carrier = settled();
    let keys = [begun(&mut carrier), begun(&mut carrier)];
    send(&mut carrier, keys[0], &number(RST_STREAM, 1, 5)[..11]);
    assert!(output(&mut carrier).is_empty());
    send(&mut carrier, keys[0], &number(RST_STREAM, 1, 5)[11..]);
    assert_eq!(output(&mut carrier), [(RST_STREAM, 0, 1, vec![0, 0, 0, 5])]);
    assert_eq!(carrier.send(keys[0], b"more"), Err(Failure::NotOpen));
    receive(&mut carrier, &[number(RST_STREAM, 3, 2)]);
    assert_eq!(read(&mut carrier, keys[1]), Read::Failed(Failure::Reset(2)));
    assert_eq!((carrier.close(keys[0]), carrier.close(keys[1])), (Close::ResetByUs, Close::ResetByServer));
    assert!(output(&mut carrier).is_empty());
}

#[test]
fn a_block_waits_for_room_and_for_a_sign_of_life() {
    let mut carrier = settled();
    let key = carrier.open(Kind::Frames, 0, 20_000).unwrap();
    let opening = opening().len();
    assert_eq!(carrier.send(key, &request(END_HEADERS)), Ok(opening));
    assert_eq!(carrier.send(key, &request(END_HEADERS)[opening..][..4]), Ok(4));
    assert_eq!(carrier.send(key, &request(END_HEADERS)[opening + 4..]), Ok(0));
    assert_eq!(kinds(&mut carrier), [(PING, 0)]);
    carrier.receive(&frame(PING, ACK, 0, &[0; 8]), 20_001).unwrap();
    assert_eq!(writers(&mut carrier), [0]);
    carrier.output.fill_for_test();
    assert_eq!(carrier.send(key, &request(END_HEADERS)[opening + 4..]), Ok(0));
    carrier.written(1 << 20);
    assert_eq!(writers(&mut carrier), [0]);
    send(&mut carrier, key, &request(END_HEADERS)[opening + 4..]);
    let sent = [(HEADERS, 0, 1, vec![0x20]), (CONTINUATION, END_HEADERS, 1, b"block".to_vec())];
    assert_eq!(output(&mut carrier), sent);
    // Trailers wait for room too, also when the server takes no more streams.
    receive(&mut carrier, &[settings(&[(3, 1)])]);
    carrier.output.fill_for_test();
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"trailers");
    assert_eq!(carrier.send(key, &trailers), Ok(0));
    carrier.written(1 << 20);
    assert_eq!(writers(&mut carrier), [0]);
    send(&mut carrier, key, &trailers);
}

#[test]
fn a_head_with_a_body_waits_for_the_window_of_the_connection() {
    for kind in [Kind::Translated, Kind::Frames] {
        let mut carrier = settled();
        let first = open(&mut carrier, Kind::Frames);
        send(&mut carrier, first, &request(END_HEADERS));
        for _ in 0..5 {
            send(&mut carrier, first, &frame(DATA, 0, 1, &[7; 13_107]));
            output(&mut carrier);
        }
        assert_eq!(carrier.send(first, &frame(DATA, 0, 1, b"more")), Ok(HEADER));
        let (second, is_translated) = (carrier.open(kind, 2, 0).unwrap(), kind == Kind::Translated);
        let head = match is_translated {
            true => b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody".to_vec(),
            false => request(END_HEADERS)[opening().len()..].to_vec(),
        };
        if !is_translated {
            send(&mut carrier, second, &opening());
        }
        assert_eq!(carrier.send(second, &head), Ok(0), "{kind:?}");
        assert_eq!(output(&mut carrier), []);
        // One without a body does not.
        let third = carrier.open(Kind::Translated, 3, 0).unwrap();
        send(&mut carrier, third, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(kinds(&mut carrier), [(HEADERS, 3)]);
        assert_eq!(carrier.tick(0), Tick::Wait(Some(2_000)));
        if is_translated {
            // It is sent once there is a window.
            receive(&mut carrier, &[number(WINDOW_UPDATE, 0, 1_000_000)]);
            assert!(writers(&mut carrier).contains(&2));
            assert_eq!(carrier.send(second, &head), Ok(head.len()));
            assert_eq!(kinds(&mut carrier)[0], (HEADERS, 5));
        } else {
            // Or is for another connection, if there is none for too long.
            woken(&mut carrier);
            carrier.tick(2_000);
            assert!(carrier.is_draining());
            assert_eq!(woken(&mut carrier), [(2, Wake { read: true, write: true })]);
            assert_eq!(carrier.close(second), Close::Refused);
        }
    }
}
