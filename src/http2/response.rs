//! A response: header blocks and DATA of a stream become what an HTTP/1.1 server would send to nginx's proxy module (RFC
//! 9113, section 8). Whatever is malformed there is refused here, before nginx or a client could read it in another way.
//!
//! ```text
//!   head:     Head --> 1xx --> Head
//!                `---> final --> Content --------- END_STREAM --> Done
//!   data:                           |
//!   trailers:                       `--- with END_STREAM -------> Done
//! ```
#![forbid(unsafe_code)]

mod malformed;
mod status_line;
mod trailers;

use super::fields;
use super::hpack::{self, Limits};

pub use malformed::Malformed;

/// Takes the bytes of HTTP/1.1.
pub trait Sink {
    /// Appends the bytes. `None` if there is no memory.
    fn put(&mut self, bytes: &[u8]) -> Option<()>;
}

/// What a header block was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// An interim response, which is not passed on (RFC 9110, section 15.2).
    Interim,
    /// The header of the response.
    Final,
    /// The trailer section.
    Trailers,
}

/// How far the response of a stream was read. After an error the stream must be reset: what was put may be half a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    is_head: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before the header.
    Head,
    /// In the content.
    Content(Framing),
    /// The stream has ended.
    Done,
}

/// How long the content is, and how nginx finds its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is none.
    None,
    /// So many bytes are missing.
    Missing(u64),
    /// In chunks (RFC 9112, section 7.1).
    Chunked,
}

impl Response {
    /// Before the first header block. `is_head` says that the method of the request is HEAD.
    pub fn new(is_head: bool) -> Self {
        Self { is_head, stage: Stage::Head }
    }

    /// Reads a complete header block; `is_end` says that it has END_STREAM. `scratch` and `limits` are for
    /// [`hpack::decode`].
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn head(
        &mut self,
        block: &[u8],
        is_end: bool,
        scratch: &mut [u8],
        limits: Limits,
        out: &mut impl Sink,
    ) -> Result<Head, Malformed> {
        match self.stage {
            Stage::Head => self.header(block, is_end, scratch, limits, out),
            Stage::Content(_) if !is_end => Err(Malformed::Trailers),
            Stage::Content(framing) => {
                trailers(framing, block, scratch, limits, out)?;
                self.stage = Stage::Done;
                Ok(Head::Trailers)
            }
            Stage::Done => Err(Malformed::Ended),
        }
    }

    fn header(
        &mut self,
        block: &[u8],
        is_end: bool,
        scratch: &mut [u8],
        limits: Limits,
        out: &mut impl Sink,
    ) -> Result<Head, Malformed> {
        let mut header = Header { status: None, length: None };
        hpack::decode(block, scratch, limits, |name, value| header.field(name, value, out))?;
        let status = header.status.ok_or(Malformed::Status)?;
        if status < 200 {
            return if is_end { Err(Malformed::EarlyEnd) } else { Ok(Head::Interim) };
        }
        let has_content = !self.is_head && !matches!(status, 204 | 304);
        let (framing, end) = match header.length {
            _ if !has_content => (Framing::None, EMPTY_LINE),
            Some(length) => (Framing::Missing(length), EMPTY_LINE),
            None if is_end => (Framing::None, &b"content-length: 0\r\n\r\n"[..]),
            None => (Framing::Chunked, &b"transfer-encoding: chunked\r\n\r\n"[..]),
        };
        if is_end && matches!(framing, Framing::Missing(1..)) {
            return Err(Malformed::ContentLength);
        }
        put(out, end)?;
        self.stage = if is_end { Stage::Done } else { Stage::Content(framing) };
        Ok(Head::Final)
    }

    /// Reads content, the payload of a DATA frame without padding; `is_end` says that it has END_STREAM.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn data(&mut self, payload: &[u8], is_end: bool, out: &mut impl Sink) -> Result<(), Malformed> {
        let framing = match self.stage {
            Stage::Head => return Err(if is_end { Malformed::EarlyEnd } else { Malformed::EarlyData }),
            Stage::Content(framing) => framing,
            Stage::Done => return Err(Malformed::Ended),
        };
        let framing = match framing {
            Framing::None if payload.is_empty() => framing,
            Framing::None => return Err(Malformed::NoContent),
            Framing::Missing(missing) => {
                let missing = missing.checked_sub(payload.len() as u64).ok_or(Malformed::ContentLength)?;
                if is_end && missing > 0 {
                    return Err(Malformed::ContentLength);
                }
                put(out, payload)?;
                Framing::Missing(missing)
            }
            Framing::Chunked => {
                chunk(payload, is_end, out)?;
                framing
            }
        };
        self.stage = if is_end { Stage::Done } else { Stage::Content(framing) };
        Ok(())
    }

    /// Whether the stream has ended with a complete response.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Done
    }
}

const EMPTY_LINE: &[u8] = b"\r\n";

/// The header of a response, while it is decoded and passed on.
struct Header {
    status: Option<u16>,
    length: Option<u64>,
}

impl Header {
    #[inline]
    fn field(&mut self, name: &[u8], value: &[u8], out: &mut impl Sink) -> Result<(), Malformed> {
        let Some(status) = self.status else { return self.status(name, value, out) };
        check(name, value)?;
        if name == b"content-length" {
            let length = fields::content_length(value).ok_or(Malformed::Length)?;
            match self.length.replace(length) {
                Some(before) if before != length => return Err(Malformed::Length),
                Some(_) => return Ok(()),
                // A response without content is no reason for it (RFC 9110, section 8.6).
                None if status == 204 => return Ok(()),
                None => {}
            }
        }
        if status < 200 {
            return Ok(());
        }
        line(name, value, out)
    }

    /// The first field.
    fn status(&mut self, name: &[u8], value: &[u8], out: &mut impl Sink) -> Result<(), Malformed> {
        let [hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = value else {
            return Err(Malformed::Status);
        };
        if name != b":status" {
            return Err(Malformed::Status);
        }
        let digit = |byte: &u8| u16::from(byte - b'0');
        let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
        self.status = Some(status);
        match status_line::known(status) {
            _ if status == 101 => Err(Malformed::SwitchingProtocols),
            _ if status < 200 => Ok(()),
            Some(line) => put(out, line),
            None => [b"HTTP/1.1 ", value, b" \r\n"].iter().try_for_each(|part| put(out, part)),
        }
    }
}

/// Refuses a field that a response cannot have.
#[inline(always)]
fn check(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    if !fields::is_name(name) {
        return Err(if name.starts_with(b":") { Malformed::Pseudo } else { Malformed::Name });
    }
    if !fields::is_value(value) {
        return Err(Malformed::Value);
    }
    if fields::is_of_connection(name) {
        return Err(Malformed::Connection);
    }
    Ok(())
}

/// Passes on a field.
#[inline(always)]
fn line(name: &[u8], value: &[u8], out: &mut impl Sink) -> Result<(), Malformed> {
    put(out, name)?;
    put(out, b": ")?;
    put(out, value)?;
    put(out, b"\r\n")
}

/// Reads the trailer section, and passes it on behind the last chunk.
fn trailers(
    framing: Framing,
    block: &[u8],
    scratch: &mut [u8],
    limits: Limits,
    out: &mut impl Sink,
) -> Result<(), Malformed> {
    if matches!(framing, Framing::Missing(1..)) {
        return Err(Malformed::ContentLength);
    }
    let is_chunked = framing == Framing::Chunked;
    if is_chunked {
        put(out, b"0\r\n")?;
    }
    hpack::decode(block, scratch, limits, |name, value| {
        check(name, value)?;
        if is_chunked && trailers::is_allowed(name) {
            return line(name, value, out);
        }
        Ok(())
    })?;
    if is_chunked {
        put(out, EMPTY_LINE)?;
    }
    Ok(())
}

/// Passes on content as a chunk. An empty chunk would be the last one.
fn chunk(payload: &[u8], is_end: bool, out: &mut impl Sink) -> Result<(), Malformed> {
    let end = if is_end { &b"\r\n0\r\n\r\n"[..] } else { b"\r\n" };
    if payload.is_empty() {
        let end = end.get(EMPTY_LINE.len()..).unwrap_or_default();
        return if is_end { put(out, end) } else { Ok(()) };
    }
    let mut line = *b"0000000000000000\r\n";
    let mut rest = payload.len();
    let mut digits = 0;
    for place in line.iter_mut().rev().skip(EMPTY_LINE.len()) {
        *place = HEX[rest % HEX.len()];
        rest /= HEX.len();
        digits += 1;
        if rest == 0 {
            break;
        }
    }
    put(out, line.get(line.len() - EMPTY_LINE.len() - digits..).unwrap_or_default())?;
    put(out, payload)?;
    put(out, end)
}

const HEX: [u8; 16] = *b"0123456789abcdef";

#[inline(always)]
fn put(out: &mut impl Sink, bytes: &[u8]) -> Result<(), Malformed> {
    out.put(bytes).ok_or(Malformed::NoMemory)
}

#[cfg(test)]
mod tests;
