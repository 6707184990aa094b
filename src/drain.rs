//! Finds the end of a response that nobody reads, so that its connection can be used again.
//!
//! ```text
//!   Content-Length:   Remaining(n) --------------------------> Done
//!
//!   chunked:   Size --> Data(n) --> DataEnd --> Size ..
//!                \                                           (RFC 9112, section 7.1)
//!                 `-- size 0 --> Trailer .. empty line ------> Done
//!
//!   FastCGI:   Records, up to END_REQUEST -------------------> Done
//! ```
#![forbid(unsafe_code)]

use httparse::{parse_chunk_size, parse_headers, Status, EMPTY_HEADER};

use crate::fastcgi::Records;

/// How the end of a response body is found (RFC 9112, section 6.3; FastCGI 1.0, section 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By `Content-Length`: the number of bytes to come.
    Length(u64),
    /// By `Transfer-Encoding: chunked`.
    Chunked,
    /// By the records of FastCGI, read up to here.
    Records(Records),
}

/// Reads a body up to its end and discards it.
#[derive(Clone, Debug)]
pub struct Drain {
    state: BodyState,
    /// How many bytes of body may still be announced.
    size_left: u64,
    /// How many bytes may still come of chunk framing and trailers, or of headers and padding of records.
    framing_left: u64,
    line: HeadLine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// How many bytes of the body are missing.
    Remaining(u64),
    /// How many bytes of the chunk are missing.
    Data(u64),
    /// The line with the size of a chunk.
    Size,
    /// The end of line after the data of a chunk.
    DataEnd,
    /// A line of the trailer section.
    Trailer,
    /// In the records of FastCGI.
    Records(Records),
    /// The body has ended.
    Done,
}

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The end is still to come.
    More,
    /// To its end.
    Done,
}

/// Why the rest of a response cannot be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDrained {
    /// The body or its framing is larger than the limit.
    TooLarge,
    /// The chunk framing does not conform to RFC 9112.
    Malformed,
    /// The records do not conform to FastCGI, or say that the request was not served.
    InvalidRecord,
    /// Bytes follow the body.
    Surplus,
}

/// Whether `bytes` are a body of at most `size` bytes, to its end and no further.
pub fn is_complete(framing: Framing, size: u64, bytes: &[u8]) -> bool {
    match framing {
        Framing::Length(length) => length <= size && length == bytes.len() as u64,
        _ => Drain::new(framing, size).and_then(|mut drain| drain.read(bytes)) == Ok(Progress::Done),
    }
}

/// A line of chunk framing, which may come in pieces. A line longer than [`MAX_LINE`] is an error.
#[derive(Clone, Debug)]
struct HeadLine {
    bytes: [u8; MAX_LINE],
    length: usize,
}

/// The longest line of chunk framing, in bytes. Real servers send shorter ones.
const MAX_LINE: usize = 256;

impl Drain {
    /// Drains a body of at most `size` bytes. Its framing may take `size` bytes too, and in any case the bytes of one chunk's
    /// framing.
    ///
    /// # Errors
    /// [`NotDrained::TooLarge`] if the body is known to be larger.
    pub fn new(framing: Framing, size: u64) -> Result<Self, NotDrained> {
        let state = match framing {
            Framing::Length(length) if length > size => return Err(NotDrained::TooLarge),
            Framing::Length(0) => BodyState::Done,
            Framing::Length(length) => BodyState::Remaining(length),
            Framing::Chunked => BodyState::Size,
            Framing::Records(records) => BodyState::Records(records),
        };
        let known = if let BodyState::Records(records) = state { records.missing() } else { 0 };
        let size_left = size.checked_sub(known).ok_or(NotDrained::TooLarge)?;
        let framing_left = size.saturating_add(2 * MAX_LINE as u64);
        Ok(Self { state, size_left, framing_left, line: HeadLine { bytes: [0; MAX_LINE], length: 0 } })
    }

    /// Reads the next bytes from the server, in pieces of any size.
    ///
    /// # Errors
    /// See [`NotDrained`]. After an error the connection cannot be used again.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Progress, NotDrained> {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = match self.state {
                BodyState::Done => return Err(NotDrained::Surplus),
                BodyState::Remaining(missing) => {
                    let (missing, rest) = skip(missing, bytes);
                    self.state = if missing > 0 { BodyState::Remaining(missing) } else { BodyState::Done };
                    rest
                }
                BodyState::Data(missing) => {
                    let (missing, rest) = skip(missing, bytes);
                    self.state = if missing > 0 { BodyState::Data(missing) } else { BodyState::DataEnd };
                    rest
                }
                BodyState::Records(records) => self.read_records(records, bytes)?,
                BodyState::Size | BodyState::DataEnd | BodyState::Trailer => {
                    self.framing_left = self.framing_left.checked_sub(1).ok_or(NotDrained::TooLarge)?;
                    self.line.push(*first)?;
                    if *first == b'\n' {
                        self.line_read()?;
                    }
                    rest
                }
            };
        }
        Ok(if self.state == BodyState::Done { Progress::Done } else { Progress::More })
    }

    /// Reads some of the bytes and returns the others.
    fn read_records<'a>(&mut self, mut records: Records, bytes: &'a [u8]) -> Result<&'a [u8], NotDrained> {
        let (taken, rest) = records.read(bytes).map_err(|_| NotDrained::InvalidRecord)?;
        self.framing_left = self.framing_left.checked_sub(taken.framing).ok_or(NotDrained::TooLarge)?;
        self.size_left = self.size_left.checked_sub(taken.announced).ok_or(NotDrained::TooLarge)?;
        self.state = if records.is_done() { BodyState::Done } else { BodyState::Records(records) };
        Ok(rest)
    }

    /// A line is complete.
    fn line_read(&mut self) -> Result<(), NotDrained> {
        let line = std::mem::take(&mut self.line.length);
        let line = self.line.bytes.get(..line).ok_or(NotDrained::Malformed)?;
        self.state = match self.state {
            BodyState::Size => match chunk_size(line)? {
                0 => BodyState::Trailer,
                size => {
                    self.size_left = self.size_left.checked_sub(size).ok_or(NotDrained::TooLarge)?;
                    BodyState::Data(size)
                }
            },
            BodyState::DataEnd if line == b"\r\n" => BodyState::Size,
            BodyState::Trailer if line == b"\r\n" => BodyState::Done,
            BodyState::Trailer if is_field(line) => BodyState::Trailer,
            _ => return Err(NotDrained::Malformed),
        };
        Ok(())
    }
}

impl HeadLine {
    fn push(&mut self, byte: u8) -> Result<(), NotDrained> {
        *self.bytes.get_mut(self.length).ok_or(NotDrained::Malformed)? = byte;
        self.length += 1;
        Ok(())
    }
}

/// Skips up to `missing` bytes. Returns how many are still missing, and the bytes after the skipped ones.
fn skip(missing: u64, bytes: &[u8]) -> (u64, &[u8]) {
    match usize::try_from(missing) {
        Ok(length) if length <= bytes.len() => (0, bytes.split_at(length).1),
        _ => (missing - bytes.len() as u64, &[]),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, NotDrained> {
    // The parser reads an empty line as zero.
    let has_digits = line.first().is_some_and(u8::is_ascii_hexdigit);
    match parse_chunk_size(line) {
        Ok(Status::Complete((length, size))) if has_digits && length == line.len() => Ok(size),
        _ => Err(NotDrained::Malformed),
    }
}

/// Whether a line of the trailer section is a header field.
fn is_field(line: &[u8]) -> bool {
    let mut section = [0; MAX_LINE + 2];
    let Some(to) = section.get_mut(..line.len() + 2) else { return false };
    to.iter_mut().zip(line.iter().chain(b"\r\n")).for_each(|(to, from)| *to = *from);
    let mut fields = [EMPTY_HEADER];
    let parsed = parse_headers(to, &mut fields);
    line.ends_with(b"\r\n")
        && matches!(parsed, Ok(Status::Complete((length, [_]))) if length == line.len() + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastcgi::tests::{end, record};
    use proptest::prelude::*;

    const SIZE: u64 = 1000;

    fn drain(framing: Framing, bytes: &[u8]) -> Result<Progress, NotDrained> {
        Drain::new(framing, SIZE)?.read(bytes)
    }

    fn chunked(text: &str) -> Result<Progress, NotDrained> {
        drain(Framing::Chunked, text.as_bytes())
    }

    #[test]
    fn content_length_ends_where_it_says() {
        assert_eq!(drain(Framing::Length(5), b"hell"), Ok(Progress::More));
        assert_eq!(drain(Framing::Length(5), b"hello"), Ok(Progress::Done));
        assert_eq!(drain(Framing::Length(5), b"hello!"), Err(NotDrained::Surplus));
        assert_eq!(drain(Framing::Length(0), b""), Ok(Progress::Done));
        assert_eq!(drain(Framing::Length(0), b"!"), Err(NotDrained::Surplus));
    }

    #[test]
    fn a_body_is_complete_if_draining_it_would_end_at_once() {
        let (long, chunk) = ([b'x'; SIZE as usize + 1], b"2\r\nok\r\n0\r\n\r\n");
        for bytes in [&b""[..], b"hell", b"hello", b"hello!", &long, &long[1..], chunk, &chunk[1..]] {
            let lengths = [0, 5, SIZE, SIZE + 1].map(Framing::Length);
            for framing in lengths.into_iter().chain([Framing::Chunked]) {
                let is_done = drain(framing, bytes) == Ok(Progress::Done);
                assert_eq!(is_complete(framing, SIZE, bytes), is_done, "{framing:?}, {}", bytes.len());
            }
        }
    }

    #[test]
    fn the_limit_is_a_size_that_a_body_may_have() {
        assert!(Drain::new(Framing::Length(SIZE), SIZE).is_ok());
        assert_eq!(Drain::new(Framing::Length(SIZE + 1), SIZE).err(), Some(NotDrained::TooLarge));
        let body = |size: usize| format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
        assert_eq!(chunked(&body(1000)), Ok(Progress::Done));
        assert_eq!(chunked(&body(1001)), Err(NotDrained::TooLarge));
        let two = format!("1\r\nx\r\n{}", body(1000));
        assert_eq!(chunked(&two), Err(NotDrained::TooLarge));
    }

    #[test]
    fn framing_is_limited_too() {
        let extension = format!("1;{}\r\nx\r\n", "e".repeat(200));
        assert_eq!(chunked(&extension.repeat(5)), Ok(Progress::More));
        assert_eq!(chunked(&extension.repeat(10)), Err(NotDrained::TooLarge));
        assert_eq!(chunked(&format!("1;{}", "e".repeat(300))), Err(NotDrained::Malformed));
        assert_eq!(chunked(&format!("0\r\n{}", "a: b\r\n".repeat(300))), Err(NotDrained::TooLarge));
    }

    #[test]
    fn chunks_are_read_up_to_their_end() {
        for text in ["0\r\n\r\n", "2\r\nok\r\n0\r\n\r\n", "A;a=b\r\n0123456789\r\n000\r\nx: y\r\nz:\r\n\r\n"]
        {
            assert_eq!(chunked(text), Ok(Progress::Done), "{text:?}");
            assert_eq!(chunked(&text[..text.len() - 1]), Ok(Progress::More), "{text:?}");
            assert_eq!(chunked(&format!("{text}0")), Err(NotDrained::Surplus), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for text in [
            "\r\n",
            "\n",
            "0\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            ";\r\n",
            "0x1\r\n",
            "1\nx\r\n",
            "fffffffffffffffff\r\n",
            "1\r\nxx\r\n",
            "1\r\nx\n",
            "1\r\nx0\r\n",
            "0\r\nfield\r\n",
            "0\r\n\n",
            "0\r\n a: b\r\n",
            "0\r\na: b\n",
            "1\r\r\n",
        ] {
            assert_eq!(chunked(text), Err(NotDrained::Malformed), "{text:?}");
        }
        assert_eq!(chunked("ffffffffffffffff\r\n"), Err(NotDrained::TooLarge));
    }

    /// What follows a header that ends within this record of standard output.
    fn records(first: &[u8], rest: &[&[u8]]) -> (Framing, Vec<u8>) {
        const HEADER: &[u8] = b"Status: 200\r\n\r\n";
        let output = record(6, &[HEADER, first].concat(), 3);
        let (read, unread) = output.split_at(8 + HEADER.len());
        let framing = Framing::Records(Records::behind(read).unwrap());
        (framing, [&[unread], rest].concat().concat())
    }

    #[test]
    fn records_are_read_up_to_the_end_of_the_request() {
        let (output, error, end) = (record(6, b"more", 0), record(7, b"Notice", 2), end());
        for rest in [&[&end[..]][..], &[&error, &end], &[&output, &error, &record(6, b"", 0), &end]] {
            for first in [&b""[..], b"body"] {
                let (framing, bytes) = records(first, rest);
                assert_eq!(drain(framing, &bytes), Ok(Progress::Done));
                for length in 0..bytes.len() {
                    let mut cut = Drain::new(framing, SIZE).unwrap();
                    assert_eq!(cut.read(&bytes[..length]), Ok(Progress::More), "{length}");
                    assert_eq!(cut.read(&bytes[length..]), Ok(Progress::Done), "{length}");
                    assert_eq!(cut.read(b"\x01"), Err(NotDrained::Surplus), "{length}");
                }
            }
        }
        let (framing, bytes) = records(b"body", &[b"\x01\x0b\x00\x00\x00\x08\x00\x00"]);
        assert_eq!(drain(framing, &bytes), Err(NotDrained::InvalidRecord));
    }

    #[test]
    fn records_have_the_limits_of_chunks() {
        let (framing, bytes) = records(&[b'x'; 1000], &[&end()]);
        assert_eq!(drain(framing, &bytes), Ok(Progress::Done));
        let (framing, _) = records(&[b'x'; 1001], &[&end()]);
        assert_eq!(Drain::new(framing, SIZE).err(), Some(NotDrained::TooLarge));
        // The limit applies as soon as content is announced, and includes the application's error messages.
        let (framing, bytes) = records(&[b'x'; 900], &[&record(7, &[b'x'; 100], 0), &end()]);
        assert_eq!(drain(framing, &bytes), Ok(Progress::Done));
        let (framing, bytes) = records(&[b'x'; 900], &[&record(7, &[b'x'; 101], 0)[..8]]);
        assert_eq!(drain(framing, &bytes), Err(NotDrained::TooLarge));
        // Records without content, and padding, count as framing.
        let empty = record(7, b"", 0).repeat(180);
        let (framing, bytes) = records(b"", &[&empty, &end()]);
        assert_eq!(drain(framing, &bytes), Ok(Progress::Done));
        let (framing, bytes) = records(b"", &[&record(7, b"", 255).repeat(6)]);
        assert_eq!(drain(framing, &bytes), Err(NotDrained::TooLarge));
    }

    proptest! {
        #[test]
        fn the_end_is_found_however_the_bytes_come(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..20),
            trailer in any::<bool>(),
            pieces in proptest::collection::vec(1usize..9, 1..20),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend(format!("{:x}\r\n", chunk.len()).bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
            }
            text.extend(if trailer { &b"0\r\na: b\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            let mut drain = Drain::new(Framing::Chunked, SIZE).unwrap();
            let (mut left, mut sizes) = (&text[..], pieces.iter().cycle());
            while !left.is_empty() {
                let (piece, rest) = left.split_at((*sizes.next().unwrap()).min(left.len()));
                let expected = if rest.is_empty() { Progress::Done } else { Progress::More };
                prop_assert_eq!(drain.read(piece), Ok(expected));
                left = rest;
            }
        }

        #[test]
        fn garbage_comes_to_no_harm(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'0'), Just(b'\r'), Just(b'\n')], 0..300)) {
            let _ = drain(Framing::Chunked, &bytes);
        }
    }
}
