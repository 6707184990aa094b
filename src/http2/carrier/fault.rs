//! What ends a stream, and what ends the whole carrier. Each text names the section of RFC 9113.
#![forbid(unsafe_code)]

use std::fmt;

use super::frame::{
    name_of, CONTINUATION, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, NO_ERROR, PROTOCOL_ERROR,
};
use crate::http2::request::Unfit;
use crate::http2::response::Malformed;

/// What ends a carrier and all of its streams: a connection error of the server (RFC 9113, section 5.4.1), or silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first frame is not SETTINGS: an HTTP/1.1 server, for example.
    NotHttp2,
    /// A frame of this type is longer than the limit, which is never raised.
    TooLong(u8),
    /// A frame of this type has a length that it cannot have.
    Length(u8),
    /// A frame of this type is about a stream and should be about the connection, or the reverse.
    StreamNumber(u8),
    /// A frame of this type is about a stream that was never opened.
    Idle(u8),
    /// A frame of this type came where CONTINUATION should, or CONTINUATION of another stream, or without a beginning.
    Continuation(u8),
    /// A header block in too many frames.
    Continuations,
    /// The padding of a frame of this type is longer than the frame.
    Padding(u8),
    /// PUSH_PROMISE, although it was refused.
    Push,
    /// This setting has a value that it cannot have.
    Setting(u16),
    /// SETTINGS_INITIAL_WINDOW_SIZE above 2^31 - 1, or a stream's window is above it afterwards.
    InitialWindow,
    /// WINDOW_UPDATE by 0 for the connection.
    NoIncrement,
    /// WINDOW_UPDATE that takes the connection's window above 2^31 - 1.
    WindowOverflow,
    /// The server has sent more than the connection's window allows.
    WindowExceeded,
    /// Too many frames that ask for an answer or do nothing.
    Flood,
    /// The server asks, but does not read the answers.
    Unread,
    /// The server did not answer in time.
    NoAnswer,
    /// The server does not let anything be sent, and nothing else moves.
    Stalled,
}

impl Fault {
    /// The code in GOAWAY (RFC 9113, section 7).
    pub fn code(self) -> u32 {
        match self {
            Self::TooLong(_) | Self::Length(_) => FRAME_SIZE_ERROR,
            Self::InitialWindow | Self::WindowOverflow | Self::WindowExceeded => FLOW_CONTROL_ERROR,
            Self::Continuations | Self::Flood | Self::Unread => ENHANCE_YOUR_CALM,
            Self::NoAnswer | Self::Stalled => NO_ERROR,
            _ => PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotHttp2 => {
                to.write_str("does not speak HTTP/2: its first frame is not SETTINGS (RFC 9113, section 3.4)")
            }
            Self::TooLong(kind) => {
                write!(to, "{} frame above 16384 bytes (RFC 9113, section 4.2)", name_of(kind))
            }
            Self::Length(kind) => {
                write!(to, "invalid length of {} frame (RFC 9113, section 4.2)", name_of(kind))
            }
            Self::StreamNumber(kind) => {
                write!(to, "{} frame with a wrong stream identifier (RFC 9113, section 6)", name_of(kind))
            }
            Self::Idle(kind) => {
                write!(to, "{} frame of a stream never opened (RFC 9113, section 5.1)", name_of(kind))
            }
            Self::Continuation(CONTINUATION) => {
                to.write_str("CONTINUATION frame without HEADERS (RFC 9113, section 6.10)")
            }
            Self::Continuation(kind) => {
                write!(to, "{} frame within a header block (RFC 9113, section 4.3)", name_of(kind))
            }
            Self::Continuations => to.write_str("header block in too many frames (RFC 9113, section 10.5.1)"),
            Self::Padding(kind) => {
                write!(
                    to,
                    "{} frame with more padding than it is long (RFC 9113, section 6.1)",
                    name_of(kind)
                )
            }
            Self::Push => to.write_str("PUSH_PROMISE frame that was not allowed (RFC 9113, section 8.4)"),
            Self::Setting(setting) => {
                write!(to, "invalid value of setting {setting} (RFC 9113, section 6.5.2)")
            }
            Self::InitialWindow => to.write_str("initial window above 2^31-1 (RFC 9113, section 6.9.2)"),
            Self::NoIncrement => to.write_str("WINDOW_UPDATE frame by 0 (RFC 9113, section 6.9)"),
            Self::WindowOverflow => to.write_str("connection window above 2^31-1 (RFC 9113, section 6.9.1)"),
            Self::WindowExceeded => {
                to.write_str("more DATA than the connection window (RFC 9113, section 6.9.1)")
            }
            Self::Flood => to.write_str("too many frames without progress (RFC 9113, section 10.5)"),
            Self::Unread => to.write_str("does not read what it asks for (RFC 9113, section 10.5)"),
            Self::NoAnswer => to.write_str("does not answer PING in time (RFC 9113, section 6.7)"),
            Self::Stalled => to.write_str("keeps the connection window at 0 (RFC 9113, section 5.2)"),
        }
    }
}

/// What ends one stream. All others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server has not processed anything of the request and will not (RFC 9113, section 8.7): any request may be sent again.
    Refused,
    /// The server has reset the stream, with this code (RFC 9113, section 7).
    Reset(u32),
    /// The response is malformed (RFC 9113, section 8.1.1).
    Malformed(Malformed),
    /// The request cannot be a stream. Nothing of it was sent.
    Unfit(Unfit),
    /// The request's body is malformed, or longer than announced.
    Upload,
    /// What nginx's module wrote is not the frames of one request.
    Passage,
    /// The server has sent more than the stream's window allows.
    WindowExceeded,
    /// WINDOW_UPDATE by 0, or to above 2^31 - 1.
    WindowUpdate,
    /// A header block above 64 KB, or too many of them.
    Headers,
    /// There is no memory for what the server sends.
    NoMemory,
    /// The carrier has ended.
    Lost,
    /// The key is of no open stream, or its owner has reset it.
    NotOpen,
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => to.write_str("stream not processed (RFC 9113, section 8.7)"),
            Self::Reset(code) => write!(to, "stream reset with code {code} (RFC 9113, section 6.4)"),
            Self::Malformed(malformed) => malformed.fmt(to),
            Self::Unfit(unfit) => unfit.fmt(to),
            Self::Upload => to.write_str("invalid request body (RFC 9113, section 8.1.1)"),
            Self::Passage => to.write_str("invalid frames of the request (RFC 9113, section 8.1)"),
            Self::WindowExceeded => {
                to.write_str("more DATA than the stream window (RFC 9113, section 6.9.1)")
            }
            Self::WindowUpdate => to.write_str("invalid WINDOW_UPDATE of a stream (RFC 9113, section 6.9)"),
            Self::Headers => to.write_str("header blocks too large or too many (RFC 9113, section 10.5.1)"),
            Self::NoMemory => to.write_str("no memory for the response"),
            Self::Lost => to.write_str("connection lost (RFC 9113, section 5.4.1)"),
            Self::NotOpen => to.write_str("stream not open (RFC 9113, section 5.1)"),
        }
    }
}
