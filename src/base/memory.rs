//! Allocations that may fail. Whatever grows at run time, or with the configuration, grows by these functions. They return
//! `None` if there is no memory, where Rust's own containers would abort the process.
#![forbid(unsafe_code)]

use std::fmt;
use std::hint::black_box;

/// Appends an element. `None` if there is no memory.
pub fn push<T>(to: &mut Vec<T>, value: T) -> Option<()> {
    to.try_reserve(1).ok()?;
    to.push(value);
    Some(())
}

/// Collects an iterator that knows its length. `None` if there is no memory.
pub fn collect<T>(from: impl ExactSizeIterator<Item = T>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(from.len()).ok()?;
    all.extend(from);
    Some(all)
}

/// Copies bytes. `None` if there is no memory.
pub fn copy(bytes: &[u8]) -> Option<Vec<u8>> {
    collect(bytes.iter().copied())
}

/// Copies a text. `None` if there is no memory.
pub fn owned(text: &str) -> Option<String> {
    let mut copy = String::new();
    append(&mut copy, text)?;
    Some(copy)
}

/// Appends to a text. `None` if there is no memory.
pub fn append(to: &mut String, text: &str) -> Option<()> {
    to.try_reserve(text.len()).ok()?;
    to.push_str(text);
    Some(())
}

/// The size of the allocation by which [`is_spare`] probes, in bytes. No other allocation has this size.
pub const SPARE: usize = 4093;

/// Whether there is memory for a few small allocations that have no failing variant. The probe is freed at once, and the
/// C library serves small allocations from what was freed last.
pub fn is_spare() -> bool {
    let mut spare = Vec::<u8>::new();
    let is_there = spare.try_reserve_exact(SPARE).is_ok();
    // Otherwise the compiler may remove an allocation that nothing uses.
    black_box(&spare);
    is_there
}

/// A text that is written piece by piece. If there is no memory for a piece, that piece and all later ones are left out.
#[derive(Debug)]
pub struct Text {
    bytes: Vec<u8>,
    whole: bool,
}

impl Text {
    /// An empty text with a capacity of `room` bytes. `None` if there is no memory.
    pub fn new(room: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).ok()?;
        Some(Self { bytes, whole: true })
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.whole = self.whole && self.bytes.try_reserve(bytes.len()).is_ok();
        if self.whole {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Removes the last byte.
    pub fn pop(&mut self) {
        if self.whole {
            self.bytes.pop();
        }
    }

    /// Marks the text as incomplete: there was no memory to make the next piece.
    pub fn give_up(&mut self) {
        self.whole = false;
    }

    /// Empties the text and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.whole = true;
    }

    /// Whether no piece was left out.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes written so far, to be sent.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// Never returns an error: the JSON writer would allocate a copy of it, and there is no memory for that either.
impl std::io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_what_was_left_out() {
        let mut text = Text::new(8).unwrap();
        text.push(b"ab");
        text.pop();
        text.give_up();
        text.push(b"c");
        assert_eq!((text.bytes(), text.is_whole()), (&b"a"[..], false));
        text.clear();
        text.push(b"d");
        assert_eq!((text.bytes(), text.is_whole()), (&b"d"[..], true));
        assert!(Text::new(usize::MAX).is_none());
    }

    #[test]
    fn copies_are_equal() {
        assert_eq!((copy(b"ab").as_deref(), owned("é").as_deref()), (Some(&b"ab"[..]), Some("é")));
        assert_eq!(collect((0..3).map(|n| n + 1)), Some(vec![1, 2, 3]));
    }
}
