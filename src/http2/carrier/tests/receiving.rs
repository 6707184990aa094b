//! Responses: header blocks, DATA, and the windows in which they come.
#![forbid(unsafe_code)]

use super::super::frame::*;
use super::super::limits::{BLOCKS, HEADER_LIST, LARGE_WINDOW, SMALL_WINDOW};
use super::*;

const HEAD: u8 = END_HEADERS;

/// A carrier with one request, whose response has begun and was read so far.
fn begun() -> (Carrier<u32>, StreamKey) {
    let mut carrier = settled();
    let key = get(&mut carrier);
    output(&mut carrier);
    receive(&mut carrier, &[frame(HEADERS, HEAD, 1, OK)]);
    read(&mut carrier, key);
    (carrier, key)
}

/// Receives so much DATA.
fn data(carrier: &mut Carrier<u32>, mut length: usize) -> Result<(), Fault> {
    while length > 0 {
        let part = length.min(LONGEST);
        carrier.receive(&frame(DATA, 0, 1, &vec![b'x'; part]), 0)?;
        length -= part;
    }
    Ok(())
}

/// The credits in the output: of which stream, and how much.
fn credits(carrier: &mut Carrier<u32>) -> Vec<(u32, u32)> {
    let sent = output(carrier);
    let updates = sent.iter().filter(|(kind, ..)| *kind == WINDOW_UPDATE);
    updates.map(|(_, _, stream, by)| (*stream, u32::from_be_bytes(by[..].try_into().unwrap()))).collect()
}

#[test]
fn pieces_of_any_size_are_the_whole() {
    let block = [OK, &[&b"\0\x05a-b-c\x64"[..], &[b'v'; 100]].concat()].concat();
    let padded = [&[3, 0, 0, 0, 0, 9], &block[..], &[0; 3]].concat();
    let frames = [
        frame(HEADERS, HEAD | PADDED | PRIORITIZED, 1, &padded),
        frame(DATA, PADDED, 1, b"\x04some\0\0\0\0"),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 50, 0, 4, 0, 1, 0, 0]),
        frame(DATA, 0, 1, b""),
        frame(DATA, PADDED, 1, b"\x00thing"),
        frame(PING, 0, 0, b"question"),
        frame(DATA, PADDED | END_STREAM, 1, b"\x02.\0\0"),
        goaway(1, 0),
    ];
    let frames = frames.concat();
    let outcome = |piece: usize| {
        let mut carrier = settled();
        let key = get(&mut carrier);
        frames.chunks(piece).for_each(|piece| carrier.receive(piece, 0).unwrap());
        let (bytes, end) = read_all(&mut carrier, key);
        // The pieces of chunked framing depend on those of the input.
        let letters: Vec<u8> = bytes.into_iter().filter(|it| b"something.v".contains(it)).collect();
        (letters, end, kinds(&mut carrier), carrier.close(key), carrier.counters())
    };
    let whole = outcome(frames.len());
    assert!(whole.0.ends_with(b"something.") && whole.1 == Read::End);
    for piece in 1..frames.len() {
        assert_eq!(outcome(piece), whole, "{piece}");
    }
}

#[test]
fn a_header_block_comes_in_several_frames() {
    let block = [OK, b"\0\x05a-b-c\x05value"].concat();
    let padded = [&[2], &block[..4], &[0, 0]].concat();
    let frames = [
        frame(HEADERS, PADDED | END_STREAM, 1, &padded),
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, 0, 1, &block[4..6]),
        frame(CONTINUATION, END_HEADERS, 1, &block[6..]),
    ];
    for piece in [1, 3, 1_000] {
        let mut carrier = settled();
        let key = get(&mut carrier);
        frames.concat().chunks(piece).for_each(|piece| carrier.receive(piece, 0).unwrap());
        let (bytes, end) = read_all(&mut carrier, key);
        assert!(bytes.windows(5).any(|it| it == b"value") && end == Read::End);
    }
}

#[test]
fn too_large_a_header_block_costs_its_stream_only() {
    let mut carrier = settled();
    let keys = [get(&mut carrier), get(&mut carrier)];
    output(&mut carrier);
    let part = [0; LONGEST];
    let mut frames = vec![frame(HEADERS, 0, 1, &part)];
    frames.extend(vec![frame(CONTINUATION, 0, 1, &part); HEADER_LIST / LONGEST]);
    frames.push(frame(CONTINUATION, END_HEADERS, 1, &part));
    receive(&mut carrier, &[frames.concat(), answer(3)]);
    assert_eq!(read(&mut carrier, keys[0]), Read::Failed(Failure::Headers));
    assert_eq!(read_all(&mut carrier, keys[1]).1, Read::End);
    let expected = (RST_STREAM, 0, 1, ENHANCE_YOUR_CALM.to_be_bytes().to_vec());
    assert_eq!(output(&mut carrier), [expected]);
    assert_eq!(carrier.close(keys[0]), Close::ResetByUs);
}

#[test]
fn a_malformed_response_costs_its_stream_only() {
    for frames in [
        vec![frame(HEADERS, HEAD, 1, &[0xff])],
        vec![frame(HEADERS, HEAD, 1, &[0])],
        vec![frame(DATA, 0, 1, b"before the head")],
        vec![frame(HEADERS, HEAD, 1, OK), frame(HEADERS, HEAD, 1, b"\0\x01a\x01b")],
        vec![frame(HEADERS, HEAD | END_STREAM, 1, INTERIM)],
    ] {
        let mut carrier = settled();
        let keys = [get(&mut carrier), get(&mut carrier)];
        output(&mut carrier);
        woken(&mut carrier);
        receive(&mut carrier, &[frames, vec![answer(3)]].concat());
        assert_eq!(woken(&mut carrier)[0], (0, Wake { read: true, write: true }));
        let failed = read(&mut carrier, keys[0]);
        assert!(matches!(failed, Read::Failed(Failure::Malformed(_))), "{failed:?}");
        assert_eq!(read_all(&mut carrier, keys[1]).1, Read::End);
        let expected = (RST_STREAM, 0, 1, PROTOCOL_ERROR.to_be_bytes().to_vec());
        assert_eq!(output(&mut carrier), [expected]);
        // The failure is told at once, before what came without fault.
        assert_eq!(carrier.close(keys[0]), Close::ResetByUs);
    }
}

#[test]
fn interim_responses_come_before_the_response_and_are_limited() {
    let mut carrier = settled();
    let key = get(&mut carrier);
    receive(&mut carrier, &[frame(HEADERS, HEAD, 1, INTERIM), frame(HEADERS, HEAD, 1, INTERIM)]);
    receive(&mut carrier, &[frame(HEADERS, HEAD, 1, OK), frame(DATA, 0, 1, b"body")]);
    receive(&mut carrier, &[frame(HEADERS, HEAD | END_STREAM, 1, b"\0\x07trailer\x01t")]);
    assert_eq!(read_all(&mut carrier, key).1, Read::End);
    let key = get(&mut carrier);
    let many = vec![frame(HEADERS, HEAD, 3, INTERIM); usize::from(BLOCKS) + 1];
    receive(&mut carrier, &many);
    assert_eq!(read(&mut carrier, key), Read::Failed(Failure::Headers));
}

#[test]
fn a_stream_is_credited_for_what_was_read() {
    let (mut carrier, key) = begun();
    data(&mut carrier, 30_000).unwrap();
    read(&mut carrier, key);
    assert!(credits(&mut carrier).is_empty());
    data(&mut carrier, 30_000).unwrap();
    assert!(credits(&mut carrier).is_empty());
    assert_eq!(carrier.read(key, &mut [0; 10_000]), Read::Bytes(10_000));
    // All that was read and a bit less than framing takes; the rest is unread.
    let credited = credits(&mut carrier);
    assert!(matches!(credited[..], [(1, 39_900..=40_000)]), "{credited:?}");
}

#[test]
fn more_than_the_window_is_an_error_of_the_stream() {
    let (mut carrier, key) = begun();
    let other = get(&mut carrier);
    output(&mut carrier);
    data(&mut carrier, SMALL_WINDOW as usize).unwrap();
    assert_eq!(carrier.counters().data_in, u64::from(SMALL_WINDOW));
    data(&mut carrier, 1).unwrap();
    assert_eq!(read(&mut carrier, key), Read::Failed(Failure::WindowExceeded));
    let expected = (RST_STREAM, 0, 1, FLOW_CONTROL_ERROR.to_be_bytes().to_vec());
    assert_eq!(output(&mut carrier), [expected]);
    receive(&mut carrier, &[answer(3)]);
    assert_eq!(read_all(&mut carrier, other).1, Read::End);
}

#[test]
fn credit_is_what_was_announced() {
    let (mut carrier, key) = begun();
    let mut allowed = SMALL_WINDOW as usize;
    for part in [40_000, 70_000, 140_000, 300_000] {
        data(&mut carrier, part).unwrap();
        assert!(matches!(read(&mut carrier, key), Read::Bytes(_)));
        allowed -= part;
        allowed += credits(&mut carrier).iter().map(|it| it.1 as usize).sum::<usize>();
    }
    data(&mut carrier, allowed).unwrap();
    assert!(matches!(carrier.read(key, &mut [0; 1]), Read::Bytes(1)));
    data(&mut carrier, 1).unwrap();
    assert_eq!(read(&mut carrier, key), Read::Failed(Failure::WindowExceeded));
}

#[test]
fn more_than_the_connections_window_is_an_error_of_the_connection() {
    let (mut carrier, key) = begun();
    carrier.close(key);
    carrier.output.fill_for_test();
    let mut sent = 0;
    let fault = loop {
        match data(&mut carrier, LONGEST) {
            Ok(()) => sent += LONGEST,
            Err(fault) => break fault,
        }
    };
    // DATA of streams that are gone may not go on for ever either.
    assert!(matches!(fault, Fault::WindowExceeded | Fault::Flood), "{fault:?}");
    assert!(sent <= 1 << 24);
}

#[test]
fn a_quick_reader_gets_a_large_window_and_a_slow_one_does_not() {
    let (mut carrier, key) = begun();
    let mut largest = 0;
    for _ in 0..1_000 {
        data(&mut carrier, 8_000).unwrap();
        read_all(&mut carrier, key);
        largest = credits(&mut carrier).iter().map(|it| it.1).fold(largest, u32::max);
    }
    assert_eq!(carrier.slots.all[0].window.size(), LARGE_WINDOW);
    assert!(largest > LARGE_WINDOW / 2 && largest <= LARGE_WINDOW);
    // The server may always send three quarters of it at once: what a link of 100 Mbit/s takes in 60 ms.
    for _ in 0..100 {
        data(&mut carrier, 8_000).unwrap();
        read_all(&mut carrier, key);
        credits(&mut carrier);
        assert!(carrier.slots.all[0].window.may_come() > 750_000);
    }
    data(&mut carrier, 750_000).unwrap();
    let (mut carrier, key) = begun();
    for _ in 0..1_000 {
        let window = carrier.slots.all[0].window.may_come();
        data(&mut carrier, window as usize).unwrap();
        assert_eq!(carrier.read(key, &mut [0; 8_000]), Read::Bytes(8_000));
        credits(&mut carrier);
    }
    assert_eq!(carrier.slots.all[0].window.size(), SMALL_WINDOW);
}

#[test]
fn growth_is_bounded_for_all_together_and_given_back() {
    let mut carrier = settled();
    for round in 0..2u32 {
        let keys: Vec<_> = (0..40).map(|_| get(&mut carrier)).collect();
        let id = |nth: u32| round * 80 + nth * 2 + 1;
        for nth in 0..40 {
            receive(&mut carrier, &[frame(HEADERS, HEAD, id(nth), OK)]);
            for _ in 0..80 {
                receive(&mut carrier, &[frame(DATA, 0, id(nth), &[0; LONGEST])]);
                read_all(&mut carrier, keys[nth as usize]);
                output(&mut carrier);
            }
        }
        let sizes: Vec<u32> = carrier.slots.all.iter().map(|it| it.window.size()).collect();
        let grown: u32 = sizes.iter().map(|it| it - SMALL_WINDOW).sum();
        assert!(grown <= 1 << 24 && grown > 15 << 20, "{grown}");
        for key in keys {
            carrier.close(key);
            output(&mut carrier);
        }
    }
    get(&mut carrier);
    assert_eq!(carrier.slots.all.last().unwrap().window.size(), LARGE_WINDOW);
}

#[test]
fn the_connection_is_credited_on_arrival() {
    let (mut carrier, key) = begun();
    let mut credited = 0;
    for _ in 0..1_100 {
        data(&mut carrier, LONGEST).unwrap();
        let credits = credits(&mut carrier);
        credited += credits.iter().filter(|it| it.0 == 0).map(|it| it.1).sum::<u32>();
        read_all(&mut carrier, key);
    }
    assert_eq!(credited, 2 << 23);
}

#[test]
fn padding_and_data_of_closed_streams_are_credited() {
    let (mut carrier, key) = begun();
    let padding = frame(DATA, PADDED, 1, &[[255].as_slice(), b"x", &[0; 255]].concat());
    let mut credited = 0;
    for _ in 0..1_000 {
        receive(&mut carrier, std::slice::from_ref(&padding));
        read_all(&mut carrier, key);
        credited += credits(&mut carrier).iter().filter(|it| it.0 == 1).map(|it| it.1).sum::<u32>();
    }
    assert!(credited >= 257_000 - 32_768, "{credited}");
    // An unread byte keeps no padding back.
    receive(&mut carrier, &[frame(DATA, 0, 1, b"unread")]);
    let before = carrier.slots.all[0].window.may_come();
    let window = carrier.slots.all[0].window.size() as usize;
    for _ in 0..2 * window / 256 {
        receive(&mut carrier, &[frame(DATA, PADDED, 1, &[[254].as_slice(), b"x", &[0; 254]].concat())]);
        output(&mut carrier);
    }
    assert!(carrier.slots.all[0].window.may_come() * 2 >= before, "padding is not kept back");
    carrier.close(key);
    output(&mut carrier);
    let shared = carrier.shared;
    // What was on its way is no fault, and not read as a response.
    for _ in 0..before / 256 / 2 {
        receive(&mut carrier, &[frame(DATA, 0, 1, &[0; 256])]);
    }
    receive(&mut carrier, &[frame(HEADERS, HEAD, 1, &[0xff, 0xff]), number(RST_STREAM, 1, 8)]);
    assert!(output(&mut carrier).is_empty());
    assert!(format!("{:?}", carrier.shared) != format!("{shared:?}"), "the connection's window was used");
}

#[test]
fn what_is_read_stays_in_order_in_a_buffer_that_moves() {
    let (mut carrier, key) = begun();
    let (mut sent, mut received) = (0u32, 0u32);
    let bytes = |from: u32, length: usize| -> Vec<u8> { (from..).take(length).map(|it| it as u8).collect() };
    let mut raw = Vec::new();
    for round in 0..3_000usize {
        let length = 1 + round * 7 % 900;
        if carrier.slots.all[0].window.may_come() > 1_000 {
            receive(&mut carrier, &[frame(DATA, 0, 1, &bytes(sent, length))]);
            sent += length as u32;
        }
        let mut buffer = vec![0; 1 + round * 11 % 800];
        if let Read::Bytes(length) = carrier.read(key, &mut buffer) {
            raw.extend_from_slice(&buffer[..length]);
            received += length as u32;
        }
        output(&mut carrier);
    }
    assert!(received > 500_000);
    assert!(carrier.slots.all[0].buffer.len() < 1 << 20);
}
