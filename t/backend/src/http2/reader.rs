//! Frames from the client: what they change, and the rules that they break.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::frame::{self, code, flag, kind, setting, Header, HEADER};
use super::hpack::{Decoder, Field};
use super::link::{Entry, Link};
use super::request::{broken_rules, value_of, Request};
use super::script::Script;
use super::stream;
use crate::connection::Farewell;

/// The largest frame that is read: more than any client may send.
const MAX_FRAME: usize = 1 << 20;

pub struct Reader<R> {
    input: R,
    link: Arc<Link>,
    buffer: Vec<u8>,
    decoder: Decoder,
    /// A header block that is not complete: its stream, the flags of its first frame, and what has come.
    block: Option<(u32, u8, Vec<u8>)>,
    frames: u64,
    /// What this side allows in a frame.
    max_frame: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(input: R, link: Arc<Link>, buffer: Vec<u8>) -> Self {
        let announced = |wanted| {
            link.script.settings.iter().find(|(id, _)| *id == wanted).map(|(_, value)| *value as usize)
        };
        let decoder = Decoder::new(announced(setting::HEADER_TABLE_SIZE).unwrap_or(4096));
        let max_frame = announced(setting::MAX_FRAME_SIZE).unwrap_or(16_384);
        Self { input, link, buffer, decoder, block: None, frames: 0, max_frame }
    }

    /// Reads until the client closes, or until nothing sensible can be read any more.
    pub async fn run(&mut self) -> io::Result<()> {
        loop {
            while let Some(header) = Header::read(&self.buffer).filter(|_| !self.link.is_deaf.load(Relaxed)) {
                if header.length > MAX_FRAME {
                    self.link.violation(header.stream, "a huge frame");
                    return Ok(());
                }
                if self.buffer.len() < HEADER + header.length {
                    break;
                }
                let payload: Vec<u8> = self.buffer.drain(..HEADER + header.length).skip(HEADER).collect();
                self.frame(header, &payload).await;
            }
            if self.link.is_deaf.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            if !self.read().await? {
                return Ok(());
            }
        }
    }

    /// Reads some more; false at the end. A connection that was idle for too long is ended here.
    async fn read(&mut self) -> io::Result<bool> {
        let before = self.buffer.len();
        loop {
            let Some(limit) = self.link.script.idle else {
                self.input.read_buf(&mut self.buffer).await?;
                break;
            };
            let idle = self.link.with(|state| state.streams.is_empty().then(|| state.idle_since.elapsed()));
            let wait = limit.saturating_sub(idle.unwrap_or_default()).max(Duration::from_millis(1));
            match timeout(wait, self.input.read_buf(&mut self.buffer)).await {
                Ok(read) => {
                    read?;
                    break;
                }
                Err(_) if idle.is_some_and(|idle| idle >= limit) => self.farewell(),
                Err(_) => {}
            }
        }
        let read = self.buffer.len() - before;
        self.link.stats.http2.line(self.link.serial, |line| line.bytes_in += read as u64);
        Ok(read > 0)
    }

    fn farewell(&self) {
        match self.link.script.farewell.as_str() {
            "close" => self.link.end(Farewell::Close),
            "abort" => self.link.end(Farewell::Reset),
            _ => {
                let last = self.link.with(|state| state.last);
                self.link.goaway(last, code::NO_ERROR, true);
            }
        }
    }

    /// Reads and forgets.
    pub async fn discard(&mut self) {
        let mut bytes = vec![0; 65_536];
        while self.input.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    }

    async fn frame(&mut self, header: Header, payload: &[u8]) {
        let link = self.link.clone();
        link.stats.http2.line(link.serial, |line| {
            if let Some(number) = line.frames.get_mut(usize::from(header.kind)) {
                *number += 1;
            }
        });
        self.frames += 1;
        if self.frames == 1 && header.kind != kind::SETTINGS {
            link.violation(0, "the first frame is not SETTINGS");
        }
        if header.length > self.max_frame {
            link.violation(header.stream, "a frame larger than allowed");
        }
        let continues = self.block.as_ref().is_some_and(|block| block.0 == header.stream);
        if self.block.is_some() && (header.kind != kind::CONTINUATION || !continues) {
            link.violation(header.stream, "a frame inside a header block");
        }
        match header.kind {
            kind::DATA => self.data(header, payload),
            kind::HEADERS => self.headers(header, payload),
            kind::CONTINUATION => self.continuation(header, payload),
            kind::RST_STREAM => self.reset(header),
            kind::SETTINGS => self.settings(header, payload),
            kind::PING if header.has(flag::ACK) => {}
            kind::PING if header.length != 8 || header.stream != 0 => link.violation(0, "a malformed PING"),
            kind::PING if link.script.acknowledges => {
                link.send(frame::frame(kind::PING, flag::ACK, 0, payload))
            }
            kind::GOAWAY => link.with(|state| state.ends_when_empty = true),
            kind::WINDOW_UPDATE => self.window_update(header, payload),
            kind::PUSH_PROMISE => link.violation(header.stream, "PUSH_PROMISE from a client"),
            _ => {}
        }
        if header.kind == kind::GOAWAY && link.with(|state| state.streams.is_empty()) {
            link.end(Farewell::Close);
        }
    }

    /// The payload without padding and priority.
    fn content<'a>(&self, header: Header, payload: &'a [u8]) -> &'a [u8] {
        let mut content = payload;
        if header.has(flag::PADDED) {
            let Some((pad, rest)) = content.split_first() else {
                self.link.violation(header.stream, "no length of padding");
                return &[];
            };
            match rest.len().checked_sub(usize::from(*pad)) {
                Some(length) => content = &rest[..length],
                None => self.link.violation(header.stream, "more padding than payload"),
            }
        }
        if header.kind == kind::HEADERS && header.has(flag::PRIORITY) {
            content = content.get(5..).unwrap_or_default();
        }
        content
    }

    fn headers(&mut self, header: Header, payload: &[u8]) {
        let block = self.content(header, payload).to_vec();
        self.block = Some((header.stream, header.flags, block));
        if header.has(flag::END_HEADERS) {
            self.block_is_complete();
        }
    }

    fn continuation(&mut self, header: Header, payload: &[u8]) {
        match &mut self.block {
            Some((_, _, block)) => block.extend_from_slice(payload),
            None => return self.link.violation(header.stream, "CONTINUATION without HEADERS"),
        }
        if header.has(flag::END_HEADERS) {
            self.block_is_complete();
        }
    }

    fn block_is_complete(&mut self) {
        let Some((stream, flags, block)) = self.block.take() else { return };
        let fields = match self.decoder.decode(&block) {
            Ok(fields) => fields,
            Err(rule) => return self.link.violation(stream, rule),
        };
        let is_last = flags & flag::END_STREAM != 0;
        let (last, is_open) = self.link.with(|state| (state.last, state.streams.contains_key(&stream)));
        let is_new = stream % 2 == 1 && stream > last;
        for rule in broken_rules(&fields, !is_new) {
            self.link.violation(stream, &rule);
        }
        if is_new {
            self.request(stream, fields, is_last);
        } else if is_open {
            if !is_last {
                self.link.violation(stream, "trailers without END_STREAM");
            }
            self.link.with(|state| {
                if let Some(entry) = state.streams.get_mut(&stream) {
                    entry.trailers = fields;
                }
            });
            self.request_is_over(stream);
        } else if stream % 2 == 0 || stream > last {
            self.link.violation(stream, "HEADERS on a stream that a client cannot open");
        }
    }

    fn request(&mut self, stream: u32, fields: Vec<Field>, is_last: bool) {
        let link = &self.link;
        let path = String::from_utf8_lossy(value_of(&fields, ":path").unwrap_or_default()).into_owned();
        let mut script = Script::parse(path.split_once('?').map_or("", |(_, query)| query));
        if script.only.is_some_and(|only| only != link.listener) {
            script.fault = None;
        }
        let declared = value_of(&fields, "content-length")
            .and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        let (number, is_too_many, is_late) = link.with(|state| {
            let is_too_many = state.max_streams.is_some_and(|most| state.streams.len() as u64 >= most);
            state.last = stream;
            state.served += 1;
            state.streams.insert(
                stream,
                Entry {
                    send: state.first_send,
                    receive: state.first_receive,
                    owed: 0,
                    credit: script.credit,
                    is_request_over: false,
                    is_answer_over: false,
                    length: 0,
                    sum: 0,
                    body: script.reflect.then(Vec::new),
                    declared,
                    trailers: Vec::new(),
                    changed: Arc::new(Notify::new()),
                },
            );
            (state.served, is_too_many, state.goaway.is_some_and(|last| stream > last))
        });
        link.stats.http2.opened(link.serial);
        if is_late {
            // It may have been on its way.
            link.stats.http2.refused();
            return link.remove(stream);
        }
        if is_too_many {
            link.violation(stream, "more streams than announced");
            link.stats.http2.refused();
            link.send(frame::reset(stream, code::REFUSED_STREAM));
            return link.remove(stream);
        }
        if is_last {
            self.request_is_over(stream);
        }
        if self.link.script.requests.is_some_and(|most| number == most) {
            self.link.goaway(stream, code::NO_ERROR, true);
        }
        tokio::spawn(stream::serve(self.link.clone(), Request { stream, number, fields }, script));
    }

    /// The client has ended its side of the stream.
    fn request_is_over(&self, stream: u32) {
        let ended = self.link.with(|state| {
            let entry = state.streams.get_mut(&stream)?;
            entry.is_request_over = true;
            entry.changed.notify_one();
            Some((entry.is_answer_over, entry.declared.is_none_or(|length| length == entry.length)))
        });
        match ended {
            Some((_, false)) => self.link.violation(stream, "a body of another length than declared"),
            Some((true, _)) => self.link.remove(stream),
            _ => {}
        }
    }

    fn data(&mut self, header: Header, payload: &[u8]) {
        let content = self.content(header, payload);
        let (stream, link) = (header.stream, &self.link);
        let is_last = header.has(flag::END_STREAM);
        let arrival = link.with(|state| state.data(stream, payload.len() as i64, content));
        if let Some(rule) = arrival.broken {
            link.violation(stream, rule);
        }
        if arrival.of_stream > 0 && !is_last {
            link.send(frame::window_update(stream, arrival.of_stream as u32));
        }
        if arrival.of_link > 0 {
            link.send(frame::window_update(0, arrival.of_link as u32));
        }
        if is_last {
            self.request_is_over(stream);
        }
    }

    fn reset(&self, header: Header) {
        let (last, is_open) =
            self.link.with(|state| (state.last, state.streams.contains_key(&header.stream)));
        if header.stream > last || header.stream == 0 {
            self.link.violation(header.stream, "RST_STREAM on a stream that was never open");
        }
        if is_open {
            self.link.remove(header.stream);
        }
    }

    fn settings(&self, header: Header, payload: &[u8]) {
        let link = &self.link;
        if header.has(flag::ACK) {
            return link.acknowledged();
        }
        if !payload.chunks_exact(6).remainder().is_empty() || header.stream != 0 {
            link.violation(0, "malformed SETTINGS");
        }
        for pair in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([pair[0], pair[1]]);
            let value = u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]);
            link.with(|state| match id {
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - state.first_send;
                    state.first_send = value.into();
                    for entry in state.streams.values_mut() {
                        entry.send += change;
                        entry.changed.notify_one();
                    }
                }
                setting::MAX_FRAME_SIZE => state.max_frame = value as usize,
                _ => {}
            });
        }
        if link.script.acknowledges {
            link.send(frame::frame(kind::SETTINGS, flag::ACK, 0, b""));
        }
    }

    fn window_update(&self, header: Header, payload: &[u8]) {
        let Some(bytes) = payload.first_chunk::<4>().filter(|_| payload.len() == 4) else {
            return self.link.violation(header.stream, "a malformed WINDOW_UPDATE");
        };
        let increment = i64::from(u32::from_be_bytes(*bytes) & 0x7fff_ffff);
        let (is_unknown, is_too_large) = self.link.with(|state| {
            let mut window = 0;
            if header.stream == 0 {
                state.send += increment;
                window = state.send;
                state.streams.values().for_each(|entry| entry.changed.notify_one());
            } else if let Some(entry) = state.streams.get_mut(&header.stream) {
                entry.send += increment;
                window = entry.send;
                entry.changed.notify_one();
            }
            (header.stream > state.last, window > 0x7fff_ffff)
        });
        if increment == 0 || is_unknown || is_too_large {
            self.link.violation(header.stream, "a WINDOW_UPDATE of nothing, of too much, or for no stream");
        }
    }
}
