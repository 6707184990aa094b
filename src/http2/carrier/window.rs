//! Windows (RFC 9113, section 5.2): how much may be sent, by the connection and by each stream, and how much may come.
//!
//! The connection's receiving window is credited on arrival, a stream's when its reader has read: a slow reader stalls itself only.
//! The connection's sending window is for all: a stream of which the server has not taken five eighths of it sends no more while
//! there are other streams. More than half is needed, as servers credit what they have read once it is half of the window.
#![forbid(unsafe_code)]

use super::frame::{DEFAULT_WINDOW, LARGEST};
use super::limits::{CONNECTION_WINDOW, GROWTH, LARGE_WINDOW, SMALL_WINDOW};

/// The windows of the connection, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    /// How much may be sent.
    pub(super) send: i64,
    /// The largest sending window that was seen.
    capacity: i64,
    /// How much was sent and not credited.
    outstanding: i64,
    /// How much may come.
    receive: u32,
    /// By how much the windows of streams are above the small one, together.
    growth: u32,
}

/// The windows of a stream, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    /// How much may be sent. Settings can make it negative.
    pub(super) send: i64,
    /// How much was sent and not credited.
    outstanding: i64,
    /// How much may come.
    receive: u32,
    /// How much has come and was not read.
    unread: u32,
    /// How much may come and be unread, together.
    size: u32,
}

impl Shared {
    pub(super) fn new() -> Self {
        let send = i64::from(DEFAULT_WINDOW);
        Self { send, capacity: send, outstanding: 0, receive: CONNECTION_WINDOW, growth: 0 }
    }

    /// The server allows more. `None` if that is too much.
    pub(super) fn credit(&mut self, more: u32) -> Option<()> {
        self.send += i64::from(more);
        self.outstanding = (self.outstanding - i64::from(more)).max(0);
        self.capacity = self.capacity.max(self.send);
        (self.send <= i64::from(LARGEST)).then_some(())
    }

    /// Whether nothing can be sent before the server allows more.
    #[inline]
    pub(super) fn is_used_up(&self) -> bool {
        self.send <= 0
    }

    /// DATA has come, with its padding. `None` if that is more than the window.
    #[inline]
    pub(super) fn arrived(&mut self, length: u32) -> Option<()> {
        self.receive = self.receive.checked_sub(length)?;
        Some(())
    }

    /// How much is to be credited to the server now: nothing until half of the window is used.
    #[inline]
    pub(super) fn owed(&self) -> Option<u32> {
        (self.receive <= CONNECTION_WINDOW / 2).then(|| CONNECTION_WINDOW - self.receive)
    }

    /// All that was owed was credited.
    pub(super) fn paid(&mut self) {
        self.receive = CONNECTION_WINDOW;
    }
}

impl Own {
    #[cfg(test)]
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// The windows of a new stream: before its number is known, nothing is allowed to be sent.
    pub(super) fn new() -> Self {
        Self { send: 0, outstanding: 0, receive: SMALL_WINDOW, unread: 0, size: SMALL_WINDOW }
    }

    /// Settings have changed the window. `None` if it is too large now.
    pub(super) fn change(&mut self, by: i64) -> Option<()> {
        self.send += by;
        (self.send <= i64::from(LARGEST)).then_some(())
    }

    /// The server allows more. `None` if that is too much.
    pub(super) fn credit(&mut self, more: u32) -> Option<()> {
        self.outstanding = (self.outstanding - i64::from(more)).max(0);
        self.change(i64::from(more))
    }

    /// How much the stream may send, of the connection's window and of its own.
    #[inline]
    pub(super) fn allows(&self, shared: &Shared, is_alone: bool) -> i64 {
        let share = if is_alone {
            i64::MAX
        } else {
            // What the stream has sent may be credited late, by its own window. It has been taken if the connection's is credited.
            shared.capacity / 8 * 5 - self.outstanding.min(shared.outstanding)
        };
        self.send.min(shared.send).min(share)
    }

    #[inline]
    pub(super) fn sent(&mut self, shared: &mut Shared, length: usize) {
        let length = length as i64;
        self.send -= length;
        self.outstanding += length;
        shared.send -= length;
        shared.outstanding += length;
    }

    /// DATA has come, with its padding. `None` if that is more than the window.
    #[inline]
    pub(super) fn arrived(&mut self, length: u32) -> Option<()> {
        self.receive = self.receive.checked_sub(length)?;
        Some(())
    }

    /// How much the server may have sent already.
    pub(super) fn may_come(&self) -> u64 {
        u64::from(self.receive)
    }

    /// Payload of DATA is kept for the reader.
    #[inline]
    pub(super) fn kept(&mut self, length: usize) {
        self.unread = self.unread.saturating_add(length as u32);
    }

    /// The reader has left so many bytes unread, among them all of the payload that it has not read.
    #[inline]
    pub(super) fn left(&mut self, unread: usize) {
        self.unread = self.unread.min(u32::try_from(unread).unwrap_or(u32::MAX));
    }

    /// How much is to be credited to the server now: nothing until half of the window is used and read, or a quarter of the largest
    /// one, which is for long round trips. If the reader has then read everything, the window is doubled.
    #[inline]
    pub(super) fn owed(&mut self, shared: &mut Shared) -> Option<u32> {
        let owed = self.size.saturating_sub(self.receive).saturating_sub(self.unread);
        let least = if self.size < LARGE_WINDOW { self.size / 2 } else { self.size / 4 };
        if owed < least {
            return None;
        }
        let is_read = self.unread == 0;
        if is_read && self.size < LARGE_WINDOW && shared.growth + self.size <= GROWTH {
            shared.growth += self.size;
            self.size *= 2;
            return Some(owed + self.size / 2);
        }
        Some(owed)
    }

    /// So much was credited.
    pub(super) fn paid(&mut self, owed: u32) {
        self.receive += owed;
    }

    /// The stream is over: its part of the growth is for others.
    #[inline]
    pub(super) fn end(&self, shared: &mut Shared) {
        shared.growth -= self.size - SMALL_WINDOW;
    }
}
