//! A server that sends anything.
#![forbid(unsafe_code)]

use super::stream::frame;
use super::*;
use crate::http2::carrier::frame::{Header, HEADER, LONGEST, PREFACE};

/// Opens some streams, and gives the carrier what a server sends, in pieces. Whatever that is, the carrier's own frames are whole,
/// its memory is bounded, and once it has given up it stays so.
///
/// # Panics
/// If one of these does not hold.
pub fn survive<'a>(settled: bool, pieces: impl IntoIterator<Item = &'a [u8]>) {
    let mut carrier = Carrier::<usize>::new(Config { streams: 8, secure: true }).expect("there is memory");
    let mut output = Vec::new();
    let mut keys = Vec::new();
    if settled {
        assert_eq!(carrier.receive(&frame(4, 0, 0, &[]), 0), Ok(()));
    }
    let mut pieces = pieces.into_iter();
    for now in 0.. {
        open(&mut carrier, &mut keys, now);
        let Some(piece) = pieces.next() else { break };
        let before = carrier.fault();
        let received = carrier.receive(piece, now * 100);
        assert!(before.is_none() || received == before.map_or(Ok(()), Err));
        assert_eq!(received.is_err(), carrier.fault().is_some());
        output.extend_from_slice(carrier.output());
        carrier.written(carrier.output().len());
        while let Some((key, nth, wake)) = carrier.next_woken() {
            act(&mut carrier, key, nth, wake, piece.len());
        }
        let kept: usize = carrier.slots.all.iter().map(|slot| slot.buffer.len()).sum();
        assert!(kept <= 8 * (1 << 22));
        carrier.tick(now * 100);
    }
    carrier.end();
    assert!(carrier.is_draining() && carrier.room() == 0);
    output.extend_from_slice(carrier.output());
    let mut rest = output.strip_prefix(PREFACE).expect("the preface");
    while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
        let header = Header::read(header);
        assert!(header.length <= LONGEST && header.kind <= 9);
        rest = after.get(header.length..).expect("a whole frame");
    }
    assert!(rest.is_empty());
    keys.into_iter().for_each(|key| {
        carrier.close(key);
    });
    assert_eq!((carrier.streams(), carrier.slots.used), (0, 0));
}

/// Opens a stream of one kind or another.
fn open(carrier: &mut Carrier<usize>, keys: &mut Vec<StreamKey>, nth: usize) {
    let kind = [Kind::Translated, Kind::Frames, Kind::KeptFrames][nth % 3];
    let Some(key) = carrier.open(kind, nth, nth * 100) else { return };
    keys.push(key);
    let request = match nth % 3 {
        0 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        1 => b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n".to_vec(),
        _ => [PREFACE, &frame(1, 4, 1, &[0x82, 0x84, 0x86]), &frame(0, 0, 1, &[1; 9000])].concat(),
    };
    let _ = carrier.send(key, &request);
}

/// The owner of a stream reads and sends; some leave.
fn act(carrier: &mut Carrier<usize>, key: StreamKey, nth: usize, wake: Wake, length: usize) {
    if wake.write {
        let _ = carrier.send(key, &[1; 500]);
    }
    if !wake.read || nth % 4 == 3 {
        return;
    }
    let mut buffer = vec![0; length + 1];
    let end = loop {
        match carrier.read(key, &mut buffer) {
            Read::Bytes(_) => {}
            end => break end,
        }
    };
    if end != Read::Pending {
        carrier.close(key);
    }
}
