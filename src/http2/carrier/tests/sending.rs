//! Requests: windows, turns, limits of streams, and room in the output.
#![forbid(unsafe_code)]

use super::super::frame::*;
use super::*;

/// How much DATA of each stream is in the output.
fn sent(carrier: &mut Carrier<u32>) -> Vec<(u32, usize)> {
    let data = output(carrier).into_iter().filter(|(kind, ..)| *kind == DATA);
    data.map(|(_, _, stream, payload)| (stream, payload.len())).collect()
}

fn total(carrier: &mut Carrier<u32>) -> usize {
    sent(carrier).iter().map(|it| it.1).sum()
}

/// Sends as much as is taken, and lets it be written.
fn send_all(carrier: &mut Carrier<u32>, key: StreamKey, mut bytes: &[u8]) -> usize {
    let mut all = 0;
    loop {
        let taken = carrier.send(key, bytes).unwrap();
        output(carrier);
        woken(carrier);
        if taken == 0 || taken == bytes.len() {
            return all + taken;
        }
        all += taken;
        bytes = &bytes[taken..];
    }
}

#[test]
fn a_body_ends_its_stream() {
    let mut carrier = settled();
    let key = put(&mut carrier, 10);
    assert_eq!(carrier.send(key, b"01234"), Ok(5));
    assert_eq!(carrier.send(key, b"56789"), Ok(5));
    let frames = output(&mut carrier);
    assert_eq!(frames[0].1, END_HEADERS);
    assert_eq!(frames[1..], [(DATA, 0, 1, b"01234".to_vec()), (DATA, END_STREAM, 1, b"56789".to_vec())]);
    assert_eq!(carrier.send(key, b"more"), Err(Failure::Upload));
    let key = put(&mut carrier, 3);
    assert_eq!(carrier.send(key, b"more"), Err(Failure::Upload));
    assert_eq!(carrier.close(key), Close::ResetByUs);
    let empty = put(&mut carrier, 0);
    assert_eq!(output(&mut carrier).last().unwrap().1, END_HEADERS | END_STREAM);
    assert_eq!(carrier.send(empty, b""), Ok(0));
}

#[test]
fn head_and_body_come_together() {
    let mut carrier = settled();
    let key = open(&mut carrier, Kind::Translated);
    let request = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(carrier.send(key, request), Ok(request.len()));
    assert_eq!(output(&mut carrier).last(), Some(&(DATA, END_STREAM, 1, b"body".to_vec())));
}

#[test]
fn chunks_become_data() {
    let request = b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n";
    for piece in 1..request.len() {
        let mut carrier = settled();
        let key = open(&mut carrier, Kind::Translated);
        let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(carrier.send(key, head), Ok(head.len()));
        for piece in request.chunks(piece) {
            assert_eq!(carrier.send(key, piece), Ok(piece.len()));
        }
        let frames = output(&mut carrier);
        let payload: Vec<u8> = frames[1..].iter().flat_map(|it| it.3.clone()).collect();
        assert_eq!((&payload[..], frames.last().unwrap().1), (&b"firstsecond"[..], END_STREAM));
        assert_eq!(carrier.send(key, b"x"), Err(Failure::Upload));
    }
    let mut carrier = settled();
    let key = open(&mut carrier, Kind::Translated);
    assert!(carrier.send(key, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").is_ok());
    assert_eq!(carrier.send(key, b"what?"), Err(Failure::Upload));
}

#[test]
fn windows_are_kept() {
    let mut carrier = settled_with(100, &[(4, 100)]);
    let key = put(&mut carrier, 1_000);
    let body = [b'b'; 1_000];
    assert_eq!(carrier.send(key, &body), Ok(100));
    assert_eq!(carrier.send(key, &body[100..]), Ok(0));
    assert_eq!((carrier.counters().stalls, total(&mut carrier)), (1, 100));
    assert!(writers(&mut carrier).is_empty());
    // The window becomes negative, and must be above 0 before more is sent.
    receive(&mut carrier, &[settings(&[(4, 10)]), number(WINDOW_UPDATE, 1, 90)]);
    assert_eq!((writers(&mut carrier), carrier.send(key, &body[100..])), (vec![], Ok(0)));
    receive(&mut carrier, &[number(WINDOW_UPDATE, 1, 7)]);
    assert_eq!((writers(&mut carrier), carrier.send(key, &body[100..])), (vec![0], Ok(7)));
    receive(&mut carrier, &[settings(&[(4, 20)])]);
    assert_eq!((writers(&mut carrier), carrier.send(key, &body[107..])), (vec![0], Ok(10)));
    assert_eq!(total(&mut carrier), 17);
}

#[test]
fn wrong_credit_costs_its_stream_only() {
    for (more, code) in [(0, PROTOCOL_ERROR), (1 << 31, PROTOCOL_ERROR), (LARGEST, FLOW_CONTROL_ERROR)] {
        let mut carrier = settled();
        let keys = [put(&mut carrier, 9), get(&mut carrier)];
        output(&mut carrier);
        receive(&mut carrier, &[number(WINDOW_UPDATE, 1, more)]);
        assert_eq!(read(&mut carrier, keys[0]), Read::Failed(Failure::WindowUpdate));
        assert_eq!(carrier.send(keys[0], b"more"), Err(Failure::WindowUpdate));
        assert_eq!(output(&mut carrier), [(RST_STREAM, 0, 1, code.to_be_bytes().to_vec())]);
        assert_eq!(read(&mut carrier, keys[1]), Read::Pending);
    }
}

#[test]
fn an_upload_that_nobody_reads_leaves_window_to_others() {
    let mut carrier = settled();
    let stuck = put(&mut carrier, 1 << 20);
    let alone = send_all(&mut carrier, stuck, &[b's'; 60_000]);
    assert_eq!(alone, 60_000, "alone it may use all");
    let mut carrier = settled();
    let other = get(&mut carrier);
    let stuck = put(&mut carrier, 1 << 20);
    let taken = send_all(&mut carrier, stuck, &vec![b's'; 1 << 20]);
    assert!((32_768..45_000).contains(&taken), "{taken}");
    let small = put(&mut carrier, 20_000);
    assert_eq!(send_all(&mut carrier, small, &[b's'; 20_000]), 20_000);
    // Once it is alone, it may go on.
    for key in [other, small] {
        carrier.close(key);
    }
    assert_eq!(writers(&mut carrier), [1]);
}

#[test]
fn credit_of_the_connection_shows_that_a_stream_is_read() {
    // The stream's own window is large, so it is credited late: not by this time.
    let mut carrier = settled_with(100, &[(4, 1 << 24)]);
    get(&mut carrier);
    let key = put(&mut carrier, 1 << 20);
    let mut all = 0;
    for _ in 0..200 {
        let taken = send_all(&mut carrier, key, &vec![b'u'; (1 << 20) - all]);
        all += taken;
        receive(&mut carrier, &[number(WINDOW_UPDATE, 0, taken as u32 + 1)]);
        if all == 1 << 20 {
            break;
        }
        assert_eq!(writers(&mut carrier), [1]);
    }
    assert_eq!(all, 1 << 20);
}

#[test]
fn those_who_wait_for_the_window_take_turns() {
    let mut carrier = settled_with(100, &[(4, 1 << 24)]);
    let keys: Vec<_> = (0..3).map(|_| put(&mut carrier, 1 << 20)).collect();
    output(&mut carrier);
    let body = vec![b'b'; 1 << 20];
    let mut left = 65_535;
    for key in &keys {
        left -= send_all(&mut carrier, *key, &body);
    }
    assert_eq!(left, 0);
    let before = carrier.counters().data_out;
    let mut each = [0; 3];
    for _ in 0..300 {
        receive(&mut carrier, &[number(WINDOW_UPDATE, 0, 20_000)]);
        loop {
            let woken = writers(&mut carrier);
            for owner in &woken {
                each[*owner as usize] += carrier.send(keys[*owner as usize], &[b'b'; 20_000]).unwrap();
            }
            output(&mut carrier);
            if woken.is_empty() {
                break;
            }
        }
        for id in [1, 3, 5] {
            receive(&mut carrier, &[number(WINDOW_UPDATE, id, 10_000)]);
        }
        if each.iter().sum::<usize>() > 900_000 {
            break;
        }
    }
    let sum = each.iter().sum::<usize>();
    assert_eq!(sum as u64, carrier.counters().data_out - before);
    assert!(each.iter().all(|it| *it * 4 > sum), "{each:?}");
}

#[test]
fn nobody_takes_the_turn_of_another() {
    let mut carrier = settled_with(100, &[(4, 1 << 20)]);
    let keys = [put(&mut carrier, 1 << 20), put(&mut carrier, 1 << 20)];
    for key in &keys {
        send_all(&mut carrier, *key, &[b'b'; 60_000]);
    }
    receive(&mut carrier, &[number(WINDOW_UPDATE, 1, 60_000), number(WINDOW_UPDATE, 0, LONGEST as u32)]);
    assert_eq!(writers(&mut carrier), [0]);
    let newcomer = put(&mut carrier, 20_000);
    assert_eq!(carrier.send(newcomer, &[b'n'; 20_000]), Ok(0));
    assert_eq!(carrier.send(keys[0], &[b'b'; 20_000]), Ok(LONGEST));
    // Who leaves gives its turn to the next.
    receive(&mut carrier, &[number(WINDOW_UPDATE, 3, 60_000), number(WINDOW_UPDATE, 0, LONGEST as u32)]);
    assert_eq!(writers(&mut carrier), [1]);
    carrier.close(keys[1]);
    assert_eq!(writers(&mut carrier), [2]);
}

#[test]
fn a_stream_without_a_window_of_its_own_is_not_woken() {
    let mut carrier = settled_with(100, &[(4, 30_000)]);
    let keys: Vec<_> = (0..3).map(|_| put(&mut carrier, 1 << 20)).collect();
    for key in &keys {
        send_all(&mut carrier, *key, &[b'b'; 50_000]);
    }
    // The third has 24,465 bytes left of its own; the first two have nothing.
    receive(&mut carrier, &[number(WINDOW_UPDATE, 0, 100_000)]);
    assert_eq!(writers(&mut carrier), [2]);
    assert_eq!(carrier.send(keys[2], &[b'b'; 50_000]), Ok(24_465));
    receive(&mut carrier, &[number(WINDOW_UPDATE, 1, 10)]);
    assert_eq!((writers(&mut carrier), carrier.send(keys[0], &[b'b'; 50])), (vec![0], Ok(10)));
}

#[test]
fn no_more_streams_than_the_server_takes() {
    let mut carrier = fresh(100);
    assert_eq!(carrier.room(), 1, "a guess");
    receive(&mut carrier, &[settings(&[])]);
    assert_eq!(carrier.room(), 100, "no limit of the server");
    receive(&mut carrier, &[settings(&[(3, 3)])]);
    let keys: Vec<_> = (0..3).map(|_| open(&mut carrier, Kind::Translated)).collect();
    assert_eq!((carrier.room(), carrier.open(Kind::Translated, 9, 0)), (0, None));
    // It is lowered while streams are opened: their header blocks wait.
    assert_eq!(carrier.send(keys[0], GET), Ok(GET.len()));
    receive(&mut carrier, &[settings(&[(3, 1)])]);
    assert_eq!([carrier.send(keys[1], GET), carrier.send(keys[2], GET)], [Ok(0), Ok(0)]);
    let heads = |carrier: &mut Carrier<u32>| kinds(carrier).into_iter().filter(|it| it.0 == HEADERS).count();
    assert_eq!((heads(&mut carrier), writers(&mut carrier)), (1, vec![]));
    receive(&mut carrier, &[answer(1)]);
    assert_eq!((writers(&mut carrier), carrier.room()), (vec![1], 0));
    assert_eq!(carrier.send(keys[1], GET), Ok(GET.len()));
    // What we have reset counts until RST_STREAM is in the output, which it is at once here.
    assert_eq!(carrier.close(keys[1]), Close::ResetByUs);
    assert_eq!(writers(&mut carrier), [2]);
    receive(&mut carrier, &[settings(&[(3, 9)])]);
    assert_eq!(carrier.room(), 8);
    carrier.close(keys[0]);
    carrier.close(keys[2]);
    assert_eq!(carrier.room(), 9);
}

#[test]
fn a_stream_counts_until_its_reset_is_in_the_output() {
    let mut carrier = settled_with(2, &[]);
    let key = get(&mut carrier);
    carrier.output.fill_for_test();
    assert_eq!((carrier.close(key), carrier.room(), carrier.streams()), (Close::ResetByUs, 1, 0));
    assert_eq!((carrier.slots.live, carrier.counters().reset_by_us), (1, 1));
    // The server may still answer.
    receive(&mut carrier, &[answer(1)]);
    carrier.written(1 << 20);
    assert_eq!((carrier.room(), carrier.slots.live), (2, 0));
    assert_eq!(output(&mut carrier), [(RST_STREAM, 0, 1, CANCEL.to_be_bytes().to_vec())]);
}

#[test]
fn credit_and_ends_wait_for_room() {
    let mut carrier = settled();
    let key = open(&mut carrier, Kind::Translated);
    carrier.send(key, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    output(&mut carrier);
    receive(&mut carrier, &[frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, 0, 1, &[0; LONGEST])]);
    receive(&mut carrier, &[frame(DATA, 0, 1, &[0; LONGEST]), frame(DATA, 0, 1, &[0; LONGEST])]);
    carrier.output.fill_for_test();
    read_all(&mut carrier, key);
    assert_eq!(carrier.send(key, b"0\r\n\r\n"), Ok(5));
    carrier.written(1 << 20);
    assert_eq!(kinds(&mut carrier), [(DATA, 1), (WINDOW_UPDATE, 1)]);
}

#[test]
fn a_large_head_is_divided() {
    let head = |length: usize| {
        let fields: Vec<_> =
            (0..length / 110).map(|nth| format!("f{nth:04}: {}\r\n", "7".repeat(100))).collect();
        let fields = fields.concat();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let mut carrier = settled();
    let key = open(&mut carrier, Kind::Translated);
    let large = head(53_000);
    assert_eq!(carrier.send(key, large.as_bytes()), Ok(large.len()));
    let frames = output(&mut carrier);
    let shape: Vec<_> = frames.iter().map(|it| (it.0, it.1, it.3.len() == LONGEST)).collect();
    assert_eq!(shape[0], (HEADERS, END_STREAM, true));
    assert_eq!(shape[1..3], [(CONTINUATION, 0, true); 2]);
    assert_eq!(shape[3..], [(CONTINUATION, END_HEADERS, false)]);
    let block: Vec<u8> = frames.iter().flat_map(|it| it.3.clone()).collect();
    assert!((0..400).all(|nth| block.windows(5).any(|it| it == format!("f{nth:04}").as_bytes())));
    // It waits for room if there is something else, and never fits if there is not.
    get(&mut carrier);
    let key = open(&mut carrier, Kind::Translated);
    let larger = head(62_000);
    let body = put(&mut carrier, 9_000);
    assert_eq!(carrier.send(body, &[b'b'; 9_000]), Ok(9_000));
    assert_eq!((carrier.send(key, larger.as_bytes()), writers(&mut carrier)), (Ok(0), vec![]));
    output(&mut carrier);
    assert_eq!(writers(&mut carrier), [2]);
    let key = open(&mut carrier, Kind::Translated);
    let largest = head(80_000);
    assert_eq!(carrier.send(key, largest.as_bytes()), Err(Failure::Unfit(Unfit::TooLarge)));
}

#[test]
fn the_output_stays_where_it_is() {
    let mut carrier = settled_with(100, &[(4, 1 << 20)]);
    receive(&mut carrier, &[number(WINDOW_UPDATE, 0, 1 << 20)]);
    output(&mut carrier);
    let key = put(&mut carrier, 1 << 20);
    let address = carrier.output().as_ptr();
    let first = carrier.send(key, &vec![b'b'; 1 << 20]).unwrap();
    assert!((40_000..50_000).contains(&first), "{first}");
    get(&mut carrier);
    carrier.written(10_000);
    assert_eq!(carrier.output().as_ptr(), address.wrapping_add(10_000));
    assert_eq!((carrier.send(key, &[b'b'; 9_000]), writers(&mut carrier)), (Ok(0), vec![]));
    get(&mut carrier);
    carrier.written(carrier.output().len());
    assert_eq!((writers(&mut carrier), carrier.output().len()), (vec![0], 0));
    assert_eq!(carrier.send(key, &[b'b'; 9_000]), Ok(9_000));
    assert_eq!(carrier.output().as_ptr(), address);
}

#[test]
fn numbers_are_used_up() {
    let mut carrier = settled();
    carrier.next_id = LARGEST;
    let keys = [open(&mut carrier, Kind::Translated), open(&mut carrier, Kind::Translated)];
    assert!(!carrier.is_draining());
    assert_eq!(carrier.send(keys[0], GET), Ok(GET.len()));
    assert_eq!((carrier.is_draining(), carrier.room()), (true, 0));
    assert_eq!(carrier.send(keys[1], GET), Err(Failure::Refused));
    assert_eq!(carrier.close(keys[1]), Close::Refused);
    receive(&mut carrier, &[answer(LARGEST)]);
    assert_eq!(read_all(&mut carrier, keys[0]).1, Read::End);
}

#[test]
fn who_does_not_send_when_it_is_its_turn_loses_it() {
    let mut carrier = settled();
    let keys: Vec<_> = (0..6).map(|_| put(&mut carrier, 1 << 20)).collect();
    output(&mut carrier);
    // All of the connection's window is used, and all want to send more.
    for key in &keys {
        while carrier.send(*key, &[7; 16_384]).unwrap() > 0 {
            output(&mut carrier);
        }
    }
    woken(&mut carrier);
    receive(&mut carrier, &[number(WINDOW_UPDATE, 0, 65_535)]);
    let first = writers(&mut carrier);
    assert!(first.len() < keys.len(), "{first:?}");
    // nginx does not want to send any more: the next ones have their turn.
    let mut seen = first;
    for _ in 0..keys.len() {
        carrier.end_turns();
        seen.extend(writers(&mut carrier));
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    assert_eq!(carrier.promised, 0);
    assert!(carrier.send(keys[5], &[7; 16_384]).unwrap() > 0);
}
