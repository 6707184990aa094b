//! FastCGI: whether a connection is kept, and the records of a response, up to its end (FastCGI 1.0, sections 3.3, 5.1
//! and 5.5).
//!
//! ```text
//!   STDOUT   the header of the response, then its body  <--+
//!   STDERR   error messages of the application          <--+-- in any order, in any number
//!   END_REQUEST ----------------------------------------------> Done
//!
//!   each: Header --> Content(n) --> Padding(n) --> Header ..
//! ```
#![forbid(unsafe_code)]

/// Where the flags of a request are: after the header of its first record and the role.
const FLAGS: usize = 10;
const KEEP_CONN: u8 = 1;

const VERSION: u8 = 1;
/// The number of each request: nginx has one request at a time on a connection.
const REQUEST_ID: [u8; 2] = [0, 1];

const END_REQUEST: u8 = 3;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

const HEADER_LENGTH: u8 = 8;
/// The content of END_REQUEST: the application's status (4 bytes), the protocol's status, and 3 reserved bytes.
const END_LENGTH: u16 = 8;
/// Where the protocol's status is in it.
const PROTOCOL_STATUS: usize = 4;
const REQUEST_COMPLETE: u8 = 0;

/// Whether a request asks the server to close the connection after the response. `request` is its beginning.
pub fn asks_to_close(request: &[u8]) -> bool {
    request.get(FLAGS).is_some_and(|flags| flags & KEEP_CONN == 0)
}

/// How far the records of a response were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records {
    state: RecordState,
    /// The type of the current record, or between two records of the last one.
    kind: u8,
    /// The length of its padding.
    padding: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordState {
    /// The first `length` bytes of the header have come.
    Header { bytes: [u8; HEADER_LENGTH as usize], length: u8 },
    /// How many bytes of the content are missing.
    Content(u16),
    /// How many bytes of the padding are missing.
    Padding(u8),
    /// The request has ended.
    Done,
}

/// The records do not conform to FastCGI, or say that the request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRecord;

/// What the bytes were that [`Records::read`] consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    /// Bytes of headers and padding.
    pub framing: u64,
    /// Bytes of output that a header announced.
    pub announced: u64,
}

/// Before the header of the next record.
const NEXT: RecordState = RecordState::Header { bytes: [0; HEADER_LENGTH as usize], length: 0 };

impl Records {
    /// The state after `read`, which is all that nginx has read when the header of the response is complete. `None` if that
    /// does not end in or directly after a STDOUT record.
    pub fn behind(read: &[u8]) -> Option<Self> {
        let mut records = Self { state: NEXT, kind: 0, padding: 0 };
        let mut rest = read;
        while !rest.is_empty() {
            (_, rest) = records.read(rest).ok()?;
        }
        let is_within = !matches!(records.state, RecordState::Header { length: 1.., .. });
        (records.kind == STDOUT && is_within).then_some(records)
    }

    /// Consumes some of the bytes, at least one if there are any. Returns what they were, and the other bytes.
    ///
    /// # Errors
    /// [`InvalidRecord`] if the bytes are not valid here. After the end of the request no bytes are.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<(Consumed, &'a [u8]), InvalidRecord> {
        let mut taken = Consumed::default();
        let Some((first, behind)) = bytes.split_first() else { return Ok((taken, bytes)) };
        let rest = match self.state {
            RecordState::Done => return Err(InvalidRecord),
            RecordState::Header { bytes: mut header, length } => {
                *header.get_mut(usize::from(length)).ok_or(InvalidRecord)? = *first;
                self.state = RecordState::Header { bytes: header, length: length + 1 };
                taken.framing = 1;
                if length + 1 == HEADER_LENGTH {
                    taken.announced = self.header_read(header)?;
                }
                behind
            }
            RecordState::Content(missing) => {
                let (content, rest) = bytes.split_at(bytes.len().min(usize::from(missing)));
                if self.kind == END_REQUEST {
                    end_read(content, missing)?;
                }
                let length = u16::try_from(content.len()).unwrap_or(missing);
                self.content_missing(missing.saturating_sub(length));
                rest
            }
            RecordState::Padding(missing) => {
                let (padding, rest) = bytes.split_at(bytes.len().min(usize::from(missing)));
                taken.framing = padding.len() as u64;
                let length = u8::try_from(padding.len()).unwrap_or(missing);
                self.padding_missing(missing.saturating_sub(length));
                rest
            }
        };
        Ok((taken, rest))
    }

    /// How many bytes of the current record's content are missing.
    pub fn missing(&self) -> u64 {
        match self.state {
            RecordState::Content(missing) => missing.into(),
            _ => 0,
        }
    }

    /// Whether the request has ended.
    pub fn is_done(&self) -> bool {
        self.state == RecordState::Done
    }

    /// A header is complete. Returns the length of the output that follows.
    fn header_read(&mut self, header: [u8; HEADER_LENGTH as usize]) -> Result<u64, InvalidRecord> {
        let [version, kind, id_high, id_low, high, low, padding, _] = header;
        let length = u16::from_be_bytes([high, low]);
        let is_known = match kind {
            STDOUT | STDERR => true,
            END_REQUEST => length == END_LENGTH,
            _ => false,
        };
        if version != VERSION || [id_high, id_low] != REQUEST_ID || !is_known {
            return Err(InvalidRecord);
        }
        (self.kind, self.padding) = (kind, padding);
        self.content_missing(length);
        Ok(if kind == END_REQUEST { 0 } else { length.into() })
    }

    fn content_missing(&mut self, missing: u16) {
        match missing {
            0 => self.padding_missing(self.padding),
            _ => self.state = RecordState::Content(missing),
        }
    }

    fn padding_missing(&mut self, missing: u8) {
        self.state = match missing {
            0 if self.kind == END_REQUEST => RecordState::Done,
            0 => NEXT,
            _ => RecordState::Padding(missing),
        };
    }
}

/// Checks a part of the content of END_REQUEST, of which `missing` bytes were missing before it.
fn end_read(content: &[u8], missing: u16) -> Result<(), InvalidRecord> {
    let before = usize::from(END_LENGTH.saturating_sub(missing));
    let status = PROTOCOL_STATUS.checked_sub(before).and_then(|at| content.get(at));
    match status {
        Some(status) if *status != REQUEST_COMPLETE => Err(InvalidRecord),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record with this padding.
    pub(crate) fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
        let [high, low] = (content.len() as u16).to_be_bytes();
        let mut record = vec![VERSION, kind, 0, 1, high, low, padding, 0];
        record.extend(content);
        record.extend(vec![b'p'; padding.into()]);
        record
    }

    pub(crate) fn end() -> Vec<u8> {
        record(END_REQUEST, &[0; 8], 0)
    }

    /// The outcome of all bytes, read in pieces of this length.
    fn read(bytes: &[u8], pieces: usize) -> Result<Records, InvalidRecord> {
        let mut records = Records { state: NEXT, kind: 0, padding: 0 };
        for piece in bytes.chunks(pieces) {
            let mut rest = piece;
            while !rest.is_empty() {
                let before = rest.len();
                let (taken, behind) = records.read(rest)?;
                assert!(behind.len() < before, "it goes on");
                assert!(taken.framing <= (before - behind.len()) as u64);
                rest = behind;
            }
        }
        Ok(records)
    }

    fn is_whole(bytes: &[u8]) -> bool {
        let whole = read(bytes, usize::MAX);
        assert_eq!(read(bytes, 1), whole, "{bytes:?}");
        whole.is_ok_and(|records| records.is_done())
    }

    #[test]
    fn a_response_ends_with_its_request() {
        for padding in [0, 1, 7, 255] {
            let response = [
                record(STDERR, b"Notice", padding),
                record(STDOUT, b"Status: 200\r\n\r\nbody", padding),
                record(STDERR, b"", padding),
                record(STDOUT, b"", padding),
                record(END_REQUEST, &[0, 0, 0, 255, 0, 1, 2, 3], padding),
            ]
            .concat();
            assert!(is_whole(&response));
            for length in 0..response.len() {
                assert!(!is_whole(&response[..length]), "{length}");
                // At any point of a cut.
                let mut records = read(&response[..length], usize::MAX).unwrap();
                let mut rest = &response[length..];
                while !rest.is_empty() {
                    rest = records.read(rest).unwrap().1;
                }
                assert!(records.is_done());
                assert_eq!(records.read(b"\x01"), Err(InvalidRecord));
            }
        }
        assert!(is_whole(&end()));
    }

    #[test]
    fn what_is_no_record_of_the_response_is_refused() {
        let good = record(STDOUT, b"x", 0);
        for (at, byte) in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 5), (1, 11), (1, 255), (2, 1), (3, 0), (3, 2)]
        {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(read(&bad, 1), Err(InvalidRecord), "{at}, {byte}");
        }
        // The reserved byte is ignored.
        assert!(read(&[1, STDOUT, 0, 1, 0, 1, 0, 255, b'x'], 1).is_ok());
        for length in [0, 7, 9, 264] {
            assert_eq!(read(&record(END_REQUEST, &vec![0; length], 0), 1), Err(InvalidRecord), "{length}");
        }
    }

    #[test]
    fn a_request_that_was_not_served_is_refused() {
        for status in 1..=255 {
            let bytes = record(END_REQUEST, &[0, 0, 0, 0, status, 0, 0, 0], 3);
            for pieces in 1..20 {
                assert_eq!(read(&bytes, pieces), Err(InvalidRecord), "{status}");
            }
        }
    }

    #[test]
    fn it_is_told_how_much_comes() {
        let mut records = Records { state: NEXT, kind: 0, padding: 0 };
        let bytes = record(STDOUT, &[b'x'; 300], 4);
        let mut seen = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (taken, behind) = records.read(rest).unwrap();
            seen.push((taken.framing, taken.announced, records.missing()));
            rest = behind;
        }
        assert_eq!(seen[..7], [(1, 0, 0); 7]);
        assert_eq!(seen[7..], [(1, 300, 300), (0, 0, 0), (4, 0, 0)]);
    }

    #[test]
    fn nginx_stops_within_the_output() {
        let error = record(STDERR, b"Notice", 2);
        let output = record(STDOUT, b"Status: 200\r\n\r\nbody", 3);
        let all = [&error[..], &output].concat();
        // Within the content, at its end, or where its padding ends.
        for length in error.len() + 8..=all.len() {
            let records = Records::behind(&all[..length]).unwrap();
            assert_eq!(records.missing(), (all.len() - 3).saturating_sub(length) as u64, "{length}");
        }
        for length in 0..error.len() + 8 {
            assert_eq!(Records::behind(&all[..length]), None, "{length}");
        }
        assert_eq!(Records::behind(&[&all[..], &error].concat()), None);
        assert_eq!(Records::behind(&[&all[..], &end()].concat()), None);
        assert_eq!(Records::behind(b"Status: 200\r\n\r\n"), None);
    }

    #[test]
    fn a_request_says_what_becomes_of_the_connection() {
        let begin = |flags| [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, flags, 0, 0, 0, 0, 0];
        assert!(asks_to_close(&begin(0)) && asks_to_close(&begin(0xfe)));
        assert!(!asks_to_close(&begin(1)) && !asks_to_close(&begin(0xff)));
        assert!(!asks_to_close(b""));
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..8u8], 0..200), pieces in 1usize..20) {
            prop_assert_eq!(read(&bytes, pieces), read(&bytes, usize::MAX));
        }
    }
}
