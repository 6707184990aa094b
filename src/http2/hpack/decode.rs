//! Reads header blocks. Nothing is allocated: what is not Huffman coded stays where it is, the rest goes to a scratch space.
#![forbid(unsafe_code)]

use super::{huffman, tables, Fault, Limits, OVERHEAD, SIZE_UPDATE};

/// At most this many size updates begin a block: the smallest size and the last one (RFC 7541, section 4.2).
const SIZE_UPDATES: usize = 2;

/// Calls `field` with each name and value of a complete header block, in order. The block is that of a peer who was told that
/// the dynamic table has the size 0: a literal with incremental indexing is a plain literal.
///
/// The Huffman strings of one field must fit into `scratch` together. A field that exceeds `limits` is not decoded.
///
/// # Errors
/// The first [`Fault`] of the block, or what `field` returned. The fields before it were handed over already.
pub fn decode<E: From<Fault>>(
    block: &[u8],
    scratch: &mut [u8],
    limits: Limits,
    mut field: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut decoder = Decoder { rest: block, left: limits };
    decoder.skip_size_updates();
    while let Some((name, value)) = decoder.next(scratch)? {
        field(name, value)?;
    }
    Ok(())
}

/// A name and a value, each a part of the static table, of the block or of the scratch space.
type Field<'s> = (&'s [u8], &'s [u8]);

/// A part of the block or of the scratch space, and what is left of the latter.
type Text<'s> = (&'s [u8], &'s mut [u8]);

struct Decoder<'a> {
    rest: &'a [u8],
    /// What the rest may contain.
    left: Limits,
}

impl<'a> Decoder<'a> {
    fn skip_size_updates(&mut self) {
        for _ in 0..SIZE_UPDATES {
            self.rest = self.rest.strip_prefix(&[SIZE_UPDATE]).unwrap_or(self.rest);
        }
    }

    /// The next field (RFC 7541, section 6). `None` at the end of the block.
    #[inline(always)]
    fn next<'s>(&mut self, scratch: &'s mut [u8]) -> Result<Option<Field<'s>>, Fault>
    where
        'a: 's,
    {
        let Some(first) = self.rest.first() else { return Ok(None) };
        let mask = match first {
            0x80.. => 0x7f,
            0x40.. => 0x3f,
            0x20.. => return Err(Fault::TableSize),
            _ => 0x0f,
        };
        self.left.fields = self.left.fields.checked_sub(1).ok_or(Fault::TooMany)?;
        self.take(OVERHEAD)?;
        let index = self.integer(mask)?;
        if *first >= 0x80 {
            let (name, value) = tables::entry(index).ok_or(Fault::Index)?;
            self.take(name.len() + value.len())?;
            return Ok(Some((name, value)));
        }
        let (name, scratch) = match index {
            0 => self.string(scratch)?,
            _ => {
                let (name, _) = tables::entry(index).ok_or(Fault::Index)?;
                self.take(name.len())?;
                (name, scratch)
            }
        };
        let (value, _) = self.string(scratch)?;
        Ok(Some((name, value)))
    }

    /// Counts bytes against the limit.
    fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left.bytes = self.left.bytes.checked_sub(bytes).ok_or(Fault::TooLarge)?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let (byte, rest) = self.rest.split_first().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// An integer that begins in those bits of the next byte that are set in `mask` (RFC 7541, section 5.1). It is less than
    /// 2^28 + 127. No peer needs more: the largest frame has 2^24 bytes.
    #[inline]
    fn integer(&mut self, mask: u8) -> Result<usize, Fault> {
        let prefix = self.byte()? & mask;
        if prefix < mask {
            return Ok(prefix.into());
        }
        let mut value = usize::from(mask);
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::Integer)
    }

    /// A string (RFC 7541, section 5.2).
    #[inline(always)]
    fn string<'s>(&mut self, scratch: &'s mut [u8]) -> Result<Text<'s>, Fault>
    where
        'a: 's,
    {
        let is_plain = self.rest.first().is_some_and(|first| *first < 0x80);
        let length = self.integer(0x7f)?;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(Fault::Truncated)?;
        self.rest = rest;
        if is_plain {
            self.take(length)?;
            return Ok((string, scratch));
        }
        let room = scratch.len().min(self.left.bytes);
        let length = huffman::decode(string, scratch.get_mut(..room).unwrap_or_default())?;
        self.take(length)?;
        let (text, scratch) = scratch.split_at_mut_checked(length).ok_or(Fault::TooLarge)?;
        Ok((text, scratch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(bytes: &[u8], mask: u8) -> Result<(usize, usize), Fault> {
        let mut decoder = Decoder { rest: bytes, left: Limits { fields: 0, bytes: 0 } };
        let value = decoder.integer(mask)?;
        Ok((value, decoder.rest.len()))
    }

    /// RFC 7541, appendix C.1.
    #[test]
    fn reads_the_integers_of_appendix_c() {
        assert_eq!(integer(&[0b1110_1010], 0x1f), Ok((10, 0)));
        assert_eq!(integer(&[0b1111_1111, 0b1001_1010, 0b0000_1010], 0x1f), Ok((1337, 0)));
        assert_eq!(integer(&[0b0010_1010], 0xff), Ok((42, 0)));
    }

    #[test]
    fn an_integer_has_at_most_four_further_bytes() {
        for mask in [0x0f, 0x3f, 0x7f] {
            let least = usize::from(mask);
            assert_eq!(integer(&[mask, 0, 9], mask), Ok((least, 1)));
            assert_eq!(integer(&[0xff, 0x80, 0x80, 0x80, 0, 9], mask), Ok((least, 1)));
            assert_eq!(integer(&[0xff, 0xff, 0xff, 0xff, 0x7f], mask), Ok((least + (1 << 28) - 1, 0)));
            for hostile in [[0x80, 0x80, 0x80, 0x80, 0], [0xff, 0xff, 0xff, 0xff, 0x7f], [0xff; 5]] {
                assert_eq!(integer(&[&[0xff][..], &hostile].concat(), mask), Err(Fault::Integer));
            }
            for end in 0..4 {
                assert_eq!(integer(&[0xff; 4][..end], mask), Err(Fault::Truncated));
            }
        }
    }
}
