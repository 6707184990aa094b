//! What is to be written to the connection: one buffer that never moves. It is emptied only when all of it was written, so that
//! a write can be repeated with the same bytes at the same address, as TLS demands.
//!
//! ```text
//!   0                     48 KB      64 KB      68 KB      72 KB
//!   |  DATA                 |          |          |          |
//!   |  header blocks                   |          |          |
//!   |  RST_STREAM, WINDOW_UPDATE                  |          |
//!   |  answers, PING                                         |
//!   |  GOAWAY                                                |..
//! ```
#![forbid(unsafe_code)]

use super::frame::{
    Header, CONTINUATION, END_HEADERS, END_STREAM, HEADER, HEADERS, LONGEST, PREFACE, SETTINGS, WINDOW_UPDATE,
};
use super::limits::CONNECTION_WINDOW;
use super::settings::{self, SETTING};
use crate::http2::hpack::SIZE_UPDATE;

/// The number of a connection's first stream.
pub(super) const FIRST: u32 = 1;

/// How many bytes come before the fields of a request's header block: `SIZE_UPDATE`, in the connection's first one.
#[inline]
fn begun(stream: u32) -> usize {
    usize::from(stream == FIRST)
}

/// Up to where DATA is written.
pub(super) const FOR_DATA: usize = 48 << 10;
/// Up to where header blocks are written.
pub(super) const FOR_BLOCKS: usize = 64 << 10;
/// Up to where RST_STREAM and WINDOW_UPDATE are written. What does not fit is written later.
pub(super) const FOR_STREAMS: usize = 68 << 10;
/// Up to where answers are written. A server that asks for more reads none of them.
pub(super) const FOR_ANSWERS: usize = 72 << 10;
/// What each connection begins with: the preface, SETTINGS with four settings, and WINDOW_UPDATE.
const OPENING: usize = PREFACE.len() + HEADER + 4 * SETTING + HEADER + 4;
/// Room for GOAWAY is always left.
const CAPACITY: usize = FOR_ANSWERS + 64;

#[derive(Debug)]
pub(super) struct Output {
    bytes: Vec<u8>,
    filled: usize,
    written: usize,
    /// How many bytes were in the buffer before it was last emptied.
    before: u64,
}

impl Output {
    /// As if it were full, but for answers.
    #[cfg(test)]
    pub(super) fn fill_for_test(&mut self) {
        self.filled = FOR_STREAMS;
    }

    /// The output of a new connection: the preface, our settings, and the window of the connection. `None` if there is no memory.
    pub(super) fn new() -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(CAPACITY).ok()?;
        bytes.resize(CAPACITY, 0);
        let mut output = Self { bytes, filled: 0, written: 0, before: 0 };
        output.put(PREFACE);
        output.control(FOR_ANSWERS, SETTINGS, 0, 0, &settings::ours())?;
        let more = CONNECTION_WINDOW - super::frame::DEFAULT_WINDOW;
        output.control(FOR_ANSWERS, WINDOW_UPDATE, 0, 0, &more.to_be_bytes())?;
        Some(output)
    }

    /// What is to be written.
    #[inline]
    pub(super) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..self.filled]
    }

    /// So many bytes were written. Returns whether the buffer is empty now.
    #[inline]
    pub(super) fn written(&mut self, length: usize) -> bool {
        self.written = (self.written + length).min(self.filled);
        let is_all = self.written == self.filled;
        if is_all {
            self.before += self.filled as u64;
            (self.filled, self.written) = (0, 0);
        }
        is_all
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// How many bytes were put into the output in its life.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.before + self.filled as u64
    }

    /// How many bytes of the output were written in its life.
    #[inline]
    pub(super) fn written_end(&self) -> u64 {
        self.before + self.written as u64
    }

    /// How many bytes there is room for below a limit.
    #[inline]
    pub(super) fn room(&self, limit: usize) -> usize {
        limit.saturating_sub(self.filled)
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// Writes a frame with a short payload. `None` if there is no room below the limit.
    #[inline]
    pub(super) fn control(
        &mut self,
        limit: usize,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Option<()> {
        if self.room(limit) < HEADER + payload.len() {
            return None;
        }
        self.put(&Header { length: payload.len(), kind, flags, stream }.bytes());
        self.put(payload);
        Some(())
    }

    /// Writes GOAWAY, for which there is always room once. The server opens no streams, so the last one is 0.
    pub(super) fn goaway(&mut self, code: u32) {
        let [a, b, c, d] = code.to_be_bytes();
        // Without room for another one, the first has said enough.
        let _ = self.control(CAPACITY, super::frame::GOAWAY, 0, 0, &[0, 0, 0, 0, a, b, c, d]);
    }

    /// How much payload of DATA there is room for, in frames of the longest length.
    #[inline]
    pub(super) fn room_for_data(&self) -> usize {
        let room = self.room(FOR_DATA);
        room.saturating_sub(HEADER * (room / (HEADER + LONGEST) + 1))
    }

    /// Writes DATA frames, for which there is room.
    #[inline]
    pub(super) fn data(&mut self, stream: u32, payload: &[u8], is_end: bool) {
        let mut rest = payload;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(LONGEST));
            rest = after;
            let flags = if is_end && rest.is_empty() { END_STREAM } else { 0 };
            self.put(&Header { length: piece.len(), kind: super::frame::DATA, flags, stream }.bytes());
            self.put(piece);
            if rest.is_empty() {
                return;
            }
        }
    }

    /// The place for a header block, behind the header of its frame. The connection's first block has begun already, with
    /// `SIZE_UPDATE`.
    #[inline]
    pub(super) fn block_mut(&mut self, stream: u32) -> &mut [u8] {
        let block = self.bytes.get_mut(self.filled + HEADER..FOR_BLOCKS).unwrap_or_default();
        let begun = begun(stream).min(block.len());
        let (update, fields) = block.split_at_mut(begun);
        update.fill(SIZE_UPDATE);
        fields
    }

    /// Makes a header block that was put into its place a part of the output. If it is longer than a frame, it is divided. `None`
    /// if there is no room to divide it.
    #[inline]
    pub(super) fn block(&mut self, stream: u32, length: usize, is_end: bool) -> Option<()> {
        let length = begun(stream) + length;
        let more = length.saturating_sub(1) / LONGEST;
        if more > 0 {
            self.divide(length, more)?;
        }
        for nth in 0..=more {
            let (kind, end) = if nth == 0 { (HEADERS, is_end) } else { (CONTINUATION, false) };
            let length = (length - nth * LONGEST).min(LONGEST);
            let last = if nth == more { END_HEADERS } else { 0 };
            let flags = last | if end { END_STREAM } else { 0 };
            self.put(&Header { length, kind, flags, stream }.bytes());
            self.filled += length;
        }
        Some(())
    }

    /// Moves the second and later parts of a block, so that each has room for a header. The last one is moved first.
    #[cold]
    fn divide(&mut self, length: usize, more: usize) -> Option<()> {
        if self.room(FOR_BLOCKS) < length + HEADER * (more + 1) {
            return None;
        }
        let start = self.filled + HEADER;
        for nth in (1..=more).rev() {
            let part = start + nth * LONGEST..start + length.min((nth + 1) * LONGEST);
            self.bytes.copy_within(part.clone(), part.start + nth * HEADER);
        }
        Some(())
    }

    /// Writes the frames of the connection's first header block. `SIZE_UPDATE` gets a frame of its own: the next one may be full.
    #[cold]
    pub(super) fn first_frames(&mut self, frames: &[u8]) {
        let Some((header, _)) = frames.split_first_chunk::<HEADER>() else { return };
        let header = Header::read(header);
        let flags = header.flags & END_STREAM;
        self.put(&Header { length: 1, flags, stream: FIRST, ..header }.bytes());
        self.put(&[SIZE_UPDATE]);
        let behind = self.filled;
        self.frames(FIRST, frames);
        let next = Header { kind: CONTINUATION, flags: header.flags & END_HEADERS, stream: FIRST, ..header };
        if let Some(place) = self.bytes.get_mut(behind..behind + HEADER) {
            place.copy_from_slice(&next.bytes());
        }
    }

    /// Writes the frames of a header block, which are complete, with another stream number. There is room for them.
    pub(super) fn frames(&mut self, stream: u32, mut frames: &[u8]) {
        while let Some((header, rest)) = frames.split_first_chunk::<HEADER>() {
            let header = Header { stream, ..Header::read(header) };
            let (payload, rest) = rest.split_at(header.length.min(rest.len()));
            self.put(&header.bytes());
            self.put(payload);
            frames = rest;
        }
    }

    /// Removes all frames of which nothing was written, except those within a header block that was begun. Returns where in the
    /// output's life it ends now.
    pub(super) fn cut(&mut self) -> u64 {
        let mut at = if self.before == 0 { OPENING } else { 0 };
        let mut in_block = false;
        while at < self.filled && (at < self.written || in_block) {
            let Some(header) = self.bytes[at..].first_chunk::<HEADER>() else { break };
            let header = Header::read(header);
            at += HEADER + header.length;
            in_block = matches!(header.kind, HEADERS | CONTINUATION) && !header.has(END_HEADERS);
        }
        self.filled = at.min(self.filled);
        self.end()
    }
}
