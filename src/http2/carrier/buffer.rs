//! What a stream has received and its reader has not read yet.
#![forbid(unsafe_code)]

use super::limits::KEPT;
use crate::http2::response::Sink;

/// Bytes in the order of their arrival. It grows as needed, and keeps up to 64 KB for the next stream.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// How many of them were read.
    read: usize,
}

impl Buffer {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.read
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves bytes to a reader. Returns how many.
    #[inline]
    pub(super) fn read(&mut self, to: &mut [u8]) -> usize {
        let unread = &self.bytes[self.read..];
        let length = unread.len().min(to.len());
        to[..length].copy_from_slice(&unread[..length]);
        self.read += length;
        if self.read == self.bytes.len() {
            self.bytes.clear();
            self.read = 0;
        }
        length
    }

    /// The bytes that are not read yet.
    pub(super) fn unread_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.read..]
    }

    /// Forgets all bytes, for the next stream.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.read = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }

    /// Makes room for more bytes. What was read is removed once it is as much as the rest, so that each byte is moved at most once.
    #[cold]
    fn grow(&mut self, length: usize) -> Option<()> {
        if self.read >= self.len() {
            let unread = self.len();
            self.bytes.copy_within(self.read.., 0);
            self.bytes.truncate(unread);
            self.read = 0;
        }
        self.bytes.try_reserve(length).ok()
    }
}

impl Sink for Buffer {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            self.grow(bytes.len())?;
        }
        self.bytes.extend_from_slice(bytes);
        Some(())
    }
}
