//! What the server may send about the connection, and which frames may come when.
#![forbid(unsafe_code)]

use super::super::frame::*;
use super::*;

/// What these frames do to a carrier with one open stream, and what the carrier says about it.
fn fault_of(frames: &[Vec<u8>]) -> Option<(Fault, u32)> {
    let mut carrier = settled();
    let key = get(&mut carrier);
    output(&mut carrier);
    let fault = carrier.receive(&frames.concat(), 0).err()?;
    assert_eq!(carrier.fault(), Some(fault));
    assert_eq!(carrier.receive(b"anything", 0), Err(fault));
    assert_eq!(read(&mut carrier, key), Read::Failed(Failure::Lost));
    assert_eq!((carrier.room(), carrier.is_draining(), carrier.tick(0)), (0, true, Tick::Dead(fault)));
    let sent = output(&mut carrier);
    let Some((GOAWAY, 0, 0, payload)) = sent.last() else { panic!("{sent:?}") };
    let code = u32::from_be_bytes(*payload.last_chunk().unwrap());
    assert_eq!((code, carrier.close(key)), (fault.code(), Close::Failed));
    Some((fault, code))
}

#[test]
fn begins_with_preface_settings_and_window() {
    let mut carrier = fresh(1);
    assert!(carrier.output().starts_with(PREFACE) && !carrier.is_settled());
    let sent = output(&mut carrier);
    let [(SETTINGS, 0, 0, settings), (WINDOW_UPDATE, 0, 0, window)] = &sent[..] else { panic!("{sent:?}") };
    let expected = [[0, 1, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], [0, 4, 0, 1, 0, 0], [0, 6, 0, 1, 0, 0]];
    assert_eq!(settings, &expected.concat());
    assert_eq!(*window, ((1 << 24) - 65_535u32).to_be_bytes());
}

#[test]
fn the_first_frame_is_settings() {
    let not_http2: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"HTTP",
        &[0x15, 3, 3, 0, 2, 2, 0x46],
        &frame(PING, 0, 0, &[0; 8]),
        &frame(SETTINGS, ACK, 0, &[]),
    ];
    for bytes in not_http2 {
        let mut carrier = fresh(1);
        assert_eq!(carrier.receive(bytes, 0), Err(Fault::NotHttp2), "{bytes:?}");
    }
    let mut carrier = fresh(1);
    for byte in settings(&[(3, 7)]) {
        assert!(!carrier.is_settled());
        carrier.receive(&[byte], 0).unwrap();
    }
    assert!(carrier.is_settled());
    assert_eq!(kinds(&mut carrier).last(), Some(&(SETTINGS, 0)));
}

#[test]
fn settings_have_limits() {
    for (setting, code) in [
        ((5, 16_383), PROTOCOL_ERROR),
        ((5, 0), PROTOCOL_ERROR),
        ((5, 1 << 24), PROTOCOL_ERROR),
        ((4, 1 << 31), FLOW_CONTROL_ERROR),
        ((2, 1), PROTOCOL_ERROR),
        ((2, 2), PROTOCOL_ERROR),
    ] {
        assert_eq!(fault_of(&[settings(&[setting])]).unwrap().1, code, "{setting:?}");
    }
    for setting in
        [(5, 16_384), (5, (1 << 24) - 1), (4, (1 << 31) - 1), (2, 0), (1, 1 << 20), (6, 1), (77, 77)]
    {
        assert_eq!(fault_of(&[settings(&[setting])]), None, "{setting:?}");
    }
    assert_eq!(fault_of(&[frame(SETTINGS, ACK, 0, &[0; 6])]).unwrap().1, FRAME_SIZE_ERROR);
    assert_eq!(fault_of(&[frame(SETTINGS, 0, 0, &[0; 7])]).unwrap().1, FRAME_SIZE_ERROR);
    assert_eq!(fault_of(&[frame(SETTINGS, 0, 1, &[0; 6])]).unwrap().1, PROTOCOL_ERROR);
    assert_eq!(fault_of(&[frame(SETTINGS, ACK, 0, &[])]), None);
}

#[test]
fn each_settings_frame_is_acknowledged() {
    let mut carrier = settled();
    receive(&mut carrier, &[settings(&[(3, 5)]), settings(&[]), frame(SETTINGS, ACK, 0, &[])]);
    let expected = (SETTINGS, ACK, 0, Vec::new());
    assert_eq!(output(&mut carrier), [expected.clone(), expected]);
}

#[test]
fn frames_have_lengths() {
    for (frame, code) in [
        (frame(DATA, 0, 1, &[0; LONGEST + 1]), FRAME_SIZE_ERROR),
        (frame(0x77, 0, 0, &[0; LONGEST + 1]), FRAME_SIZE_ERROR),
        (frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        (frame(PING, ACK, 0, &[0; 9]), FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        (frame(RST_STREAM, 0, 1, &[0; 5]), FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 3]), FRAME_SIZE_ERROR),
        (frame(DATA, PADDED, 1, &[]), PROTOCOL_ERROR),
        (frame(DATA, PADDED, 1, &[3, 0, 0]), PROTOCOL_ERROR),
        (frame(HEADERS, PADDED | END_HEADERS, 1, &[2, 0x88]), PROTOCOL_ERROR),
        (frame(HEADERS, PRIORITIZED | END_HEADERS, 1, &[0; 4]), PROTOCOL_ERROR),
    ] {
        assert_eq!(fault_of(std::slice::from_ref(&frame)).unwrap().1, code, "{:?}", &frame[..9]);
    }
}

#[test]
fn frames_are_about_streams_that_were_opened() {
    for stream in [0, 2, 3, 4, LARGEST] {
        for frame in [
            frame(DATA, 0, stream, b"a"),
            frame(HEADERS, END_HEADERS, stream, OK),
            number(RST_STREAM, stream, 8),
            frame(CONTINUATION, END_HEADERS, stream, OK),
            frame(PUSH_PROMISE, END_HEADERS, stream, &[0, 0, 0, 2]),
        ] {
            assert_eq!(fault_of(std::slice::from_ref(&frame)).unwrap().1, PROTOCOL_ERROR, "{frame:?}");
        }
        if stream > 0 {
            assert_eq!(fault_of(&[number(WINDOW_UPDATE, stream, 1)]).unwrap().1, PROTOCOL_ERROR);
            assert_eq!(fault_of(&[frame(PRIORITY, 0, stream, &[0; 5])]), None);
        }
    }
    assert_eq!(fault_of(&[frame(PRIORITY, 0, 0, &[0; 5])]).unwrap().1, PROTOCOL_ERROR);
    for frame in [frame(PING, 0, 1, &[0; 8]), frame(GOAWAY, 0, 1, &[0; 8])] {
        assert_eq!(fault_of(&[frame]).unwrap().1, PROTOCOL_ERROR);
    }
    assert_eq!(fault_of(&[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]).unwrap().0, Fault::Push);
    assert_eq!(fault_of(&[frame(0xfe, 0xff, 9, b"whatever")]), None);
}

#[test]
fn the_reserved_bit_is_ignored() {
    let mut carrier = settled();
    let key = get(&mut carrier);
    receive(&mut carrier, &[answer(1 | (1 << 31))]);
    assert_eq!(read_all(&mut carrier, key).1, Read::End);
}

#[test]
fn windows_have_limits() {
    assert_eq!(fault_of(&[number(WINDOW_UPDATE, 0, 0)]).unwrap(), (Fault::NoIncrement, PROTOCOL_ERROR));
    assert_eq!(fault_of(&[number(WINDOW_UPDATE, 0, 1 << 31)]).unwrap().0, Fault::NoIncrement);
    let most = number(WINDOW_UPDATE, 0, LARGEST - 65_535);
    assert_eq!(fault_of(std::slice::from_ref(&most)), None);
    assert_eq!(fault_of(&[most, number(WINDOW_UPDATE, 0, 1)]).unwrap().0, Fault::WindowOverflow);
    let most = number(WINDOW_UPDATE, 1, LARGEST - 65_535);
    assert_eq!(
        fault_of(&[most, settings(&[(4, 65_536)])]).unwrap(),
        (Fault::InitialWindow, FLOW_CONTROL_ERROR)
    );
}

#[test]
fn pings_are_answered_before_they_are_too_many() {
    let mut carrier = settled();
    receive(&mut carrier, &[frame(PING, 0, 0, b"question"), frame(PING, ACK, 0, b"answered")]);
    assert_eq!(output(&mut carrier), [(PING, ACK, 0, b"question".to_vec())]);
    // All of these are without progress.
    for flood in [
        frame(PING, 0, 0, &[0; 8]),
        frame(PING, ACK, 0, &[0; 8]),
        settings(&[(3, 9)]),
        frame(SETTINGS, ACK, 0, &[]),
        number(RST_STREAM, 1, 8),
        frame(DATA, 0, 3, b""),
        frame(DATA, PADDED, 3, &[4, 0, 0, 0, 0]),
        frame(DATA, 0, 1, b""),
        number(WINDOW_UPDATE, 3, 1),
        number(WINDOW_UPDATE, 0, 1),
        frame(PRIORITY, 0, 9, &[0; 5]),
        frame(0x55, 0, 0, b"something"),
        frame(HEADERS, END_HEADERS, 1, OK),
        goaway(LARGEST, 0),
    ] {
        let mut carrier = settled();
        let gone = get(&mut carrier);
        carrier.close(gone);
        get(&mut carrier);
        receive(&mut carrier, &[frame(HEADERS, END_HEADERS, 3, OK)]);
        let mut count = 0;
        let fault = loop {
            carrier.written(carrier.output().len());
            if let Err(fault) = carrier.receive(&flood, 0) {
                break fault;
            }
            count += 1;
            assert!(count < 2_000, "{flood:?}");
        };
        assert_eq!((fault, fault.code()), (Fault::Flood, ENHANCE_YOUR_CALM), "{flood:?}");
        assert!(count > 400, "{count} {flood:?}");
        assert_eq!(carrier.receive(b"", 1_000_000), Err(Fault::Flood));
    }
}

#[test]
fn time_and_progress_allow_more() {
    let mut carrier = settled();
    get(&mut carrier);
    receive(&mut carrier, &[frame(HEADERS, END_HEADERS, 1, OK)]);
    for now in 0..3_000 {
        carrier.written(carrier.output().len());
        assert_eq!(carrier.receive(&frame(PING, 0, 0, &[0; 8]), now * 20), Ok(()));
    }
    for _ in 0..3_000 {
        carrier.written(carrier.output().len());
        receive(&mut carrier, &[frame(DATA, 0, 1, b"a"), frame(PING, 0, 0, &[0; 8])]);
    }
}

#[test]
fn answers_that_are_not_read_are_bounded() {
    let mut carrier = settled();
    let mut count = 0;
    while carrier.receive(&frame(PING, 0, 0, &[0; 8]), 0).is_ok() {
        count += 1;
        assert!(carrier.output().len() <= 80 << 10);
        // Anything but the answers: as if a lot waited there already.
        if count == 1 {
            carrier.output.fill_for_test();
        }
    }
    assert_eq!(carrier.fault(), Some(Fault::Unread));
    assert!(count < 500, "{count}");
}

#[test]
fn continuation_follows_its_header_block() {
    let begun = frame(HEADERS, 0, 1, OK);
    for frame in [
        frame(DATA, 0, 1, b"a"),
        frame(HEADERS, END_HEADERS, 1, OK),
        frame(PING, 0, 0, &[0; 8]),
        frame(0x55, 0, 0, b"something"),
        frame(CONTINUATION, END_HEADERS, 3, OK),
        goaway(1, 0),
    ] {
        let fault = fault_of(&[begun.clone(), frame.clone()]).unwrap();
        assert_eq!(fault, (Fault::Continuation(frame[3]), PROTOCOL_ERROR));
    }
    let whole = frame(HEADERS, END_HEADERS, 3, INTERIM);
    let mut carrier = settled();
    get(&mut carrier);
    get(&mut carrier);
    let fault = carrier.receive(&[whole, frame(CONTINUATION, END_HEADERS, 3, OK)].concat(), 0);
    assert_eq!(fault, Err(Fault::Continuation(CONTINUATION)));
    let empty = vec![frame(CONTINUATION, 0, 1, b""); 33];
    let fault = fault_of(&[vec![begun], empty].concat());
    assert_eq!(fault, Some((Fault::Continuations, ENHANCE_YOUR_CALM)));
}
