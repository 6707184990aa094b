//! The messages between workers.
//!
//! ```text
//!   version (2 bytes) | kind (1) | flags (1) | worker (4) | generation (8) | fields by kind
//!
//!   Connection   question (4) | transfer (8) | requests (8) | opened (8) | deadline (8) | allowed (4) | round trip (2) | key
//!   Question     question (4) | key
//!   Nothing      question (4)
//!   Heir         process (8)
//!
//!   key          number of the upstream (4) | location (8) | offset (8)
//!                | name of the upstream, address, module, identity: each a length (2) and bytes
//! ```
//!
//! Numbers are little-endian. A text has the bytes of the configuration, and no number is an address of one process, except
//! for the location: it has a meaning only among workers of the same configuration, which are copies of one process.
#![forbid(unsafe_code)]

use crate::base::address::MAX_ADDRESS;
use crate::base::clock::Msec;

/// The version of the format. A message of another version is ignored.
pub const VERSION: u16 = 2;

/// The size of a buffer for any message, in bytes. A connection whose description does not fit is not handed over.
pub const MAX_MESSAGE: usize = 1024;

/// The longest name of an upstream, the longest name of a module, and the longest identity, in bytes.
pub const MAX_TEXT: usize = 512;

/// A message, and who has sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The configuration of the sender: a later one has a larger number.
    pub generation: u64,
    /// The number of the sender.
    pub worker: u32,
    /// What it says.
    pub body: Body<'a>,
}

/// The contents of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// An idle connection, whose descriptor comes with the message.
    Connection(Parcel<'a>),
    /// Has the receiver an idle connection with this key?
    Question {
        /// The number of the question.
        question: u32,
        /// The key of the connection.
        key: PortableKey<'a>,
    },
    /// The receiver has asked for a connection, and there is none. The number 0 is no answer: the sender can be asked from now on.
    Nothing {
        /// The number of the question.
        question: u32,
        /// The sender exits, and need not be asked again: it sends its connections by itself.
        is_last: bool,
    },
    /// The sender takes the idle connections of the receiver. The descriptor of its inbox comes with the message.
    Heir {
        /// The process of the worker, as [`crate::ledger`] names processes.
        process: u64,
    },
}

/// What a connection can be used for, in a form that has the same meaning in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortableKey<'a> {
    /// The name of the upstream.
    pub upstream: &'a [u8],
    /// The number of the upstream in the configuration of the sender: where the receiver looks first.
    pub number: u32,
    /// The address of the server.
    pub address: &'a [u8],
    /// The name of the protocol module.
    pub module: &'a [u8],
    /// Where the module's function is that writes requests, relative to the module: two protocols of a module have different
    /// functions, and another build of the module can have it elsewhere.
    pub offset: i64,
    /// With `local` a number for the location, otherwise 0.
    pub location: u64,
    /// The other parts of the identity: see [`crate::reuse::identity`].
    pub identity: &'a [u8],
}

/// A connection on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel<'a> {
    /// What it can be used for.
    pub key: PortableKey<'a>,
    /// The question that it answers; 0 for none.
    pub question: u32,
    /// Its number in the ledger, if the number of connections to the server is limited: see [`crate::ledger`]; otherwise 0.
    pub transfer: u64,
    /// How many requests were sent on it.
    pub requests: u64,
    /// When it was opened. All times are in milliseconds of the system's monotonic clock.
    pub opened: Msec,
    /// Since when it is idle.
    pub since: Msec,
    /// When it would have been closed.
    pub deadline: Msec,
    /// It would have been closed then because the server would close it.
    pub hinted: bool,
    /// The number of the last request that the server accepts on it; `u32::MAX` if the server has not said that.
    pub allowed: u32,
    /// The time of a round trip, in milliseconds; 0 if it was not measured.
    pub round_trip: u16,
    /// It has been reused at least once.
    pub reused: bool,
    /// The option TCP_NODELAY is set.
    pub nodelay: bool,
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It has another version.
    Version,
    /// It is none of the messages above, or is too short or too long.
    Malformed,
}

const CONNECTION: u8 = 1;
const QUESTION: u8 = 2;
const NOTHING: u8 = 3;
const HEIR: u8 = 4;

// The flags of a connection.
const REUSED: u8 = 1;
const NODELAY: u8 = 2;
const HINTED: u8 = 4;

/// The flag of [`Body::Nothing`].
const LAST: u8 = 1;

impl<'a> Message<'a> {
    /// Writes the message. `None` if it does not fit.
    pub fn write<'b>(&self, buffer: &'b mut [u8; MAX_MESSAGE]) -> Option<&'b [u8]> {
        let mut writer = Writer { buffer, at: 0 };
        let (kind, flags) = match &self.body {
            Body::Connection(parcel) => (CONNECTION, parcel.flags()),
            Body::Question { .. } => (QUESTION, 0),
            Body::Nothing { is_last, .. } => (NOTHING, if *is_last { LAST } else { 0 }),
            Body::Heir { .. } => (HEIR, 0),
        };
        writer.bytes(&VERSION.to_le_bytes())?;
        writer.bytes(&[kind, flags])?;
        writer.bytes(&self.worker.to_le_bytes())?;
        writer.bytes(&self.generation.to_le_bytes())?;
        match &self.body {
            Body::Connection(parcel) => writer.parcel(parcel)?,
            Body::Question { question, key } => {
                writer.bytes(&question.to_le_bytes())?;
                writer.key(key)?;
            }
            Body::Nothing { question, .. } => writer.bytes(&question.to_le_bytes())?,
            Body::Heir { process } => writer.bytes(&process.to_le_bytes())?,
        }
        let length = writer.at;
        buffer.get(..length)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        if reader.array().map(u16::from_le_bytes)? != VERSION {
            return Err(Unreadable::Version);
        }
        let [kind, flags] = reader.array()?;
        let worker = u32::from_le_bytes(reader.array()?);
        let generation = u64::from_le_bytes(reader.array()?);
        let body = match kind {
            CONNECTION => Body::Connection(reader.parcel(flags)?),
            QUESTION => Body::Question { question: u32::from_le_bytes(reader.array()?), key: reader.key()? },
            NOTHING => {
                Body::Nothing { question: u32::from_le_bytes(reader.array()?), is_last: flags == LAST }
            }
            HEIR => Body::Heir { process: u64::from_le_bytes(reader.array()?) },
            _ => return Err(Unreadable::Malformed),
        };
        let knows_flags = match kind {
            CONNECTION => true,
            NOTHING => flags <= LAST,
            _ => flags == 0,
        };
        (reader.0.is_empty() && knows_flags)
            .then_some(Self { generation, worker, body })
            .ok_or(Unreadable::Malformed)
    }
}

impl Parcel<'_> {
    fn flags(&self) -> u8 {
        let flag = |set, flag| if set { flag } else { 0 };
        flag(self.reused, REUSED) | flag(self.nodelay, NODELAY) | flag(self.hinted, HINTED)
    }
}

struct Writer<'a> {
    buffer: &'a mut [u8; MAX_MESSAGE],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        self.buffer.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }

    fn text(&mut self, text: &[u8]) -> Option<()> {
        let length = u16::try_from(text.len()).ok().filter(|length| usize::from(*length) <= MAX_TEXT)?;
        self.bytes(&length.to_le_bytes())?;
        self.bytes(text)
    }

    fn parcel(&mut self, parcel: &Parcel<'_>) -> Option<()> {
        self.bytes(&parcel.question.to_le_bytes())?;
        self.bytes(&parcel.transfer.to_le_bytes())?;
        self.bytes(&parcel.requests.to_le_bytes())?;
        for time in [parcel.opened, parcel.since, parcel.deadline] {
            self.bytes(&(time as u64).to_le_bytes())?;
        }
        self.bytes(&parcel.allowed.to_le_bytes())?;
        self.bytes(&parcel.round_trip.to_le_bytes())?;
        self.key(&parcel.key)
    }

    fn key(&mut self, key: &PortableKey<'_>) -> Option<()> {
        self.bytes(&key.number.to_le_bytes())?;
        self.bytes(&key.location.to_le_bytes())?;
        self.bytes(&key.offset.to_le_bytes())?;
        [key.upstream, key.address, key.module, key.identity].into_iter().try_for_each(|text| self.text(text))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (array, others) = self.0.split_first_chunk().ok_or(Unreadable::Malformed)?;
        self.0 = others;
        Ok(*array)
    }

    fn text(&mut self, longest: usize) -> Result<&'a [u8], Unreadable> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (text, others) = self.0.split_at_checked(length).ok_or(Unreadable::Malformed)?;
        self.0 = others;
        (length <= longest).then_some(text).ok_or(Unreadable::Malformed)
    }

    fn time(&mut self) -> Result<Msec, Unreadable> {
        Msec::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| Unreadable::Malformed)
    }

    fn parcel(&mut self, flags: u8) -> Result<Parcel<'a>, Unreadable> {
        if flags & !(REUSED | NODELAY | HINTED) != 0 {
            return Err(Unreadable::Malformed);
        }
        let question = u32::from_le_bytes(self.array()?);
        let transfer = u64::from_le_bytes(self.array()?);
        let requests = u64::from_le_bytes(self.array()?);
        let (opened, since, deadline) = (self.time()?, self.time()?, self.time()?);
        Ok(Parcel {
            question,
            transfer,
            requests,
            opened,
            since,
            deadline,
            hinted: flags & HINTED != 0,
            allowed: u32::from_le_bytes(self.array()?),
            round_trip: u16::from_le_bytes(self.array()?),
            key: self.key()?,
            reused: flags & REUSED != 0,
            nodelay: flags & NODELAY != 0,
        })
    }

    fn key(&mut self) -> Result<PortableKey<'a>, Unreadable> {
        Ok(PortableKey {
            number: u32::from_le_bytes(self.array()?),
            location: u64::from_le_bytes(self.array()?),
            offset: i64::from_le_bytes(self.array()?),
            upstream: self.text(MAX_TEXT)?,
            address: self.text(MAX_ADDRESS)?,
            module: self.text(MAX_TEXT)?,
            identity: self.text(MAX_TEXT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PortableKey<'static> {
        PortableKey {
            upstream: b"backend",
            number: 3,
            address: b"\x02\0\x1f\x90\x0a\0\0\x01\0\0\0\0\0\0\0\0",
            module: b"ngx_http_proxy_module",
            offset: -123_456,
            location: 0,
            identity: b"",
        }
    }

    fn parcel() -> Parcel<'static> {
        Parcel {
            key: key(),
            question: 7,
            transfer: 1 << 40,
            requests: 12,
            opened: 1000,
            since: 1500,
            deadline: 9000,
            hinted: true,
            allowed: u32::MAX,
            round_trip: 2,
            reused: true,
            nodelay: false,
        }
    }

    fn all() -> [Body<'static>; 6] {
        [
            Body::Connection(parcel()),
            Body::Connection(Parcel { hinted: false, reused: false, nodelay: true, ..parcel() }),
            Body::Question {
                question: 9,
                key: PortableKey { location: u64::MAX, identity: b"\x01bind", ..key() },
            },
            Body::Nothing { question: u32::MAX, is_last: false },
            Body::Nothing { question: 0, is_last: true },
            Body::Heir { process: (1 << 40) | 77 },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for body in all() {
            let message = Message { generation: 1 << 50, worker: 4, body };
            let mut buffer = [0; MAX_MESSAGE];
            let written = message.write(&mut buffer).unwrap();
            assert_eq!(Message::read(written), Ok(message));
        }
    }

    #[test]
    fn a_message_that_is_cut_off_or_too_long_is_refused() {
        for body in all() {
            let message = Message { generation: 1, worker: 4, body };
            let mut buffer = [0; MAX_MESSAGE];
            let length = message.write(&mut buffer).unwrap().len();
            for cut in 0..length {
                assert_eq!(
                    Message::read(&buffer[..cut]),
                    Err(Unreadable::Malformed),
                    "{cut} bytes of {body:?}"
                );
            }
            assert_eq!(Message::read(&buffer[..=length]), Err(Unreadable::Malformed), "{body:?}");
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut buffer = [0; MAX_MESSAGE];
        let length = Message { generation: 1, worker: 4, body: Body::Heir { process: 1 } }
            .write(&mut buffer)
            .unwrap()
            .len();
        buffer[0] = VERSION as u8 + 1;
        assert_eq!(Message::read(&buffer[..length]), Err(Unreadable::Version));
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let long = [b'x'; MAX_TEXT + 1];
        let key = PortableKey { upstream: &long, ..key() };
        let mut buffer = [0; MAX_MESSAGE];
        let message = Message { generation: 1, worker: 0, body: Body::Question { question: 1, key } };
        assert_eq!(message.write(&mut buffer), None);
        let key = PortableKey { upstream: &long[1..], module: &long[1..], ..key };
        let message = Message { generation: 1, worker: 0, body: Body::Question { question: 1, key } };
        assert_eq!(message.write(&mut buffer), None, "two long texts do not fit either");
    }
}
