//! What the naive server knows about a stream.
#![forbid(unsafe_code)]

use crate::http2::carrier::frame::{
    Header, DATA, END_HEADERS, END_STREAM, HEADERS, LONGEST, PADDED, WINDOW_UPDATE,
};

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { length: payload.len(), kind, flags, stream };
    [&header.bytes()[..], payload].concat()
}

/// A byte of a body.
pub(super) fn pattern(number: usize, at: usize) -> u8 {
    ((at * 7 + number) % 251) as u8
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its header block has not come.
    Unseen,
    Open,
    /// Both sides have ended.
    Complete,
    /// One side has reset it.
    Reset,
    /// The server has refused it.
    Refused,
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) number: usize,
    pub(super) id: u32,
    pub(super) stage: Stage,
    pub(super) body: usize,
    /// How much of the request has come.
    pub(super) come: usize,
    pub(super) client_ended: bool,
    pub(super) server_ended: bool,
    pub(super) has_answered: bool,
    /// How long the response will be, once it was begun.
    pub(super) length: Option<usize>,
    pub(super) sent: Vec<u8>,
    /// How much the client may send, and the server.
    pub(super) receive: i64,
    pub(super) send: i64,
}

impl Stream {
    pub(super) fn client_ends(&mut self) {
        self.client_ended = true;
        if self.server_ended {
            self.stage = Stage::Complete;
        }
    }

    pub(super) fn server_ends(&mut self) {
        self.server_ended = true;
        if self.client_ended {
            self.stage = Stage::Complete;
        }
    }

    pub(super) fn credit(&mut self, more: u32) -> Vec<u8> {
        if self.client_ended {
            return Vec::new();
        }
        self.receive += i64::from(more);
        frame(WINDOW_UPDATE, 0, self.id, &more.to_be_bytes())
    }

    /// A header block: of an interim response, or of the response.
    pub(super) fn head(&mut self, length: Option<usize>) -> Vec<u8> {
        self.has_answered = true;
        let Some(length) = length else {
            return frame(HEADERS, END_HEADERS, self.id, b"\x00\x07:status\x03103");
        };
        let digits = length.to_string();
        let block = [b"\x88\x00\x0econtent-length", &[digits.len() as u8][..], digits.as_bytes()].concat();
        self.length = Some(length);
        let flags = if length == 0 { END_HEADERS | END_STREAM } else { END_HEADERS };
        if length == 0 {
            self.server_ends();
        }
        frame(HEADERS, flags, self.id, &block)
    }

    /// DATA of the response, as much as the windows allow.
    pub(super) fn more(&mut self, shared: &mut i64, length: usize, padding: u8) -> Vec<u8> {
        let Some(total) = self.length else { return Vec::new() };
        let framing = if padding > 0 { i64::from(padding) + 1 } else { 0 };
        let window = (*shared).min(self.send).min(LONGEST as i64) - framing;
        let length = length.min(total - self.sent.len()).min(usize::try_from(window).unwrap_or(0));
        if length == 0 {
            return Vec::new();
        }
        self.send -= length as i64 + framing;
        *shared -= length as i64 + framing;
        let start = self.sent.len();
        self.sent.extend((start..start + length).map(|at| pattern(self.number, at)));
        let is_end = self.sent.len() == total;
        if is_end {
            self.server_ends();
        }
        let flags = u8::from(is_end) | if padding > 0 { PADDED } else { 0 };
        let padded = if padding > 0 { vec![padding] } else { Vec::new() };
        let payload = [&padded[..], &self.sent[start..], &vec![0; usize::from(padding)]].concat();
        frame(DATA, flags, self.id, &payload)
    }
}
