//! What a module of HTTP/2 holds of a request that has failed.
#![forbid(unsafe_code)]

use super::super::frame::*;
use super::passage::{delivered, request, send};
use super::*;

/// The module may send this much more, on its connection and on its stream.
fn credit(more: u32) -> Vec<Frame> {
    [0, 1].map(|stream| (WINDOW_UPDATE, 0, stream, more.to_be_bytes().to_vec())).to_vec()
}

#[test]
fn a_module_sends_all_that_it_holds_before_it_hears_of_a_failure() {
    let whole = [
        request(END_HEADERS),
        frame(DATA, 0, 1, &[7; 10_000]),
        frame(PING, ACK, 0, &[0; 8]),
        frame(DATA, END_STREAM, 1, b"end"),
    ]
    .concat();
    // Whatever was sent before: nothing, a part of the preface, of a frame header, of a block, of DATA.
    for sent in (0..120).chain([whole.len() - 11, whole.len() - 1]) {
        for is_lost in [false, true] {
            let mut carrier = settled();
            let key = open(&mut carrier, Kind::KeptFrames);
            send(&mut carrier, key, &whole[..sent]);
            if is_lost {
                carrier.end();
            } else {
                receive(&mut carrier, &[goaway(0, 0)]);
            }
            assert_eq!(woken(&mut carrier), [(0, Wake { read: true, write: true })]);
            assert_eq!(delivered(&mut carrier, key), credit(LARGEST - DEFAULT_WINDOW), "{sent}");
            for byte in &whole[sent..whole.len() - 1] {
                send(&mut carrier, key, &[*byte]);
                assert_eq!(read(&mut carrier, key), Read::Pending);
            }
            assert_eq!(woken(&mut carrier), []);
            send(&mut carrier, key, &whole[whole.len() - 1..]);
            assert_eq!(woken(&mut carrier), [(0, Wake { read: true, write: true })]);
            assert_eq!(read(&mut carrier, key), Read::Failed(Failure::Refused));
            assert_eq!(carrier.close(key), Close::Refused);
        }
    }
}

#[test]
fn a_module_that_holds_nothing_or_cannot_send_again_hears_of_a_failure_at_once() {
    let whole = [request(END_HEADERS), frame(DATA, END_STREAM, 1, b"body")].concat();
    for (kind, sent) in [(Kind::KeptFrames, whole.len()), (Kind::Frames, whole.len() - 1)] {
        let mut carrier = settled();
        let key = open(&mut carrier, kind);
        send(&mut carrier, key, &whole[..sent]);
        receive(&mut carrier, &[number(RST_STREAM, 1, 7)]);
        assert_eq!(read(&mut carrier, key), Read::Failed(Failure::Refused));
    }
    // What was answered, or reset for another reason, is not sent again.
    for frames in
        [vec![frame(HEADERS, END_HEADERS, 1, INTERIM), goaway(0, 0)], vec![number(RST_STREAM, 1, 2)]]
    {
        let mut carrier = settled();
        let key = open(&mut carrier, Kind::KeptFrames);
        send(&mut carrier, key, &whole[..whole.len() - 1]);
        receive(&mut carrier, &frames);
        read_all(&mut carrier, key);
        assert!(matches!(read(&mut carrier, key), Read::Failed(Failure::Lost | Failure::Reset(2))));
    }
}
