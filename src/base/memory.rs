//! Memory that may not be there: what grows at run time, or with the configuration, grows by these. A lack of it is
//! told by `None`, where Rust's own containers would end the process.
#![forbid(unsafe_code)]

use std::fmt;
use std::hint::black_box;

/// Adds an element.
pub fn push<T>(to: &mut Vec<T>, value: T) -> Option<()> {
    to.try_reserve(1).ok()?;
    to.push(value);
    Some(())
}

/// What an iterator yields that knows how much that is.
pub fn collect<T>(from: impl ExactSizeIterator<Item = T>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(from.len()).ok()?;
    all.extend(from);
    Some(all)
}

/// A copy of bytes.
pub fn copy(bytes: &[u8]) -> Option<Vec<u8>> {
    collect(bytes.iter().copied())
}

/// A copy of a text.
pub fn owned(text: &str) -> Option<String> {
    let mut copy = String::new();
    append(&mut copy, text)?;
    Some(copy)
}

/// Adds to a text.
pub fn append(to: &mut String, text: &str) -> Option<()> {
    to.try_reserve(text.len()).ok()?;
    to.push_str(text);
    Some(())
}

/// Size of what [`is_spare`] asks for: no other allocation has it.
pub const SPARE: usize = 4093;

/// Whether there is memory for a few small things that cannot be asked for in a way that may fail: what was given back
/// just now is what the C library serves them from.
pub fn is_spare() -> bool {
    let mut spare = Vec::<u8>::new();
    let is_there = spare.try_reserve_exact(SPARE).is_ok();
    // The compiler may leave out memory that nobody looks at.
    black_box(&spare);
    is_there
}

/// A text that is written piece by piece. If there is no memory for one, it and all that follow are left out.
#[derive(Debug)]
pub struct Text {
    bytes: Vec<u8>,
    whole: bool,
}

impl Text {
    /// An empty one, with room for so many bytes. `None` if there is no memory for them.
    pub fn new(room: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).ok()?;
        Some(Self { bytes, whole: true })
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.whole = self.whole && self.bytes.try_reserve(bytes.len()).is_ok();
        if self.whole {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Takes back the last byte.
    pub fn pop(&mut self) {
        if self.whole {
            self.bytes.pop();
        }
    }

    /// Something cannot be added, as there is no memory to make it.
    pub fn give_up(&mut self) {
        self.whole = false;
    }

    /// Begins anew, with the memory that there is.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.whole = true;
    }

    /// Whether nothing was left out.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written, to be sent.
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

/// Never an error: who writes JSON would make a copy of it, for which there is no memory either.
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
