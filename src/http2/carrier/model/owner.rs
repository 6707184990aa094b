//! The owner of a stream: writes a request, and reads a response.
#![forbid(unsafe_code)]

use super::server::Server;
use super::stream::{frame, pattern, Stage};
use super::*;
use crate::http2::carrier::frame::{
    Header, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADER, HEADERS, PREFACE, WINDOW_UPDATE,
};

pub(super) struct Owner {
    pub(super) key: StreamKey,
    pub(super) number: usize,
    kind: Kind,
    /// The whole request as it is written, and how much of it was taken.
    request: Vec<u8>,
    taken: usize,
    /// How long its head is.
    head: usize,
    pub(super) can_send: bool,
    pub(super) can_read: bool,
    /// What was read.
    pub(super) received: Vec<u8>,
    failure: Option<Failure>,
    has_ended: bool,
}

impl Owner {
    pub(super) fn new(key: StreamKey, number: usize, kind: Kind, body: u32, chunked: bool) -> Self {
        let body: Vec<u8> = (0..body as usize).map(|at| pattern(number, at)).collect();
        let (head, rest) = match (kind, chunked) {
            (Kind::Translated, false) => (
                format!("PUT /n{number:03}z HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())
                    .into_bytes(),
                body,
            ),
            (Kind::Translated, true) => (
                format!("PUT /n{number:03}z HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .into_bytes(),
                chunks(&body),
            ),
            (Kind::Frames | Kind::KeptFrames, _) => frames(number, &body, chunked),
        };
        let length = head.len();
        Self {
            key,
            number,
            kind,
            request: [head, rest].concat(),
            taken: 0,
            head: length,
            can_send: true,
            can_read: true,
            received: Vec::new(),
            failure: None,
            has_ended: false,
        }
    }

    pub(super) fn send(&mut self, carrier: &mut Carrier<usize>, length: usize) {
        if !self.can_send || self.taken == self.request.len() {
            return;
        }
        let is_head = self.taken == 0 && self.kind == Kind::Translated;
        let length = length.max(if is_head { self.head } else { 1 });
        let rest = &self.request[self.taken..];
        let piece = &rest[..length.min(rest.len())];
        match carrier.send(self.key, piece) {
            Ok(taken) => {
                assert!(taken <= piece.len() && (!is_head || taken == 0 || taken >= self.head));
                self.taken += taken;
                self.can_send = taken == piece.len();
            }
            Err(failure) => self.failed(failure),
        }
    }

    /// Whether it may send its head, and has not done so yet.
    pub(super) fn can_begin(&self) -> bool {
        self.can_send && self.taken < self.head
    }

    pub(super) fn read(&mut self, carrier: &mut Carrier<usize>, length: usize) {
        let mut buffer = vec![0; length.max(1)];
        let is_readable = carrier.is_readable(self.key);
        let read = carrier.read(self.key, &mut buffer);
        assert_eq!(is_readable, read != Read::Pending);
        assert!(
            self.can_read || read == Read::Pending || self.failure.is_some() || self.has_ended,
            "{read:?}"
        );
        match read {
            Read::Bytes(length) => self.received.extend_from_slice(&buffer[..length]),
            Read::Pending => self.can_read = false,
            Read::End => self.has_ended = true,
            Read::Failed(failure) => self.failed(failure),
        }
    }

    fn failed(&mut self, failure: Failure) {
        assert!(self.failure.is_none_or(|before| before == failure));
        self.failure = Some(failure);
        // Behind END_STREAM are at most SETTINGS and WINDOW_UPDATE.
        let is_held = self.taken + HEADER + HEADER + 4 < self.request.len();
        let may_be_repeated = failure == Failure::Refused && self.kind == Kind::KeptFrames;
        assert!(!may_be_repeated || !is_held, "{} of {}", self.taken, self.request.len());
    }

    /// After the end of everything: the stream is complete, or the server did not want it.
    pub(super) fn has_ended(&self, carrier: &Carrier<usize>, server: &Server) {
        let stream = server.stream(self.number);
        match (self.failure, stream.stage) {
            (Some(Failure::Refused), Stage::Unseen | Stage::Refused) => {}
            (Some(Failure::Reset(_) | Failure::Lost), Stage::Reset) => {}
            (Some(Failure::Lost), Stage::Refused) => assert!(stream.has_answered),
            (None, Stage::Open) => {
                // The response is complete, but not the request: that ends with RST_STREAM.
                assert!(self.has_ended && !carrier.is_done(self.key) && self.taken == self.request.len());
                self.check_response(&stream.sent, stream.has_answered);
            }
            (None, Stage::Complete) => {
                let taken = (self.taken, self.has_ended, carrier.is_done(self.key));
                assert_eq!(taken, (self.request.len(), true, true), "{stream:?}");
                self.check_response(&stream.sent, stream.has_answered);
            }
            other => panic!("{other:?}, {} of {} sent, {stream:?}", self.taken, self.request.len()),
        }
    }

    fn check_response(&self, sent: &[u8], has_answered: bool) {
        assert!(has_answered);
        if self.kind == Kind::Translated {
            return assert!(self.received.ends_with(sent));
        }
        let (mut at, mut data, mut credit) = (0, Vec::new(), [0; 2]);
        while let Some(header) = self.received[at..].first_chunk::<HEADER>() {
            let header = Header::read(header);
            let payload = &self.received[at + HEADER..at + HEADER + header.length];
            match header.kind {
                HEADERS | CONTINUATION => assert_eq!(header.stream, 1),
                DATA => data.extend_from_slice(payload),
                WINDOW_UPDATE => {
                    let more = u32::from_be_bytes(*payload.first_chunk().expect("a number"));
                    credit[header.stream as usize] += more as usize;
                }
                kind => panic!("{kind}"),
            }
            at += HEADER + header.length;
        }
        assert_eq!((at, &data[..]), (self.received.len(), sent));
        assert!(credit[0] == credit[1] && credit[0] <= self.request.len());
    }
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    for chunk in body.chunks(5_000) {
        all.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        all.extend_from_slice(chunk);
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b"0\r\n\r\n");
    all
}

/// A request as frames: with an empty frame at its end, or a header block in two frames.
fn frames(number: usize, body: &[u8], empty_end: bool) -> (Vec<u8>, Vec<u8>) {
    let head = [PREFACE, &frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), &frame(8, 0, 0, &[0, 1, 0, 0])];
    let end = if body.is_empty() && !empty_end { END_STREAM } else { 0 };
    let mut head = head.concat();
    let mark = format!("\0\x05:path\x06/n{number:03}z");
    if empty_end {
        head.extend(frame(HEADERS, END_HEADERS, 1, mark.as_bytes()));
    } else {
        head.extend(frame(HEADERS, end, 1, mark.as_bytes()));
        head.extend(frame(CONTINUATION, END_HEADERS, 1, &[0x84, 0x86]));
    }
    let mut rest = Vec::new();
    let parts = body.chunks(9_000).len();
    for (nth, part) in body.chunks(9_000).enumerate() {
        let is_last = nth + 1 == parts && !empty_end;
        rest.extend(frame(DATA, u8::from(is_last), 1, part));
        rest.extend(frame(4, 1, 0, b""));
    }
    if empty_end {
        rest.extend(frame(DATA, END_STREAM, 1, b""));
    }
    rest.extend(frame(8, 0, 0, &[0, 0, 1, 0]));
    (head, rest)
}
