//! A naive server: it reads the carrier's frames and keeps to the rules of its own.
#![forbid(unsafe_code)]

use super::stream::{frame, pattern, Stage, Stream};
use super::CarrierOp;
use crate::http2::carrier::frame::{
    Header, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADER, HEADERS, LONGEST, PADDED, PING,
    PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::http2::hpack::SIZE_UPDATE;

pub(super) struct Server {
    streams: Vec<Stream>,
    /// How much of the client's bytes was read.
    read: u64,
    /// What was not a whole frame.
    rest: Vec<u8>,
    in_block: bool,
    /// The first frame of the header block that has begun, and what has come of the block.
    head: Option<Header>,
    block: Vec<u8>,
    last_id: u32,
    has_settled: bool,
    limit: u32,
    window: u32,
    receive: i64,
    /// The largest window of the connection so far.
    largest: i64,
    send: i64,
    /// How many SETTINGS and PINGs are not answered.
    settings: usize,
    pings: usize,
    /// How many more frames without progress are sent.
    patience: usize,
    owed: Vec<u8>,
    goaway: Option<u32>,
    client_goaway: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            streams: Vec::new(),
            read: 0,
            rest: Vec::new(),
            in_block: false,
            head: None,
            block: Vec::new(),
            last_id: 0,
            has_settled: false,
            limit: u32::MAX,
            window: 65_535,
            receive: 65_535,
            largest: 65_535,
            send: 65_535,
            settings: 0,
            pings: 0,
            patience: 30,
            owed: Vec::new(),
            goaway: None,
            client_goaway: false,
        }
    }
}

impl Server {
    pub(super) fn next_number(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn add(&mut self, number: usize, body: u32) {
        assert_eq!(number, self.streams.len());
        assert!(!self.client_goaway && self.goaway.is_none());
        self.streams.push(Stream {
            number,
            id: 0,
            stage: Stage::Unseen,
            body: body as usize,
            come: 0,
            client_ended: false,
            server_ended: false,
            has_answered: false,
            length: None,
            sent: Vec::new(),
            receive: 0,
            send: 65_536,
        });
    }

    pub(super) fn stream(&self, number: usize) -> &Stream {
        &self.streams[number]
    }

    pub(super) fn has_answered(&self, number: usize) -> bool {
        self.streams[number].has_answered
    }

    pub(super) fn open_streams(&self) -> usize {
        self.streams.iter().filter(|it| it.stage == Stage::Open).count()
    }

    /// The owner has left: the stream is never heard of again, or was reset, or waits for its RST_STREAM.
    pub(super) fn left(&mut self, number: usize) {
        let stream = &mut self.streams[number];
        if stream.stage == Stage::Unseen {
            stream.stage = Stage::Reset;
        }
    }

    /// Reads the output from where it was read before.
    pub(super) fn look(&mut self, start: u64, output: &[u8]) {
        let skipped = usize::try_from(self.read - start).expect("nothing is missing");
        self.rest.extend_from_slice(&output[skipped..]);
        self.read = start + output.len() as u64;
        let mut bytes = std::mem::take(&mut self.rest);
        if self.last_id == 0 && bytes.starts_with(PREFACE) {
            bytes.drain(..PREFACE.len());
        }
        let mut at = 0;
        while let Some(header) = bytes[at..].first_chunk::<HEADER>() {
            let header = Header::read(header);
            let payload = &bytes[at + HEADER..at + HEADER + header.length];
            self.frame(header, payload);
            at += HEADER + header.length;
        }
        assert_eq!(at, bytes.len(), "frames are whole");
    }

    fn frame(&mut self, header: Header, payload: &[u8]) {
        assert!(header.length <= LONGEST);
        assert_eq!(self.in_block, header.kind == CONTINUATION);
        self.in_block = matches!(header.kind, HEADERS | CONTINUATION) && !header.has(END_HEADERS);
        let number = payload.first_chunk().map_or(0, |it| u32::from_be_bytes(*it));
        match header.kind {
            HEADERS | CONTINUATION => {
                if header.kind == HEADERS {
                    self.head = Some(header);
                }
                self.block.extend_from_slice(payload);
                if header.has(END_HEADERS) {
                    let block = std::mem::take(&mut self.block);
                    let head = self.head.take().expect("a first frame");
                    self.head(head, &block);
                }
            }
            DATA => self.data(header, payload),
            RST_STREAM => {
                // It may have crossed one of the server.
                let stream = self.streams.iter_mut().find(|it| it.id == header.stream).expect("a stream");
                assert!(matches!(stream.stage, Stage::Open | Stage::Reset | Stage::Refused));
                if stream.stage == Stage::Open {
                    stream.stage = Stage::Reset;
                }
            }
            WINDOW_UPDATE if header.stream == 0 => {
                self.send += i64::from(number);
                assert!(number > 0 && self.send <= 1 << 24);
            }
            WINDOW_UPDATE => {
                let stream = self.open(header.stream);
                assert!(number > 0 && !stream.server_ended);
                stream.send += i64::from(number);
                assert!(stream.send <= 1 << 20);
            }
            SETTINGS if header.has(ACK) => self.settings -= 1,
            SETTINGS => assert_eq!(header.length, 24),
            PING if header.has(ACK) => self.pings -= 1,
            PING => self.owed.extend(frame(PING, ACK, 0, payload)),
            GOAWAY => self.client_goaway = true,
            kind => panic!("{kind}"),
        }
    }

    /// The stream with this number, which must be open.
    fn open(&mut self, id: u32) -> &mut Stream {
        let stream = self.streams.iter_mut().find(|it| it.id == id && it.stage == Stage::Open);
        stream.expect("an open stream")
    }

    /// A header block has come. A mark in it names the stream, for the model.
    fn head(&mut self, header: Header, block: &[u8]) {
        assert!(header.stream % 2 == 1 && header.stream > self.last_id);
        assert!(!self.client_goaway && self.goaway.is_none());
        assert_eq!(block[0] == SIZE_UPDATE, header.stream == 1);
        let limit = if self.has_settled { self.limit } else { 1 };
        assert!(self.open_streams() < limit as usize);
        self.last_id = header.stream;
        let mark = block.windows(6).find(|it| it.starts_with(b"/n") && it[5] == b'z').expect("a mark");
        let number = mark[2..5].iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        let window = i64::from(self.window);
        let stream = &mut self.streams[number];
        assert_eq!(stream.stage, Stage::Unseen);
        (stream.id, stream.receive, stream.stage) = (header.stream, window, Stage::Open);
        if header.has(END_STREAM) {
            assert_eq!(stream.body, 0);
            stream.client_ends();
        }
    }

    fn data(&mut self, header: Header, payload: &[u8]) {
        self.receive -= payload.len() as i64;
        assert!(self.receive >= 0 && !header.has(PADDED));
        let stream = self.open(header.stream);
        assert!(!stream.client_ended && !stream.server_ended);
        stream.receive -= payload.len() as i64;
        assert!(stream.receive >= 0 || payload.is_empty());
        for (at, byte) in (stream.come..).zip(payload) {
            assert_eq!(*byte, pattern(stream.number, at));
        }
        stream.come += payload.len();
        if header.has(END_STREAM) {
            assert_eq!(stream.come, stream.body);
            stream.client_ends();
        }
    }

    /// The frames of an operation. The first frame is SETTINGS.
    pub(super) fn act(&mut self, op: CarrierOp) -> Vec<u8> {
        let settings = if self.has_settled { Vec::new() } else { self.settle(100, 65_535) };
        let frames = match op {
            CarrierOp::Head(nth, length) => {
                let is_interim = length % 7 == 0 && self.patience > 0;
                self.patience -= usize::from(is_interim);
                self.nth(nth, |it, _| match it.length {
                    None => it.head((!is_interim).then_some(length as usize)),
                    Some(_) => Vec::new(),
                })
            }
            CarrierOp::Data(nth, length, padding) => {
                self.nth(nth, |it, shared| it.more(shared, length, padding))
            }
            CarrierOp::Reset(nth, code) => self.nth_open(nth, |it, _| {
                it.stage = match (it.server_ended, code, it.has_answered) {
                    (true, ..) => Stage::Complete,
                    (_, 7, false) => Stage::Refused,
                    _ => Stage::Reset,
                };
                frame(RST_STREAM, 0, it.id, &code.to_be_bytes())
            }),
            CarrierOp::Window(nth, more) => self.nth_open(nth, |it, _| it.credit(more)),
            CarrierOp::Shared(more) => self.credit(more),
            CarrierOp::Settings(streams, window) => self.settle(streams, window),
            CarrierOp::Ping if self.patience > 0 => {
                self.patience -= 1;
                self.pings += 1;
                frame(PING, 0, 0, b"question")
            }
            CarrierOp::GoAway(nth) => self.go_away(nth),
            _ => Vec::new(),
        };
        [settings, frames].concat()
    }

    /// Acts on one of the streams that are open.
    fn nth_open(&mut self, nth: usize, act: impl FnOnce(&mut Stream, &mut i64) -> Vec<u8>) -> Vec<u8> {
        let open = self.open_streams();
        let shared = &mut self.send;
        let mut all = self.streams.iter_mut().filter(|it| it.stage == Stage::Open);
        match all.nth(nth % open.max(1)) {
            Some(stream) => act(stream, shared),
            None => Vec::new(),
        }
    }

    /// Acts on one of the open streams, unless its response has ended.
    fn nth(&mut self, nth: usize, act: impl FnOnce(&mut Stream, &mut i64) -> Vec<u8>) -> Vec<u8> {
        self.nth_open(nth, |it, shared| if it.server_ended { Vec::new() } else { act(it, shared) })
    }

    fn credit(&mut self, more: u32) -> Vec<u8> {
        self.receive += i64::from(more);
        self.largest = self.largest.max(self.receive);
        frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes())
    }

    fn settle(&mut self, streams: u32, window: u32) -> Vec<u8> {
        let change = i64::from(window) - i64::from(self.window);
        self.streams.iter_mut().filter(|it| it.stage == Stage::Open).for_each(|it| it.receive += change);
        (self.limit, self.window, self.has_settled) = (streams, window, true);
        self.settings += 1;
        let [[a, b, c, d], [e, f, g, h]] = [streams, window].map(u32::to_be_bytes);
        frame(SETTINGS, 0, 0, &[0, 3, a, b, c, d, 0, 4, e, f, g, h])
    }

    fn go_away(&mut self, nth: usize) -> Vec<u8> {
        let mut last = 0;
        self.nth_open(nth, |it, _| {
            last = it.id;
            Vec::new()
        });
        let last = self.goaway.map_or(last, |before| before.min(last));
        self.goaway = Some(last);
        let above = self.streams.iter_mut().filter(|it| it.stage == Stage::Open && it.id > last);
        above.filter(|it| !it.server_ended).for_each(|it| it.stage = Stage::Refused);
        let [a, b, c, d] = last.to_be_bytes();
        frame(GOAWAY, 0, 0, &[a, b, c, d, 0, 0, 0, 0, b'b', b'y', b'e'])
    }

    /// Answers to PING.
    pub(super) fn answers(&mut self) -> Vec<u8> {
        let settings = if self.has_settled { Vec::new() } else { self.settle(100, 65_535) };
        let credit = if self.receive <= 0 { self.credit(1_000) } else { Vec::new() };
        [settings, std::mem::take(&mut self.owed), credit].concat()
    }

    /// Everything that is still missing: credit for requests, and responses to those that have come.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut frames = Vec::new();
        // As servers do: once half of the largest window is used.
        if self.receive < self.largest / 2 {
            frames.extend(self.credit(u32::try_from(self.largest - self.receive).expect("a credit")));
        }
        let shared = &mut self.send;
        for it in self.streams.iter_mut().filter(|it| it.stage == Stage::Open && !it.server_ended) {
            if !it.client_ended && it.receive < 30_000 {
                frames.extend(it.credit(60_000));
            }
            if it.length.is_none() {
                frames.extend(it.head(Some(1_000)));
            }
            if it.client_ended {
                frames.extend(it.more(shared, LONGEST, 0));
            }
        }
        frames
    }
}
