//! All limits of a carrier, and the budget of frames that make no progress.
#![forbid(unsafe_code)]

use crate::base::clock::Msec;
use crate::http2::hpack;

/// How much of a server's response may wait for its reader, in bytes, before the stream is known to be read quickly. It is
/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(super) const SMALL_WINDOW: u32 = 1 << 16;

/// The same for a stream that is read as quickly as it comes: 50 ms at 100 Mbit/s are 625 KB.
pub(super) const LARGE_WINDOW: u32 = 1 << 20;

/// How much the windows of all streams together may be above [`SMALL_WINDOW`] each, in bytes.
pub(super) const GROWTH: u32 = 1 << 24;

/// The connection's window, in bytes. It is credited on arrival, so it does not depend on readers.
pub(super) const CONNECTION_WINDOW: u32 = 1 << 24;

/// The limit of a response's header list, in bytes (RFC 9113, section 6.5.2), of its fields, and of its header block.
pub(super) const HEADER_LIST: usize = 1 << 16;

/// The limits of header blocks.
pub(super) const FIELDS: hpack::Limits = hpack::Limits { fields: 500, bytes: HEADER_LIST };

/// How many CONTINUATION frames a header block may have.
pub(super) const CONTINUATIONS: u32 = 32;

/// How many header blocks a response may have: interim responses, the response, trailers.
pub(super) const BLOCKS: u8 = 16;

/// How many streams are opened before the server has announced its limit: the request that has opened the connection. If the
/// server ends it at once, or speaks another protocol, no other request is affected.
pub(super) const GUESS: u32 = 1;

/// How much memory a stream keeps for the next one in its place, in bytes.
pub(super) const KEPT: usize = 1 << 16;

/// The most that one stream sends while others wait for the connection's window, in bytes.
pub(super) const TURN: i64 = 1 << 14;

/// How much must be free in the output before DATA is written, in bytes: small frames cost more than they carry.
pub(super) const LEAST_ROOM: usize = 2048;

/// The most frames without progress in a burst.
const BURST: u32 = 1000;

/// How many milliseconds allow one more such frame.
const REFILL: Msec = 20;

/// How much DATA, in bytes, allows one more such frame: a WINDOW_UPDATE, for example.
const DATA_REFILL: usize = 256;

/// An interim response counts as so many frames without progress.
pub(super) const INTERIM: u32 = 20;

/// How many frames without progress the server may still send: PING, SETTINGS, RST_STREAM, WINDOW_UPDATE, PRIORITY, unknown
/// ones, empty DATA, and frames of closed streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    left: u32,
    refilled: Msec,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { left: BURST, refilled: 0 }
    }

    /// Time allows some more.
    #[inline]
    pub(super) fn refill(&mut self, now: Msec) {
        if self.left >= BURST {
            self.refilled = now;
            return;
        }
        let more = now.wrapping_sub(self.refilled) / REFILL;
        if more > 0 {
            self.refilled = now;
            self.left = self.left.saturating_add(u32::try_from(more).unwrap_or(BURST)).min(BURST);
        }
    }

    /// A header block was sent or has come.
    #[inline]
    pub(super) fn block(&mut self) {
        self.left = self.left.saturating_add(4).min(BURST);
    }

    /// So much DATA was sent or has come.
    #[inline]
    pub(super) fn data(&mut self, bytes: usize) {
        let more = 1 + (bytes / DATA_REFILL) as u32;
        self.left = self.left.saturating_add(more).min(BURST);
    }

    /// Frames without progress have come. `None` if they are too many.
    #[inline]
    pub(super) fn spend(&mut self, frames: u32) -> Option<()> {
        self.left = self.left.checked_sub(frames)?;
        Some(())
    }
}
