//! The head of an HTTP/2 request, as nginx writes it: the connection preface, then the frames of the header. When nginx sends
//! the request over a connection that has carried others, it leaves out the preface and sets the stream number in the
//! frames. When it then sends the request over a new connection, it does not set the number back.
//!
//! And the frames by which a server says that it does not process a request: GOAWAY, with the last stream that it may have
//! processed, and RST_STREAM with REFUSED_STREAM. Both guarantee that nothing was done (RFC 9113, sections 6.8 and 8.7).
#![forbid(unsafe_code)]

/// The connection preface (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame header, in bytes (RFC 9113, section 4.1).
const HEADER: usize = 9;

/// The number of the first stream that a client opens (RFC 9113, section 5.1.1).
const FIRST: [u8; 4] = [0, 0, 0, 1];

/// Sets the stream number in the frames of the request to the first stream's. `false` if `head` is not a preface
/// followed by complete frames.
pub fn number_as_first(head: &mut [u8]) -> bool {
    if !head.starts_with(PREFACE) {
        return false;
    }
    let Some(mut frames) = head.get_mut(PREFACE.len()..) else { return false };
    while !frames.is_empty() {
        let Some(([high, middle, low, _, _, stream @ ..], _)) = frames.split_first_chunk_mut::<HEADER>()
        else {
            return false;
        };
        if *stream != [0; 4] {
            *stream = FIRST;
        }
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        let Some(rest) = frames.get_mut(HEADER + length..) else { return false };
        frames = rest;
    }
    true
}

/// Whether `head` begins with the connection preface.
#[inline]
pub fn is_http2(head: &[u8]) -> bool {
    head.starts_with(PREFACE)
}

/// The stream number in the head of a request. `None` if `head` is not a preface followed by a frame of a stream.
pub fn stream_of(head: &[u8]) -> Option<u32> {
    let mut frames = head.strip_prefix(PREFACE)?;
    loop {
        let ([high, middle, low, _, _, stream @ ..], rest) = frames.split_first_chunk::<HEADER>()?;
        if *stream != [0; 4] {
            return Some(u32::from_be_bytes(*stream));
        }
        frames = rest.get(u32::from_be_bytes([0, *high, *middle, *low]) as usize..)?;
    }
}

// Types of frames (RFC 9113, section 6).
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// The error code of a stream that was closed before anything was processed (RFC 9113, section 7).
const REFUSED_STREAM: u32 = 7;

/// The reserved bit in front of a stream number (RFC 9113, section 4.1).
const RESERVED: u32 = 1 << 31;

/// How many bytes of a payload are read: all of RST_STREAM, and the two numbers of GOAWAY.
const PAYLOAD: usize = 8;

/// What a server has said about the streams of a connection. It is read from the server's frames, in pieces of any size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The beginning of the current frame, of which `length` bytes have come.
    frame: [u8; HEADER + PAYLOAD],
    length: usize,
    /// How many more bytes of the frame are to be skipped.
    left: usize,
    /// The last stream that the server may have processed, if a GOAWAY has come.
    last: Option<u32>,
    /// The stream that the server has refused by RST_STREAM.
    refused: Option<u32>,
    /// Whether another frame of a stream has come, or a malformed GOAWAY or RST_STREAM.
    answered: bool,
}

impl Heard {
    /// Reads the next bytes.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.frame.get_mut(self.length) {
                *place = *byte;
            }
            self.length += 1;
            bytes = rest;
            if self.length >= HEADER && self.length == HEADER + self.wanted() {
                self.end_of_frame();
            }
        }
    }

    /// How many bytes of the current payload are read.
    fn wanted(&self) -> usize {
        match self.kind() {
            RST_STREAM | GOAWAY => self.payload_length().min(PAYLOAD),
            _ => 0,
        }
    }

    /// The type of the current frame.
    fn kind(&self) -> u8 {
        self.frame[3]
    }

    fn payload_length(&self) -> usize {
        self.number(0) as usize >> 8
    }

    /// The 32-bit number at an offset in the current frame.
    fn number(&self, at: usize) -> u32 {
        let bytes = self.frame.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn end_of_frame(&mut self) {
        let stream = self.number(5) & !RESERVED;
        let first = self.number(HEADER);
        match (self.kind(), self.payload_length(), stream) {
            (GOAWAY, PAYLOAD.., 0) => {
                // A further GOAWAY may only lower the number (RFC 9113, section 6.8).
                let last = first & !RESERVED;
                self.last = Some(self.last.map_or(last, |before| before.min(last)));
            }
            (RST_STREAM, 4, 1..) if first == REFUSED_STREAM => self.refused = Some(stream),
            (GOAWAY | RST_STREAM, ..) | (_, _, 1..) => self.answered = true,
            (_, _, 0) => {}
        }
        self.left = self.payload_length() - self.wanted();
        self.length = 0;
    }

    /// Whether the server has not processed this stream, and will not.
    pub fn refuses(&self, stream: u32) -> bool {
        !self.answered && (self.refused == Some(stream) || self.last.is_some_and(|last| last < stream))
    }

    /// Whether a GOAWAY has come: the server will process no further stream.
    pub fn has_goaway(&self) -> bool {
        self.last.is_some()
    }

    /// Whether all frames so far are about the connection, not about a stream.
    pub fn is_about_connection(&self) -> bool {
        !self.answered && self.refused.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 4], &stream.to_be_bytes(), payload].concat()
    }

    fn head(stream: u32) -> Vec<u8> {
        let frames = [
            frame(4, 0, &[0; 6]),
            frame(8, 0, &[1; 4]),
            frame(1, stream, &[2; 300]),
            frame(9, stream, b""),
            frame(9, stream, &[0, 0, 0, 7]),
        ];
        [PREFACE, &frames.concat()].concat()
    }

    #[test]
    fn the_header_gets_the_first_number_and_the_connection_keeps_its_own() {
        for stream in [1, 3, 5, 0x7fff_ffff] {
            let mut head_of_stream = head(stream);
            assert!(number_as_first(&mut head_of_stream));
            assert_eq!(head_of_stream, head(1));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let whole = head(3);
        let boundaries = (0..=whole.len()).filter(|end| number_as_first(&mut whole[..*end].to_vec()));
        let frames = [24, 24 + 15, 24 + 15 + 13, 24 + 15 + 13 + 309, whole.len() - 13, whole.len()];
        assert_eq!(boundaries.collect::<Vec<_>>(), frames);
        assert!(!number_as_first(b"POST / HTTP/1.1\r\n\r\n".to_vec().as_mut_slice()));
    }

    #[test]
    fn the_stream_is_that_of_the_header() {
        for stream in [1, 3, 0x7fff_ffff] {
            assert_eq!(stream_of(&head(stream)), Some(stream));
        }
        assert_eq!(stream_of(&head(3)[..24 + 15 + 13]), None);
        assert_eq!(stream_of(b"POST / HTTP/1.1\r\n\r\n"), None);
        assert!(is_http2(&head(1)) && !is_http2(b"PRI * HTTP/2.0\r\n\r\n"));
    }

    fn goaway(last: u32, debug: &[u8]) -> Vec<u8> {
        frame(GOAWAY, 0, &[&last.to_be_bytes()[..], &[0; 4], debug].concat())
    }

    fn reset(stream: u32, code: u32) -> Vec<u8> {
        frame(RST_STREAM, stream, &code.to_be_bytes())
    }

    fn heard(frames: &[Vec<u8>]) -> Heard {
        let mut heard = Heard::default();
        heard.read(&frames.concat());
        heard
    }

    #[test]
    fn both_say_that_nothing_was_done() {
        let settings = frame(4, 0, &[1; 12]);
        for frames in [
            vec![goaway(1, b"")],
            vec![settings.clone(), goaway(1, b"a reason of some length")],
            vec![goaway(0x7fff_ffff, b""), frame(6, 0, &[0; 8]), goaway(1 | RESERVED, b"")],
            vec![goaway(1, b""), goaway(5, b"")],
            vec![settings, reset(3, REFUSED_STREAM)],
            vec![frame(0xfb, 0, &[7; 300]), reset(3, REFUSED_STREAM), goaway(3, b"")],
        ] {
            assert!(heard(&frames).refuses(3), "{frames:?}");
            assert!(!heard(&frames).refuses(1), "{frames:?}");
        }
    }

    #[test]
    fn what_may_have_been_processed_is_not_refused() {
        let answer = frame(1, 3, &[0x88]);
        for frames in [
            vec![],
            vec![goaway(3, b"")],
            vec![goaway(0x7fff_ffff, b"")],
            vec![reset(3, 8)],
            vec![reset(3, 0)],
            vec![reset(1, REFUSED_STREAM)],
            vec![answer.clone(), goaway(1, b"")],
            vec![answer, reset(3, REFUSED_STREAM)],
            vec![frame(8, 3, &[0, 0, 1, 0]), goaway(1, b"")],
            vec![frame(GOAWAY, 3, &[0; 8])],
            vec![frame(GOAWAY, 0, &[0; 7])],
            vec![frame(RST_STREAM, 3, &[0, 0, 0, 7, 0])],
            vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), goaway(1, b"")],
        ] {
            assert!(!heard(&frames).refuses(3), "{frames:?}");
        }
    }

    #[test]
    fn only_frames_of_the_connection_are_no_answer() {
        let about = [frame(4, 0, &[1; 6]), frame(6, 0, &[0; 8]), frame(8, 0, &[0, 0, 1, 0]), goaway(9, b"")];
        assert!(heard(&about).is_about_connection());
        assert!(heard(&about).has_goaway() && !heard(&about[..3]).has_goaway());
        for of_a_stream in [frame(8, 1, &[0; 4]), frame(1, 3, &[0x88]), reset(3, 7), reset(3, 2)] {
            assert!(!heard(&[of_a_stream]).is_about_connection());
        }
    }

    #[test]
    fn pieces_say_what_the_whole_says() {
        let frames =
            [frame(4, 0, &[1; 12]), goaway(1, b"why"), reset(5, REFUSED_STREAM), frame(6, 0, &[0; 8])];
        let bytes = frames.concat();
        let whole = heard(&frames);
        for size in 1..=bytes.len() {
            let mut in_pieces = Heard::default();
            bytes.chunks(size).for_each(|piece| in_pieces.read(piece));
            assert_eq!(in_pieces, whole, "{size}");
        }
        for end in 0..bytes.len() {
            let mut in_two = Heard::default();
            in_two.read(&bytes[..end]);
            in_two.read(&bytes[end..]);
            assert_eq!(in_two, whole, "{end}");
        }
    }
}
