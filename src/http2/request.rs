//! A request: the head that nginx's proxy module writes for an HTTP/1 server becomes a header block (RFC 9113, sections 8.2
//! and 8.3.1). The configuration can put nearly anything into the head (`proxy_set_header`, `proxy_method`, variables in
//! `proxy_pass`), and much of it comes from clients. So what HTTP/2 cannot carry, or what a server could read in two ways, is
//! refused.
//!
//! ```text
//!   GET /a HTTP/1.1              :method: GET
//!   Host: b             ----->   :scheme: http
//!   Connection: close            :authority: b
//!   X-Name: c                    :path: /a
//!                                x-name: c
//! ```
#![forbid(unsafe_code)]

use std::fmt;

use super::fields;
use super::hpack::Encoder;
use crate::http1::request_head::is_http1;
use crate::http1::stateful_auth::has_scheme;

mod control;
mod named;

use control::Control;
use named::Named;

/// How a request goes to a server that speaks HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// As HTTP/1 that is translated to a stream.
    Translate,
    /// As frames of HTTP/2, which nginx has written.
    Frames,
    /// Over a connection of its own.
    Ordinary,
}

/// How a request goes, by the beginning of what nginx has written. `Translate` needs a complete head of HTTP/1, which does not
/// want the connection for itself: no CONNECT, no `Upgrade` (RFC 9113, section 8.6), no credentials that authenticate the
/// connection (RFC 4559). It is called for each request.
pub fn path(head: &[u8]) -> Path {
    if head.starts_with(b"PRI * HTTP/2.0") {
        return Path::Frames;
    }
    let Some(Line(first, mut rest)) = Line::read(head) else { return Path::Ordinary };
    if head.starts_with(b"CONNECT ") || !is_http1(without_cr(first)) {
        return Path::Ordinary;
    }
    while let Some(Line(line, behind)) = Line::read(rest) {
        rest = behind;
        let is_ordinary = match line {
            [] | [b'\r'] => return Path::Translate,
            [b'u' | b'U', ..] => value_of(line, b"upgrade").is_some(),
            [b'a' | b'A', ..] => value_of(line, b"authorization").is_some_and(has_scheme),
            [b'p' | b'P', ..] => value_of(line, b"proxy-authorization").is_some_and(has_scheme),
            _ => false,
        };
        if is_ordinary {
            return Path::Ordinary;
        }
    }
    Path::Ordinary
}

/// A line without the line feed at its end, and the bytes behind it.
struct Line<'a>(&'a [u8], &'a [u8]);

impl<'a> Line<'a> {
    #[inline]
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (line, rest) = bytes.split_at_checked(fields::line_length(bytes)?)?;
        Some(Self(line, rest.get(1..)?))
    }

    /// A line that is not empty.
    #[inline]
    fn read_field(bytes: &'a [u8]) -> Option<Self> {
        Self::read(bytes).filter(|line| !matches!(line.0, [] | [b'\r']))
    }
}

#[inline]
fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The value of a field, if it has this name, without blanks around it.
#[inline]
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":").filter(|_| start.eq_ignore_ascii_case(name))?;
    Some(fields::trimmed(without_cr(value)))
}

/// How the end of a request's body is found in what nginx writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks, see [`super::chunks`].
    Chunked,
}

/// A request that was translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The length of the head, in bytes, with the empty line.
    pub length: usize,
    /// The length of the header block, in bytes.
    pub block: usize,
    /// The body that follows the head.
    pub body: Body,
    /// Whether the method is HEAD: the response has no content.
    pub is_head: bool,
}

/// Why a request cannot be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The head does not end.
    Incomplete,
    /// The first line is not that of an HTTP/1 request.
    RequestLine,
    /// The target has no path, or a form of another method.
    Target,
    /// The host has bytes that no authority can have.
    Authority,
    /// A name is not a token.
    Name,
    /// A value has a control character.
    Value,
    /// A field goes on in the next line.
    Fold,
    /// More than one `Host`.
    Hosts,
    /// A `Content-Length` that is no number, or two that differ.
    Length,
    /// A coding other than `chunked`.
    Coding,
    /// Both `Content-Length` and `Transfer-Encoding`, or the latter in HTTP/1.0.
    Framing,
    /// More options in `Connection` than are expected.
    Options,
    /// The header block does not fit into the buffer.
    TooLarge,
}

impl fmt::Display for Unfit {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Incomplete => "incomplete head (RFC 9112, section 2.1)",
            Self::RequestLine => "invalid request line (RFC 9112, section 3)",
            Self::Target => "invalid target (RFC 9113, section 8.3.1)",
            Self::Authority => "invalid host (RFC 9113, section 8.3.1)",
            Self::Name => "invalid field name (RFC 9113, section 8.2.1)",
            Self::Value => "invalid field value (RFC 9113, section 8.2.1)",
            Self::Fold => "field on several lines (RFC 9112, section 5.2)",
            Self::Hosts => "several \"Host\" fields (RFC 9112, section 3.2)",
            Self::Length => "invalid or different \"Content-Length\" (RFC 9112, section 6.3)",
            Self::Coding => "transfer coding other than \"chunked\" (RFC 9113, section 8.2.2)",
            Self::Framing => "ambiguous length of the body (RFC 9112, section 6.1)",
            Self::Options => "too many options in \"Connection\" (RFC 9110, section 7.6.1)",
            Self::TooLarge => "header too large for a header block",
        })
    }
}

/// Translates the head of an HTTP/1 request, and writes the header block to `out`. `secure` says that the connection uses TLS.
/// Fields of the connection are left out, and `Expect: 100-continue`, because nginx does not wait.
///
/// # Errors
/// See [`Unfit`].
pub fn translate(head: &[u8], secure: bool, out: &mut [u8]) -> Result<Translated, Unfit> {
    let (control, rest) = Control::read(head)?;
    let unread = match Block::new(out, None).write(&control, secure, rest)? {
        Some(unread) => unread,
        // `Connection` names a field, which may be written already: once more, with the names known.
        None => {
            Block::new(out, Some(Named::read(rest)?)).write(&control, secure, rest)?.ok_or(Unfit::Options)?
        }
    };
    let Unread { length, block, body } = unread;
    Ok(Translated { length: head.len() - length, block, body, is_head: control.method == b"HEAD" })
}

/// The longest name, in bytes.
const MAX_NAME: usize = 256;

/// A header block that is written.
struct Block<'a, 'h> {
    encoder: Encoder<'a>,
    /// The fields that `Connection` names, if they are known.
    named: Option<Named<'h>>,
    hosts: usize,
    length: Option<u64>,
    is_chunked: bool,
}

/// What is behind the head, and what was written.
struct Unread {
    length: usize,
    block: usize,
    body: Body,
}

impl<'a, 'h> Block<'a, 'h> {
    fn new(out: &'a mut [u8], named: Option<Named<'h>>) -> Self {
        Self { encoder: Encoder::new(out), named, hosts: 0, length: None, is_chunked: false }
    }

    /// Writes the control data and the fields, which are at the beginning of `rest`. `None` if the fields that `Connection`
    /// names must be known first.
    fn write(
        mut self,
        control: &Control<'_>,
        secure: bool,
        mut rest: &[u8],
    ) -> Result<Option<Unread>, Unfit> {
        self.control_data(control, secure, rest)?;
        let mut name = [0; MAX_NAME];
        while !rest.starts_with(b"\r\n") {
            let length = fields::to_lower_case(rest, &mut name);
            let (name, behind) = (name.get(..length), rest.get(length..));
            let (Some(name), Some(behind)) = (name, behind) else { return Err(Unfit::Name) };
            let value = after_name(name, behind)?;
            let (value, behind) = value.split_at(fields::text_length(value));
            rest = behind.strip_prefix(b"\r\n").ok_or_else(|| cut_off(behind, Unfit::Value))?;
            if !self.field(name, fields::trimmed(value))? {
                return Ok(None);
            }
        }
        let body = match (self.is_chunked, self.length) {
            (true, None) if !control.is_1_0 => Body::Chunked,
            (true, _) => return Err(Unfit::Framing),
            (false, length) => length.map_or(Body::None, Body::Length),
        };
        Ok(Some(Unread { length: rest.len() - b"\r\n".len(), block: self.encoder.length(), body }))
    }

    /// Writes the pseudo-header fields (RFC 9113, section 8.3.1).
    fn control_data(&mut self, control: &Control<'_>, secure: bool, rest: &[u8]) -> Result<(), Unfit> {
        self.put(b":method", control.method, false)?;
        self.put(b":scheme", if secure { b"https" } else { b"http" }, false)?;
        // The authority of the target replaces that of `Host` (RFC 9112, section 3.2.2).
        let authority = control.authority.or_else(|| host(rest)).filter(|host| !host.is_empty());
        if let Some(authority) = authority {
            if !fields::is_authority(authority) {
                return Err(Unfit::Authority);
            }
            self.put(b":authority", authority, false)?;
        }
        self.put(b":path", control.path, false)
    }

    /// Writes a field, or what becomes of it. `false` if the fields that `Connection` names must be known first.
    #[inline]
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<bool, Unfit> {
        match name {
            b"host" => {
                self.hosts += 1;
                // The first one is in the control data.
                return if self.hosts > 1 { Err(Unfit::Hosts) } else { Ok(true) };
            }
            b"connection" => return Ok(self.named.is_some() || !named::names_any(value)),
            b"keep-alive" | b"proxy-connection" | b"upgrade" | b"http2-settings" => return Ok(true),
            b"te" => {
                // No other value is allowed (RFC 9113, section 8.2.2).
                if value.eq_ignore_ascii_case(b"trailers") {
                    self.put(name, b"trailers", false)?;
                }
                return Ok(true);
            }
            b"expect" if value.eq_ignore_ascii_case(b"100-continue") => return Ok(true),
            b"content-length" => {
                let length = fields::content_length(value).ok_or(Unfit::Length)?;
                match self.length.replace(length) {
                    Some(before) if before != length => return Err(Unfit::Length),
                    Some(_) => return Ok(true),
                    None => {}
                }
            }
            b"transfer-encoding" => {
                let is_only = !std::mem::replace(&mut self.is_chunked, true);
                let is_chunked = is_only && value.eq_ignore_ascii_case(b"chunked");
                return if is_chunked { Ok(true) } else { Err(Unfit::Coding) };
            }
            _ => {}
        }
        if self.named.as_ref().is_some_and(|named| named.has(name)) {
            return Ok(true);
        }
        self.put(name, value, fields::is_sensitive(name))?;
        Ok(true)
    }

    #[inline(always)]
    fn put(&mut self, name: &[u8], value: &[u8], is_sensitive: bool) -> Result<(), Unfit> {
        self.encoder.field(name, value, is_sensitive).ok_or(Unfit::TooLarge)
    }
}

/// What is behind the name and its colon.
#[inline]
fn after_name<'a>(name: &[u8], behind: &'a [u8]) -> Result<&'a [u8], Unfit> {
    match behind {
        [b':', value @ ..] if !name.is_empty() => Ok(value),
        [] | [b'\r'] => Err(Unfit::Incomplete),
        [b' ' | b'\t', ..] if name.is_empty() => Err(Unfit::Fold),
        _ if name.len() == MAX_NAME => Err(Unfit::TooLarge),
        _ => Err(Unfit::Name),
    }
}

/// [`Unfit::Incomplete`] if a line ends where CRLF is missing, else `invalid`.
#[cold]
fn cut_off(rest: &[u8], invalid: Unfit) -> Unfit {
    if matches!(rest, [] | [b'\r']) {
        Unfit::Incomplete
    } else {
        invalid
    }
}

/// The value of the first `Host`.
#[inline]
fn host(mut rest: &[u8]) -> Option<&[u8]> {
    while let Some(Line(line, behind)) = Line::read_field(rest) {
        if let Some(host) = value_of(line, b"host") {
            return Some(host);
        }
        rest = behind;
    }
    None
}

#[cfg(test)]
mod tests;
