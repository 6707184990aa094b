//! Why a response is malformed, or cannot be passed on.
#![forbid(unsafe_code)]

use std::fmt;

use crate::http2::hpack::Fault;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The header block cannot be decoded, or is too large.
    Block(Fault),
    /// `:status` is missing, is not the first field, or is not a number from 100 to 599.
    Status,
    /// Another pseudo-header field.
    Pseudo,
    /// A name is not a token in lower case.
    Name,
    /// A value has a control character, or a blank at an end.
    Value,
    /// A field about an HTTP/1 connection.
    Connection,
    /// The status 101, which HTTP/2 does not have.
    SwitchingProtocols,
    /// A `Content-Length` that is no number, or two that differ.
    Length,
    /// The content has another length than `Content-Length` says.
    ContentLength,
    /// Content of a response that has none: to HEAD, or with the status 204 or 304.
    NoContent,
    /// Content before the header.
    EarlyData,
    /// The stream has ended before the header.
    EarlyEnd,
    /// A second header block that does not end the stream.
    Trailers,
    /// Something follows the end of the stream.
    Ended,
    /// There is no memory for the response.
    NoMemory,
}

impl From<Fault> for Malformed {
    fn from(fault: Fault) -> Self {
        Self::Block(fault)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Block(fault) => return fault.fmt(to),
            Self::Status => "missing or invalid \":status\" (RFC 9113, section 8.3.2)",
            Self::Pseudo => "unexpected pseudo-header field (RFC 9113, section 8.3)",
            Self::Name => "invalid field name (RFC 9113, section 8.2.1)",
            Self::Value => "invalid field value (RFC 9113, section 8.2.1)",
            Self::Connection => "connection-specific field (RFC 9113, section 8.2.2)",
            Self::SwitchingProtocols => "status 101 (RFC 9113, section 8.6)",
            Self::Length => "invalid or different \"content-length\" (RFC 9113, section 8.1.1)",
            Self::ContentLength => {
                "length of the content is not \"content-length\" (RFC 9113, section 8.1.1)"
            }
            Self::NoContent => "content in a response that has none (RFC 9110, section 6.4.1)",
            Self::EarlyData => "DATA before the header (RFC 9113, section 8.1)",
            Self::EarlyEnd => "END_STREAM before the header (RFC 9113, section 8.1)",
            Self::Trailers => "trailers without END_STREAM (RFC 9113, section 8.1)",
            Self::Ended => "frame after END_STREAM (RFC 9113, section 5.1)",
            Self::NoMemory => "no memory",
        })
    }
}
