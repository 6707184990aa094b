//! The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).
//!
//! It is canonical: symbols of the same length have consecutive codes, so that the lengths tell all.

use std::sync::OnceLock;

/// How many bits each byte has, and at the end the mark that no string may have.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const LONGEST: usize = 30;

struct Tables {
    /// The code of each symbol.
    codes: [u32; 257],
    /// The symbols by their codes.
    symbols: Vec<u16>,
    /// For each length: its first code, how many symbols are shorter, and how many have it.
    lengths: [(u32, usize, usize); LONGEST + 1],
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut symbols: Vec<u16> = (0..257).collect();
        symbols.sort_by_key(|symbol| (LENGTHS[usize::from(*symbol)], *symbol));
        let mut tables = Tables { codes: [0; 257], symbols, lengths: [(0, 0, 0); LONGEST + 1] };
        let (mut code, mut shorter) = (0, 0);
        for length in 1..=LONGEST {
            code <<= 1;
            let number = LENGTHS.iter().filter(|is| usize::from(**is) == length).count();
            tables.lengths[length] = (code, shorter, number);
            for symbol in &tables.symbols[shorter..shorter + number] {
                tables.codes[usize::from(*symbol)] = code;
                code += 1;
            }
            shorter += number;
        }
        tables
    })
}

/// `None` for a string that is not encoded as the rules say.
pub fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let tables = tables();
    let (mut text, mut code, mut length) = (Vec::new(), 0u32, 0);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1)) {
        code = (code << 1) | u32::from(bit);
        length += 1;
        let (first, shorter, number) = *tables.lengths.get(length)?;
        let Some(at) = code.checked_sub(first).map(|at| at as usize).filter(|at| *at < number) else {
            continue;
        };
        text.push(u8::try_from(tables.symbols[shorter + at]).ok()?);
        (code, length) = (0, 0);
    }
    // The rest of the last byte is filled with ones.
    (length < 8 && code == (1 << length) - 1).then_some(text)
}

pub fn encode(text: &[u8]) -> Vec<u8> {
    let tables = tables();
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u64, 0);
    for byte in text {
        let length = LENGTHS[usize::from(*byte)];
        held = (held << length) | u64::from(tables.codes[usize::from(*byte)]);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    if bits > 0 {
        bytes.push((held << (8 - bits)) as u8 | (0xff >> bits));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_the_examples_of_the_rfc() {
        // RFC 7541, appendix C.4.1.
        let encoded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(encode(b"www.example.com"), encoded);
        assert_eq!(decode(&encoded).unwrap(), b"www.example.com");
    }

    #[test]
    fn decodes_what_it_encodes() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
    }

    #[test]
    fn refuses_padding_of_a_whole_byte_and_the_mark() {
        assert_eq!(decode(&[0xff]), None);
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff]), None);
    }
}
