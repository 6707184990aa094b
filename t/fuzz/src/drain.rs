//! A response that nobody reads: its end is where RFC 9112 or FastCGI says, in whatever pieces the bytes come. If the end was
//! found one byte too early or too late, the next client would get the rest of this response.
#![forbid(unsafe_code)]

use keepalive::drain::{Drain, Framing, NotDrained, Progress};
use keepalive::fastcgi::Records;

use crate::input::Input;
use crate::records;

/// The first line: `c` for chunks or the length, the size that is drained at most, the sizes of pieces in one number. Then
/// the body. Or `r` for records of FastCGI, size and pieces, how many bytes nginx has read; and all records.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut first = Input(input.line());
    if let Some(rest) = first.0.strip_prefix(b"r ") {
        return records(Input(rest), input.0);
    }
    let framing = match first.0.strip_prefix(b"c") {
        Some(rest) => {
            first = Input(rest.strip_prefix(b" ").unwrap_or(rest));
            Framing::Chunked
        }
        None => Framing::Length(first.number() as u64),
    };
    let (size, pieces) = (first.number() as u64, first.number());
    let body = input.0;

    compare(framing, size, body, pieces, expected(framing, size, body));
}

fn records(mut first: Input, bytes: &[u8]) {
    let (size, pieces, read) = (first.number() as u64, first.number(), first.number());
    let (read, unread) = bytes.split_at(read.min(bytes.len()));
    let rest = records::behind(read);
    let records = Records::behind(read);
    assert_eq!(records.map(|records| records.missing()), rest.map(|rest| rest.content as u64));
    if let Some((records, rest)) = records.zip(rest) {
        compare(Framing::Records(records), size, unread, pieces, records::expected(rest, size, unread));
    }
}

fn compare(framing: Framing, size: u64, body: &[u8], pieces: usize, expected: Outcome) {
    assert_eq!(read(framing, size, body, |_| usize::MAX), expected);
    assert_eq!(read(framing, size, body, |_| 1), expected);
    assert_eq!(read(framing, size, body, |nth| 1 + (pieces >> (nth * 4 % 64)) % 16), expected);
}

/// The outcome of reading a body.
pub type Outcome = Result<Progress, NotDrained>;

/// Reads the body in pieces.
fn read(framing: Framing, size: u64, mut body: &[u8], length: impl Fn(usize) -> usize) -> Outcome {
    let mut drain = Drain::new(framing, size)?;
    let mut progress = drain.read(b"")?;
    for nth in 0.. {
        if body.is_empty() {
            break;
        }
        assert!(progress == Progress::More || drain.clone().read(body) == Err(NotDrained::Surplus));
        let (piece, rest) = body.split_at(length(nth).min(body.len()));
        progress = drain.read(piece)?;
        body = rest;
    }
    Ok(progress)
}

/// The outcome, computed from the whole body at once.
fn expected(framing: Framing, size: u64, body: &[u8]) -> Outcome {
    match framing {
        Framing::Length(length) if length > size => Err(NotDrained::TooLarge),
        Framing::Length(length) => match (body.len() as u64).cmp(&length) {
            std::cmp::Ordering::Less => Ok(Progress::More),
            std::cmp::Ordering::Equal => Ok(Progress::Done),
            std::cmp::Ordering::Greater => Err(NotDrained::Surplus),
        },
        Framing::Chunked => match chunked(size, body) {
            Ok([]) => Ok(Progress::Done),
            Ok(_) => Err(NotDrained::Surplus),
            Err(outcome) => outcome,
        },
        Framing::Records(_) => unreachable!("only HTTP is drained here"),
    }
}

/// The bytes after the body, or the outcome if the body does not end.
fn chunked(mut size: u64, mut body: &[u8]) -> Result<&[u8], Outcome> {
    let mut framing = size.saturating_add(512);
    loop {
        let chunk = size_of_chunk(line(&mut body, &mut framing)?)?;
        if chunk == 0 {
            break;
        }
        size = size.checked_sub(chunk).ok_or(Err(NotDrained::TooLarge))?;
        let data = usize::try_from(chunk).ok().filter(|length| *length <= body.len());
        body = &body[data.ok_or(Ok(Progress::More))?..];
        if line(&mut body, &mut framing)? != b"\r\n" {
            return Err(Err(NotDrained::Malformed));
        }
    }
    loop {
        match line(&mut body, &mut framing)? {
            b"\r\n" => return Ok(body),
            line if is_field(line) => {}
            _ => return Err(Err(NotDrained::Malformed)),
        }
    }
}

/// The next line of the framing, with its end.
fn line<'a>(body: &mut &'a [u8], framing: &mut u64) -> Result<&'a [u8], Outcome> {
    let length = body.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
    let available = length.unwrap_or(body.len()) as u64;
    if available > *framing && *framing <= 256 {
        return Err(Err(NotDrained::TooLarge));
    }
    if available > 256 {
        return Err(Err(NotDrained::Malformed));
    }
    let (line, rest) = body.split_at(length.ok_or(Ok(Progress::More))?);
    *body = rest;
    *framing -= available;
    Ok(line)
}

/// `chunk-size [ chunk-ext ] CRLF`, with anything in the extension but ends of lines.
fn size_of_chunk(line: &[u8]) -> Result<u64, Outcome> {
    let malformed = Err(NotDrained::Malformed);
    let text: String = line.iter().map(|byte| char::from(*byte)).collect();
    let text = text.strip_suffix("\r\n").ok_or(malformed)?;
    let digits = text.split(|it: char| !it.is_ascii_hexdigit()).next().unwrap_or_default();
    let rest = text[digits.len()..].trim_start_matches([' ', '\t']);
    let is_extension = rest.is_empty() || rest.starts_with(';') && !rest.contains('\r');
    if digits.is_empty() || digits.len() > 16 || !is_extension {
        return Err(malformed);
    }
    u64::from_str_radix(digits, 16).map_err(|_| malformed)
}

/// `field-name ":" field-value CRLF` (RFC 9110, section 5).
fn is_field(line: &[u8]) -> bool {
    let Some(line) = line.strip_suffix(b"\r\n") else { return false };
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return false };
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    !name.is_empty() && name.iter().all(is_token) && value.iter().all(is_text)
}
