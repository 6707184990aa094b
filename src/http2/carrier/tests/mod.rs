//! The rules of HTTP/2, one by one, and random operations.
#![forbid(unsafe_code)]

mod closing;
mod connection;
mod leftover;
mod liveness;
mod operations;
mod passage;
mod receiving;
mod sending;

use super::frame::{Header, END_HEADERS, END_STREAM, HEADER, PREFACE};
use super::*;
use crate::http2::request::Unfit;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// `:status` 200, from the static table.
const OK: &[u8] = &[0x88];

/// An interim response.
const INTERIM: &[u8] = b"\0\x07:status\x03103";

type Frame = (u8, u8, u32, Vec<u8>);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&Header { length: payload.len(), kind, flags, stream }.bytes()[..], payload].concat()
}

fn number(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    frame(kind, 0, stream, &number.to_be_bytes())
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings = settings.iter().map(|(it, value)| [&it.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(frame::SETTINGS, 0, 0, &settings.collect::<Vec<_>>().concat())
}

fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(frame::GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A whole response without a body.
fn answer(stream: u32) -> Vec<u8> {
    frame(frame::HEADERS, END_HEADERS | END_STREAM, stream, OK)
}

/// A carrier before anything has come.
fn fresh(streams: u32) -> Carrier<u32> {
    Carrier::new(Config { streams, secure: false }).unwrap()
}

/// A carrier whose server has sent these settings, with an empty output.
fn settled_with(streams: u32, of_server: &[(u16, u32)]) -> Carrier<u32> {
    let mut carrier = fresh(streams);
    carrier.receive(&settings(of_server), 0).unwrap();
    output(&mut carrier);
    carrier
}

fn settled() -> Carrier<u32> {
    settled_with(100, &[])
}

fn open(carrier: &mut Carrier<u32>, kind: Kind) -> StreamKey {
    let owner = carrier.served() as u32;
    carrier.open(kind, owner, 0).unwrap()
}

/// Opens a stream and sends a request without a body.
fn get(carrier: &mut Carrier<u32>) -> StreamKey {
    let key = open(carrier, Kind::Translated);
    assert_eq!(carrier.send(key, GET), Ok(GET.len()));
    key
}

/// Opens a stream and sends the head of a request with a body of this length.
fn put(carrier: &mut Carrier<u32>, length: usize) -> StreamKey {
    let key = open(carrier, Kind::Translated);
    let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    assert_eq!(carrier.send(key, head.as_bytes()), Ok(head.len()));
    key
}

/// The frames in some bytes, behind the preface.
fn frames_of(bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
        let Header { length, kind, flags, stream } = Header::read(header);
        let (payload, after) = after.split_at(length);
        frames.push((kind, flags, stream, payload.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    frames
}

/// Writes all of the output.
fn output(carrier: &mut Carrier<u32>) -> Vec<Frame> {
    let frames = frames_of(carrier.output());
    carrier.written(carrier.output().len());
    frames
}

/// The types and streams of all frames in the output.
fn kinds(carrier: &mut Carrier<u32>) -> Vec<(u8, u32)> {
    output(carrier).into_iter().map(|(kind, _, stream, _)| (kind, stream)).collect()
}

fn receive(carrier: &mut Carrier<u32>, frames: &[Vec<u8>]) {
    assert_eq!(carrier.receive(&frames.concat(), 0), Ok(()));
}

fn read(carrier: &mut Carrier<u32>, key: StreamKey) -> Read {
    carrier.read(key, &mut vec![0; 1 << 20])
}

/// All that can be read.
fn read_all(carrier: &mut Carrier<u32>, key: StreamKey) -> (Vec<u8>, Read) {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match carrier.read(key, &mut buffer) {
            Read::Bytes(length) => all.extend_from_slice(&buffer[..length]),
            end => return (all, end),
        }
    }
}

fn woken(carrier: &mut Carrier<u32>) -> Vec<(u32, Wake)> {
    std::iter::from_fn(|| carrier.next_woken()).map(|(_, owner, wake)| (owner, wake)).collect()
}

/// The owners that were woken to write.
fn writers(carrier: &mut Carrier<u32>) -> Vec<u32> {
    woken(carrier).into_iter().filter(|(_, wake)| wake.write).map(|(owner, _)| owner).collect()
}

#[test]
fn a_small_request_is_one_frame_each_way() {
    let mut carrier = settled();
    let key = get(&mut carrier);
    assert_eq!(read(&mut carrier, key), Read::Pending);
    let sent = output(&mut carrier);
    assert!(matches!(&sent[..], [(frame::HEADERS, 5, 1, _)]), "{sent:?}");
    let head = frame(frame::HEADERS, END_HEADERS, 1, OK);
    receive(&mut carrier, &[head, frame(frame::DATA, END_STREAM, 1, b"body")]);
    assert_eq!(woken(&mut carrier), [(0, Wake { read: true, write: false })]);
    let (all, end) = read_all(&mut carrier, key);
    assert!(all.windows(4).any(|it| it == b"body"));
    assert_eq!((end, carrier.is_done(key), carrier.streams()), (Read::End, true, 1));
    assert_eq!((carrier.close(key), carrier.close(key)), (Close::Complete, Close::Unsent));
    assert_eq!((carrier.streams(), carrier.output()), (0, &b""[..]));
    assert_eq!(read(&mut carrier, key), Read::Failed(Failure::NotOpen));
    assert_eq!(carrier.send(key, GET), Err(Failure::NotOpen));
    let second = get(&mut carrier);
    assert_eq!((kinds(&mut carrier), second.slot == key.slot), (vec![(frame::HEADERS, 3)], true));
    let counters = carrier.counters();
    assert_eq!((counters.opened, counters.data_in, counters.reset_by_us), (2, 4, 0));
}

#[test]
fn an_unfit_request_costs_its_stream_only() {
    let mut carrier = settled();
    let other = get(&mut carrier);
    let key = open(&mut carrier, Kind::Translated);
    let failure = carrier.send(key, b"nonsense\r\nwithout: a sense\r\n");
    assert!(matches!(failure, Err(Failure::Unfit(it)) if it != Unfit::TooLarge), "{failure:?}");
    assert_eq!((carrier.close(key), kinds(&mut carrier)), (Close::Unfit, vec![(frame::HEADERS, 1)]));
    assert_eq!(read(&mut carrier, other), Read::Pending);
    let next = get(&mut carrier);
    assert_eq!((kinds(&mut carrier), next == key), (vec![(frame::HEADERS, 3)], false));
}

#[test]
fn texts_name_the_section() {
    let faults = [Fault::NotHttp2, Fault::TooLong(0), Fault::Setting(5), Fault::Flood, Fault::NoAnswer];
    for text in faults.map(|it| it.to_string()) {
        assert!(text.contains("(RFC 9113, section "), "{text}");
    }
    assert!(Fault::NotHttp2.to_string().contains("does not speak HTTP/2"));
    for text in [Failure::Refused, Failure::Reset(2), Failure::Lost].map(|it| it.to_string()) {
        assert!(text.contains("(RFC 9113, section "), "{text}");
    }
}
