//! A request that nginx's module writes as HTTP/2 itself (gRPC, and `proxy_http_version 2`): its frames are passed on, with our
//! stream number, and what is about the module's connection is swallowed.
//!
//! ```text
//!   preface --> frame header --> HEADERS, CONTINUATION: whole blocks -----> output
//!                   ^        --> DATA: its payload, in frames of our own -> output
//!                   |        --> RST_STREAM ------------------------------> output
//!                   '------- --> SETTINGS, PING, WINDOW_UPDATE, others: skipped
//! ```
//!
//! The module reads frames of stream 1, whatever our number is. It believes that it may send 65,535 bytes, and is credited with what was taken of it, so
//! that it may send on. It allows the server 2^31 - 1 bytes, which is ignored: the server is credited with what was read.
#![forbid(unsafe_code)]

use super::buffer::Buffer;
use super::fault::Failure;
use super::frame::{
    Header, CANCEL, CONTINUATION, DATA, DEFAULT_WINDOW, END_HEADERS, END_STREAM, HEADER, HEADERS, LONGEST,
    PADDED, PREFACE, PRIORITIZED, RST_STREAM, WINDOW_UPDATE,
};
use super::output::{FIRST, FOR_BLOCKS};
use super::stream::{Sending, Waiting, Wake};
use super::Carrier;
use crate::base::list::Link;
use crate::http2::request::Unfit;
use crate::http2::response::Sink;

/// How far the frames of a request were read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Passage {
    /// Nothing was read: the preface is expected, or a frame.
    #[default]
    Start,
    /// How many bytes of the preface were read.
    Preface(usize),
    /// At a frame header.
    Frame,
    /// How many bytes of a frame are to be skipped.
    Skip(usize),
    /// How many bytes of DATA are missing, and whether the stream ends with them.
    Data(usize, bool),
}

/// How much of the module's DATA is credited at once: half of its window.
const CREDIT: u32 = DEFAULT_WINDOW / 2;

/// The length of RST_STREAM, in bytes.
const RESET: usize = HEADER + 4;

impl<T: Copy> Carrier<T> {
    /// Reads frames of a request. Returns how many bytes were taken.
    pub(super) fn pass(&mut self, at: Link, bytes: &[u8], mut is_turn: bool) -> Result<usize, Failure> {
        let mut rest = bytes;
        while !rest.is_empty() && self.slots.all[at as usize].failure.is_none() {
            let Sending::Frames(passage) = self.slots.all[at as usize].sending else { break };
            let (taken, next) = match passage {
                Passage::Start if rest.first() == PREFACE.first() => (0, Passage::Preface(0)),
                Passage::Start => (0, Passage::Frame),
                Passage::Preface(read) => self.pass_preface(at, rest, read)?,
                Passage::Skip(left) => {
                    let taken = left.min(rest.len());
                    (taken, if taken < left { Passage::Skip(left - taken) } else { Passage::Frame })
                }
                Passage::Data(left, is_end) => {
                    let payload = rest.get(..left).unwrap_or(rest);
                    let taken = self.send_data(at, payload, is_end && payload.len() == left, is_turn);
                    is_turn = false;
                    if taken == 0 {
                        self.sent(at, false);
                        return Ok(bytes.len() - rest.len());
                    }
                    self.give_credit(at, taken)?;
                    (taken, if taken < left { Passage::Data(left - taken, is_end) } else { Passage::Frame })
                }
                Passage::Frame => match self.pass_frame(at, rest)? {
                    Some(step) => step,
                    None => return Ok(bytes.len() - rest.len()),
                },
            };
            self.slots.all[at as usize].sending = Sending::Frames(next);
            rest = rest.get(taken..).unwrap_or_default();
        }
        self.sent(at, true);
        Ok(bytes.len() - rest.len())
    }

    fn pass_preface(&mut self, at: Link, bytes: &[u8], read: usize) -> Result<(usize, Passage), Failure> {
        let expected = PREFACE.get(read..).unwrap_or_default();
        let taken = expected.len().min(bytes.len());
        if bytes.get(..taken) != expected.get(..taken) {
            return Err(self.fail(at, Failure::Passage, CANCEL));
        }
        let is_all = taken == expected.len();
        Ok((taken, if is_all { Passage::Frame } else { Passage::Preface(read + taken) }))
    }

    /// Reads a frame header, and the whole frame if it may not be divided. Returns how many bytes were taken and what follows.
    /// `None` if a header block has to wait, of which nothing or only a part is taken then.
    fn pass_frame(&mut self, at: Link, bytes: &[u8]) -> Result<Option<(usize, Passage)>, Failure> {
        let mut partial = std::mem::take(&mut self.slots.all[at as usize].partial);
        let before = partial.len();
        let header = if before == 0 { bytes.first_chunk::<HEADER>() } else { None };
        let (header, taken) = match header {
            Some(header) => (*header, HEADER),
            None => {
                let more = bytes.get(..HEADER.saturating_sub(before)).unwrap_or(bytes);
                keep(&mut partial, more).ok_or_else(|| self.fail(at, Failure::NoMemory, CANCEL))?;
                let Some(header) = partial.first_chunk::<HEADER>() else {
                    self.slots.all[at as usize].partial = partial;
                    return Ok(Some((more.len(), Passage::Frame)));
                };
                (*header, more.len())
            }
        };
        let header = Header::read(&header);
        match header.kind {
            DATA => self.pass_data(at, header).map(|next| Some((taken, next))),
            HEADERS | CONTINUATION | RST_STREAM => {
                partial.truncate(before);
                self.pass_whole(at, bytes, partial)
            }
            _ => Ok(Some((taken, Passage::Skip(header.length)))),
        }
    }

    fn pass_data(&mut self, at: Link, header: Header) -> Result<Passage, Failure> {
        let slot = &self.slots.all[at as usize];
        let is_out_of_order = slot.id == 0 || slot.we_ended || slot.owes_end;
        if is_out_of_order || header.stream == 0 || header.has(PADDED) {
            return Err(self.fail(at, Failure::Passage, CANCEL));
        }
        let is_end = header.has(END_STREAM);
        match header.length {
            0 => {
                self.send_data(at, &[], is_end, false);
                Ok(Passage::Frame)
            }
            length => Ok(Passage::Data(length, is_end)),
        }
    }

    /// Passes on a header block or RST_STREAM, once it is whole. `partial` is what was taken of it before.
    fn pass_whole(
        &mut self,
        at: Link,
        bytes: &[u8],
        mut partial: Vec<u8>,
    ) -> Result<Option<(usize, Passage)>, Failure> {
        let before = partial.len();
        if before > 0 {
            keep(&mut partial, bytes).ok_or_else(|| self.fail(at, Failure::NoMemory, CANCEL))?;
        }
        let whole = if before > 0 { &partial } else { bytes };
        let length = match length_of(whole) {
            Some(Some(length)) => length,
            Some(None) if whole.len() <= FOR_BLOCKS => {
                if before == 0 {
                    keep(&mut partial, bytes).ok_or_else(|| self.fail(at, Failure::NoMemory, CANCEL))?;
                }
                self.slots.all[at as usize].partial = partial;
                return Ok(Some((bytes.len(), Passage::Frame)));
            }
            _ => return Err(self.fail(at, Failure::Passage, CANCEL)),
        };
        let frames = whole.get(..length).unwrap_or_default();
        if self.write_whole(at, frames)? {
            return Ok(Some((length - before, Passage::Frame)));
        }
        partial.truncate(before);
        self.slots.all[at as usize].partial = partial;
        Ok(None)
    }

    /// Writes a header block or RST_STREAM. Returns whether it was possible now.
    fn write_whole(&mut self, at: Link, frames: &[u8]) -> Result<bool, Failure> {
        let Some((header, payload)) = frames.split_first_chunk::<HEADER>() else { return Ok(true) };
        let header = Header::read(header);
        let slot = &self.slots.all[at as usize];
        let (number, is_out_of_order) = (slot.id, slot.we_ended || slot.owes_end);
        if header.kind == RST_STREAM {
            let code = payload.first_chunk().map_or(CANCEL, |code| u32::from_be_bytes(*code));
            self.fail(at, Failure::NotOpen, code);
            return Ok(true);
        }
        if header.stream == 0 || is_out_of_order || header.has(PADDED | PRIORITIZED) {
            return Err(self.fail(at, Failure::Passage, CANCEL));
        }
        if number == 0 && !header.has(END_STREAM) && self.shared.is_used_up() {
            self.slots.wait(at, Waiting::Data);
            return Ok(false);
        }
        let is_too_long = self.output.room(FOR_BLOCKS) < frames.len() + HEADER + 1;
        if is_too_long && self.output.is_empty() {
            return Err(self.fail(at, Failure::Unfit(Unfit::TooLarge), CANCEL));
        }
        if is_too_long || (number == 0 && self.must_wait()) {
            self.slots.wait(at, Waiting::Head);
            return Ok(false);
        }
        let id = if number == 0 { self.next_number(at)? } else { number };
        match (number, id) {
            (0, FIRST) => self.output.first_frames(frames),
            _ => self.output.frames(id, frames),
        }
        if number == 0 {
            self.numbered(at, id);
        }
        if header.has(END_STREAM) {
            self.we_have_ended(at);
        }
        Ok(true)
    }

    /// Credits the module with DATA that was taken, when it is worth two frames: one for the stream, one for its connection.
    fn give_credit(&mut self, at: Link, taken: usize) -> Result<(), Failure> {
        let slot = &mut self.slots.all[at as usize];
        slot.taken += u32::try_from(taken).unwrap_or(u32::MAX);
        if slot.taken < CREDIT {
            return Ok(());
        }
        let credit = std::mem::take(&mut slot.taken);
        slot.open_data = 0;
        if put_credit(&mut slot.buffer, credit).is_none() {
            return Err(self.fail(at, Failure::NoMemory, CANCEL));
        }
        self.slots.wake(at, Wake { read: true, write: false });
        Ok(())
    }
}

/// Lets the module send more, on its stream and on its connection. `None` if there is no memory.
pub(super) fn put_credit(to: &mut Buffer, credit: u32) -> Option<()> {
    for stream in [0, FIRST] {
        let header = Header { length: size_of::<u32>(), kind: WINDOW_UPDATE, flags: 0, stream };
        to.put(&header.bytes())?;
        to.put(&credit.to_be_bytes())?;
    }
    Some(())
}

/// Adds to what was taken of a frame header or header block. `None` if there is no memory.
fn keep(partial: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    partial.try_reserve(bytes.len()).ok()?;
    partial.extend_from_slice(bytes);
    Some(())
}

/// The length of a header block with all of its frames, or of RST_STREAM. `Some(None)` if it is not complete, `None` if it is
/// malformed.
fn length_of(frames: &[u8]) -> Option<Option<usize>> {
    let mut at = 0;
    loop {
        let Some(header) = frames.get(at..).and_then(|rest| rest.first_chunk::<HEADER>()) else {
            return Some(None);
        };
        let header = Header::read(header);
        let is_expected = match header.kind {
            RST_STREAM => at == 0 && header.length == RESET - HEADER,
            HEADERS => at == 0,
            kind => at > 0 && kind == CONTINUATION,
        };
        if !is_expected || header.length > LONGEST {
            return None;
        }
        at += HEADER + header.length;
        if header.kind == RST_STREAM || header.has(END_HEADERS) {
            return Some((at <= frames.len()).then_some(at));
        }
    }
}

/// Adds a header block to what the module reads, in frames of the length that it knows. `None` if there is no memory.
pub(super) fn put_block(to: &mut Buffer, block: &[u8], is_end: bool) -> Option<()> {
    let more = block.len().saturating_sub(1) / LONGEST;
    for nth in 0..=more {
        let part = block.get(nth * LONGEST..).unwrap_or_default();
        let part = part.get(..LONGEST).unwrap_or(part);
        let (kind, end) = if nth == 0 { (HEADERS, is_end) } else { (CONTINUATION, false) };
        let last = if nth == more { END_HEADERS } else { 0 };
        let flags = last | if end { END_STREAM } else { 0 };
        to.put(&Header { length: part.len(), kind, flags, stream: FIRST }.bytes())?;
        to.put(part)?;
    }
    Some(())
}

/// Adds payload of DATA to what the module reads. If the last frame there is DATA that it has not begun to read, that becomes longer:
/// framing must not take more memory than what is framed. `open` is how far from the end that frame begins, or 0. Returns the same
/// for what follows. `None` if there is no memory.
pub(super) fn put_data(to: &mut Buffer, open: usize, payload: &[u8], is_end: bool) -> Option<usize> {
    let length = open.saturating_sub(HEADER) + payload.len();
    let is_open = open > 0 && length <= LONGEST && !is_end;
    let start = to.len().checked_sub(open).filter(|_| is_open);
    let Some(start) = start else {
        let flags = if is_end { END_STREAM } else { 0 };
        to.put(&Header { length: payload.len(), kind: DATA, flags, stream: FIRST }.bytes())?;
        to.put(payload)?;
        return Some(HEADER + payload.len());
    };
    to.put(payload)?;
    let header = Header { length, kind: DATA, flags: 0, stream: FIRST }.bytes();
    if let Some(place) = to.unread_mut().get_mut(start..start + HEADER) {
        place.copy_from_slice(&header);
    }
    Some(HEADER + length)
}
