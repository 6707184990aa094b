//! Frames: their header, types, flags, and the codes of errors (RFC 9113, sections 4.1, 6 and 7).
#![forbid(unsafe_code)]

/// The connection preface (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame header, in bytes (RFC 9113, section 4.1).
pub(super) const HEADER: usize = 9;

/// The longest payload that either side sends, in bytes: the smallest limit that there is (RFC 9113, section 4.2).
pub(super) const LONGEST: usize = 1 << 14;

/// The largest window, and the largest number of a stream (RFC 9113, sections 5.1.1 and 6.9.1).
pub(super) const LARGEST: u32 = (1 << 31) - 1;

/// The windows before anything was said about them (RFC 9113, section 6.9.2).
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// In SETTINGS and PING: what was asked for.
pub(super) const ACK: u8 = 1;
/// In DATA and HEADERS: the last frame of this side.
pub(super) const END_STREAM: u8 = 1;
/// In HEADERS and CONTINUATION: the last frame of the block.
pub(super) const END_HEADERS: u8 = 4;
/// In DATA and HEADERS: the payload begins with the length of the padding, and ends with the padding.
pub(super) const PADDED: u8 = 8;
/// In HEADERS: five bytes about the priority stand before the block.
pub(super) const PRIORITIZED: u8 = 32;

// Codes of errors (RFC 9113, section 7).
pub(super) const NO_ERROR: u32 = 0;
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const INTERNAL_ERROR: u32 = 2;
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const FRAME_SIZE_ERROR: u32 = 6;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// The name of a type of frame.
pub(super) fn name_of(kind: u8) -> &'static str {
    match kind {
        DATA => "DATA",
        HEADERS => "HEADERS",
        PRIORITY => "PRIORITY",
        RST_STREAM => "RST_STREAM",
        SETTINGS => "SETTINGS",
        PUSH_PROMISE => "PUSH_PROMISE",
        PING => "PING",
        GOAWAY => "GOAWAY",
        WINDOW_UPDATE => "WINDOW_UPDATE",
        CONTINUATION => "CONTINUATION",
        _ => "unknown",
    }
}

/// A frame header (RFC 9113, section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// The length of the payload, in bytes.
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// 0 for the connection.
    pub(super) stream: u32,
}

impl Header {
    /// Reads a header. The reserved bit is ignored.
    #[inline]
    pub(super) fn read(bytes: &[u8; HEADER]) -> Self {
        let [high, middle, low, kind, flags, stream @ ..] = *bytes;
        Self {
            length: u32::from_be_bytes([0, high, middle, low]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & LARGEST,
        }
    }

    /// The header as it is sent. The length is at most 2^24 - 1.
    #[inline]
    pub(super) fn bytes(self) -> [u8; HEADER] {
        let [_, high, middle, low] = (self.length as u32).to_be_bytes();
        let [a, b, c, d] = self.stream.to_be_bytes();
        [high, middle, low, self.kind, self.flags, a, b, c, d]
    }

    #[inline]
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
