//! Writes header blocks: indexes of the static table and plain literals, which every peer understands in any state.
#![forbid(unsafe_code)]

use super::tables::{find, Found};

// The first bits of a field (RFC 7541, section 6).
const INDEXED: u8 = 0x80;
const NOT_INDEXED: u8 = 0;
const NEVER_INDEXED: u8 = 0x10;

// The bits of an integer in its first byte.
const INDEX: u8 = 0x0f;
const LENGTH: u8 = 0x7f;

/// Writes fields one after the other.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl<'a> Encoder<'a> {
    /// A block without fields, at the beginning of `out`.
    pub fn new(out: &'a mut [u8]) -> Self {
        Encoder { out, length: 0 }
    }

    /// How many bytes the block has.
    #[inline]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Appends a field. The name is in lower case (RFC 9113, section 8.2.1). Nobody on the way may put a `sensitive` value into
    /// a table (RFC 7541, section 7.1.3). `None` if there is no room: the block is as it was. It is inlined, because nothing is
    /// left of the look-up for a constant name.
    #[inline(always)]
    pub fn field(&mut self, name: &[u8], value: &[u8], sensitive: bool) -> Option<()> {
        let before = self.length;
        let written = self.write(name, value, sensitive);
        if written.is_none() {
            self.length = before;
        }
        written
    }

    #[inline(always)]
    fn write(&mut self, name: &[u8], value: &[u8], sensitive: bool) -> Option<()> {
        let kind = if sensitive { NEVER_INDEXED } else { NOT_INDEXED };
        match find(name, value) {
            Some(Found::Field(index)) if !sensitive => return self.put(&[INDEXED | index]),
            Some(Found::Field(index) | Found::Name(index)) => self.integer(kind, INDEX, index.into())?,
            None => {
                self.put(&[kind])?;
                self.string(name)?;
            }
        }
        self.string(value)
    }

    #[inline]
    fn string(&mut self, text: &[u8]) -> Option<()> {
        self.integer(0, LENGTH, text.len())?;
        self.put(text)
    }

    /// An integer in those bits of the first byte that are set in `mask`, and in further bytes (RFC 7541, section 5.1).
    #[inline]
    fn integer(&mut self, kind: u8, mask: u8, value: usize) -> Option<()> {
        let Some(mut rest) = value.checked_sub(mask.into()) else {
            return self.put(&[kind | low_byte(value)]);
        };
        self.put(&[kind | mask])?;
        while rest >= 0x80 {
            self.put(&[low_byte(rest) | 0x80])?;
            rest >>= 7;
        }
        self.put(&[low_byte(rest)])
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let room = self.out.get_mut(self.length..)?.get_mut(..bytes.len())?;
        room.copy_from_slice(bytes);
        self.length += bytes.len();
        Some(())
    }
}

#[inline]
fn low_byte(value: usize) -> u8 {
    let [byte, ..] = value.to_le_bytes();
    byte
}
