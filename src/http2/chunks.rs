//! The chunked body of a request, as nginx writes it for the server (RFC 9112, section 7.1), in pieces of any size. HTTP/2
//! has no chunks: only the data is passed on.
//!
//! ```text
//!   Size --> [Extension] --> SizeEnd --> Data(n) --> DataEnd --> Line feed --> Size ..
//!                               |
//!                               `-- size 0 --> Trailers --> Done
//! ```
#![forbid(unsafe_code)]

/// How far a chunked body was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the size of a chunk: its value so far, and how many digits have come.
    Size(u64, u8),
    /// In an extension of a chunk of this size. Its meaning is for one connection only.
    Extension(u64),
    /// Before the line feed behind the size.
    SizeEnd(u64),
    /// In the data of a chunk, of which so many bytes are missing.
    Data(u64),
    /// Before the carriage return behind the data.
    DataEnd,
    /// Before the line feed behind the data.
    DataLineFeed,
    /// In the trailer section: whether the line is empty so far.
    Trailers(bool),
    /// Before the line feed of a line of the trailer section: whether the line is empty.
    TrailerEnd(bool),
    /// The body has ended.
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self::Size(0, 0)
    }
}

/// What [`Chunks::next`] has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// How many bytes were read. All of them, unless they have data of two chunks, or more than the body.
    pub read: usize,
    /// The data among these bytes.
    pub data: &'a [u8],
    /// Whether the body has ended with these bytes.
    pub is_last: bool,
}

impl Chunks {
    /// Reads the next bytes, up to the data of a second chunk, to the end of the body, or all of them. Trailer fields are left
    /// out. `None` if the bytes are malformed, or if any come after the end.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<Piece<'a>> {
        let mut rest = bytes;
        let mut data: &[u8] = &[];
        while let Some((first, behind)) = rest.split_first() {
            if let State::Data(missing) = self.state {
                if !data.is_empty() {
                    break;
                }
                let length = usize::try_from(missing).unwrap_or(usize::MAX).min(rest.len());
                (data, rest) = rest.split_at(length);
                let missing = missing - length as u64;
                self.state = if missing > 0 { State::Data(missing) } else { State::DataEnd };
                continue;
            }
            self.state = self.state.after(*first)?;
            rest = behind;
            if self.is_done() {
                break;
            }
        }
        Some(Piece { read: bytes.len() - rest.len(), data, is_last: self.is_done() })
    }

    /// Whether the body has ended.
    fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

impl State {
    /// The state after a byte of the framing.
    fn after(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size(size, digits @ 0..16), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                Self::Size((size << 4) | u64::from(digit), digits + 1)
            }
            (Self::Size(size, 1..), b'\r') => Self::SizeEnd(size),
            (Self::Size(size, 1..), b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Extension(_), byte) if byte != b'\n' => self,
            (Self::SizeEnd(0), b'\n') => Self::Trailers(true),
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataEnd, b'\r') => Self::DataLineFeed,
            (Self::DataLineFeed, b'\n') => Self::default(),
            (Self::Trailers(is_empty), b'\r') => Self::TrailerEnd(is_empty),
            (Self::Trailers(_), byte) if byte != b'\n' => Self::Trailers(false),
            (Self::TrailerEnd(true), b'\n') => Self::Done,
            (Self::TrailerEnd(false), b'\n') => Self::Trailers(true),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data of a body that is read in pieces, and whether it has ended.
    fn read(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
        let (mut chunks, mut data, mut is_last) = (Chunks::default(), Vec::new(), false);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let next = chunks.next(rest)?;
                assert!(next.read > 0);
                data.extend(next.data);
                (rest, is_last) = (&rest[next.read..], next.is_last);
            }
        }
        Some((data, is_last))
    }

    #[test]
    fn the_end_comes_with_the_last_data() {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        let piece = Chunks::default().next(body);
        assert_eq!(piece, Some(Piece { read: body.len(), data: b"hello", is_last: true }));
        assert_eq!(Chunks::default().next(b""), Some(Piece { read: 0, data: b"", is_last: false }));
    }

    #[test]
    fn the_data_of_each_chunk_is_a_piece() {
        let mut chunks = Chunks::default();
        let body = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(chunks.next(body), Some(Piece { read: 11, data: b"abc", is_last: false }));
        assert_eq!(chunks.next(&body[11..]), Some(Piece { read: 9, data: b"de", is_last: true }));
        assert_eq!(chunks.next(b""), Some(Piece { read: 0, data: b"", is_last: true }));
        assert_eq!(chunks.next(b"0"), None);
    }

    #[test]
    fn extensions_and_trailers_are_left_out() {
        let body = b"00A;a=\"b\"\r\n0123456789\r\n0 ;x\r\na: b\r\nc:\r\n\r\n";
        assert_eq!(read(&[body]), Some((b"0123456789".to_vec(), true)));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [
            "\r\n",
            "\n",
            ";\r\n",
            "g",
            "-1",
            "+1",
            " 1",
            "0x1",
            "1\n",
            "1\r\r",
            "1;\n",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\rb",
            "0\r\n\n",
            "0\r\na\n",
            "0\r\n\ra",
            "00000000000000001",
            "0\r\n\r\n0",
        ] {
            assert_eq!(read(&[body.as_bytes()]), None, "{body:?}");
        }
        assert!(read(&[b"ffffffffffffffff\r\nabc"]).is_some());
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..10),
            sizes in prop::collection::vec(1usize..9, 1..20),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:x}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let (mut rest, mut pieces, mut size) = (&body[..], Vec::new(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at((*size.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            prop_assert_eq!(read(&pieces), Some((chunks.concat(), true)));
            prop_assert_eq!(read(&[&body]), Some((chunks.concat(), true)));
        }

        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'0'), Just(b'\r'), Just(b'\n')], 0..60)) {
            let _ = read(&[&bytes]);
        }
    }
}
