//! Huffman codes (RFC 7541, section 5.2 and appendix B). The code is canonical: shorter codes come before longer ones, codes
//! of one length in the order of their symbols. So the lengths say it all, and the tables are computed from them.
#![forbid(unsafe_code)]

use super::Fault;

/// The lengths of the codes in bits, by symbol. The last one, EOS, stands for no byte.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

/// The longest code, in bits.
const LONGEST: u32 = 30;

/// Codes up to this length are looked up in one step. All letters and digits have such codes.
const SHORT: u32 = 8;

/// In the place of a length: the code is longer than [`SHORT`].
const LONG: u8 = 0;

/// The codes of one length above [`SHORT`].
#[derive(Clone, Copy)]
struct Group {
    /// All codes of this length and of the shorter ones are less than this, followed by zeros up to 32 bits.
    end: u32,
    length: u32,
    /// The place in `symbols` of a code is the code plus this, modulo 2^32.
    offset: u32,
}

struct Tables {
    /// By the next 8 bits, inverted: the symbol, and the length of its code in bits, or [`LONG`].
    short: [(u8, u8); 1 << SHORT],
    long: [Group; (LONGEST - SHORT) as usize],
    /// The symbols in the order of their codes.
    symbols: [u8; 256],
}

static TABLES: Tables = tables();

/// Decodes a string. Returns how many bytes were written to `out`.
///
/// # Errors
/// [`Fault::Huffman`] if the string contains EOS, or ends in something else than at most 7 bits of ones. [`Fault::TooLarge`]
/// if `out` is too small.
#[inline(never)]
pub(super) fn decode(string: &[u8], out: &mut [u8]) -> Result<usize, Fault> {
    let mut bits = Bits { next: 0, count: 0, string };
    let capacity = out.len();
    let mut room = out;
    loop {
        bits.refill();
        if let Some(group) = room.first_chunk_mut() {
            let decoded = bits.short_codes(group);
            room = room.get_mut(decoded..).unwrap_or_default();
            if decoded == GROUP {
                continue;
            }
            bits.refill();
        }
        let Some(symbol) = bits.code()? else { return Ok(capacity - room.len()) };
        let (place, rest) = room.split_first_mut().ok_or(Fault::TooLarge)?;
        *place = symbol;
        room = rest;
    }
}

/// So many short codes are decoded together. That many bits are always there, or all that are left.
const GROUP: usize = 7;

/// What is left of a string.
struct Bits<'a> {
    /// The next bits, from the highest one on, inverted. Behind the last one are zeros, which stand for ones as in padding: no
    /// short code begins with them.
    next: u64,
    /// How many they are. A short code that is cut off makes it negative.
    count: i32,
    /// What follows them.
    string: &'a [u8],
}

impl Bits<'_> {
    /// Appends bytes of the string: all of them, or so many that there are at least 56 bits.
    #[inline(always)]
    fn refill(&mut self) {
        // Bits of a byte that is not appended as a whole may be there already: they will be the same.
        if let Some(word) = self.string.first_chunk() {
            self.next |= !u64::from_be_bytes(*word) >> self.count;
            let bytes = (63 - self.count as u32) / 8;
            self.string = self.string.get(bytes as usize..).unwrap_or_default();
            self.count += bytes as i32 * 8;
            return;
        }
        if let Some((half, rest)) = self.string.split_first_chunk().filter(|_| self.count <= 32) {
            self.next |= u64::from(!u32::from_be_bytes(*half)) << (32 - self.count);
            (self.string, self.count) = (rest, self.count + 32);
        }
        while let Some((byte, rest)) = self.string.split_first().filter(|_| self.count <= 56) {
            self.next |= u64::from(!byte) << (56 - self.count);
            (self.string, self.count) = (rest, self.count + 8);
        }
    }

    /// Decodes short codes up to a long one, or to the end of the string. Returns how many they are.
    #[inline(always)]
    fn short_codes(&mut self, out: &mut [u8; GROUP]) -> usize {
        for (decoded, place) in out.iter_mut().enumerate() {
            let [first, ..] = self.next.to_be_bytes();
            let (symbol, length) = TABLES.short[usize::from(first)];
            if length == LONG {
                return decoded;
            }
            *place = symbol;
            self.next <<= length;
            self.count -= i32::from(length);
        }
        GROUP
    }

    /// Decodes a code of any length. `None` if there is only padding.
    fn code(&mut self) -> Result<Option<u8>, Fault> {
        if self.next == 0 && matches!(self.count, 0..8) {
            return Ok(None);
        }
        let [first, ..] = self.next.to_be_bytes();
        let (symbol, length) = match TABLES.short[usize::from(first)] {
            (_, LONG) => long(!self.next).ok_or(Fault::Huffman)?,
            short => short,
        };
        self.next <<= length;
        self.count -= i32::from(length);
        if self.count < 0 {
            return Err(Fault::Huffman);
        }
        Ok(Some(symbol))
    }
}

/// The symbol whose code has more than 8 bits and comes first, and the length of the code. `None` for EOS.
fn long(bits: u64) -> Option<(u8, u8)> {
    let [first, second, third, fourth, ..] = bits.to_be_bytes();
    let window = u32::from_be_bytes([first, second, third, fourth]);
    let group = TABLES.long.iter().find(|group| window < group.end)?;
    let place = (window >> (32 - group.length)).wrapping_add(group.offset);
    Some((*TABLES.symbols.get(place as usize)?, group.length as u8))
}

const fn tables() -> Tables {
    let nothing = Group { end: 0, length: 0, offset: 0 };
    let mut tables = Tables {
        short: [(0, LONG); 1 << SHORT],
        long: [nothing; (LONGEST - SHORT) as usize],
        symbols: [0; 256],
    };
    // The next code, and how many symbols have one already.
    let (mut code, mut coded) = (0u32, 0u32);
    let mut length = 1;
    while length <= LONGEST {
        code <<= 1;
        let offset = coded.wrapping_sub(code);
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as u32 == length {
                tables.symbols[coded as usize] = symbol as u8;
                if length <= SHORT {
                    fill(&mut tables.short, code, symbol as u8, length);
                }
                (code, coded) = (code + 1, coded + 1);
            }
            symbol += 1;
        }
        if length > SHORT {
            tables.long[(length - SHORT - 1) as usize] = Group { end: code << (32 - length), length, offset };
        }
        length += 1;
    }
    tables
}

/// Enters a code for all bytes that begin with it, inverted.
const fn fill(short: &mut [(u8, u8); 1 << SHORT], code: u32, symbol: u8, length: u32) {
    let mut byte = code << (SHORT - length);
    while byte < (code + 1) << (SHORT - length) {
        short[!byte as u8 as usize] = (symbol, length as u8);
        byte += 1;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A code and its length. Each shorter or earlier code has taken its share of all numbers.
    pub fn code(symbol: usize) -> (u32, u8) {
        let length = LENGTHS[symbol];
        let before = (0..257).filter(|it| (LENGTHS[*it], *it) < (length, symbol));
        let taken: u32 = before.map(|it| 1 << (LONGEST - u32::from(LENGTHS[it]))).sum();
        (taken >> (LONGEST - u32::from(length)), length)
    }

    /// The codes of the symbols one after the other, then ones up to a whole byte.
    pub fn encode(symbols: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let mut bits = Vec::new();
        for symbol in symbols {
            let (code, length) = code(symbol);
            bits.extend((0..length).rev().map(|bit| (code >> bit) & 1 == 1));
        }
        pack(&bits)
    }

    fn pack(bits: &[bool]) -> Vec<u8> {
        let byte = |part: &[bool]| {
            (0..8).fold(0, |byte, at| (byte << 1) | u8::from(part.get(at).copied().unwrap_or(true)))
        };
        bits.chunks(8).map(byte).collect()
    }

    fn decoded(string: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut out = vec![0; string.len() * 2];
        let length = decode(string, &mut out)?;
        out.truncate(length);
        Ok(out)
    }

    #[test]
    fn the_codes_are_those_of_appendix_b() {
        for (symbol, expected) in [
            (b'0'.into(), (0x0, 5)),
            (b' '.into(), (0x14, 6)),
            (b':'.into(), (0x5c, 7)),
            (b'&'.into(), (0xf8, 8)),
            (b'!'.into(), (0x3f8, 10)),
            (b'\\'.into(), (0x7fff0, 19)),
            (0, (0x1ff8, 13)),
            (10, (0x3ffffffc, 30)),
            (249, (0xffffffe, 28)),
            (255, (0x3ffffee, 26)),
            (256, (0x3fffffff, 30)),
        ] {
            assert_eq!(code(symbol), expected, "{symbol}");
        }
        // The code is complete: no bits are without a meaning.
        assert_eq!(LENGTHS.iter().map(|length| 1u64 << (30 - length)).sum::<u64>(), 1 << 30);
    }

    #[test]
    fn decodes_each_symbol() {
        for symbol in 0..=255u8 {
            for before in 0..8 {
                let text = [&vec![b'0'; before][..], &[symbol, b'a']].concat();
                assert_eq!(decoded(&encode(text.iter().map(|byte| usize::from(*byte)))), Ok(text));
            }
        }
        assert_eq!(decoded(b""), Ok(Vec::new()));
    }

    #[test]
    fn padding_is_at_most_seven_ones() {
        for text in ["", "0", "00", "000", "0000", "00000", "000000", "0000000", "~", "a~b"] {
            let encoded = encode(text.bytes().map(usize::from));
            assert_eq!(decoded(&encoded), Ok(text.as_bytes().to_vec()));
            for ones in 1..5 {
                assert_eq!(
                    decoded(&[&encoded[..], &vec![0xff; ones]].concat()),
                    Err(Fault::Huffman),
                    "{text}"
                );
            }
        }
        // `0` is five zeros. Three bits are left, of which any may be wrong.
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        for wrong in [0b000, 0b001, 0b010, 0b011, 0b100, 0b101, 0b110] {
            assert_eq!(decoded(&[wrong]), Err(Fault::Huffman));
        }
    }

    #[test]
    fn the_end_of_string_symbol_is_an_error() {
        for text in ["", "0", "ab", "abcdefg", "\n\r", "\u{16}"] {
            let symbols = text.bytes().map(usize::from).chain([256]);
            assert_eq!(decoded(&encode(symbols.clone())), Err(Fault::Huffman));
            assert_eq!(decoded(&encode(symbols.chain([b'0'.into()]))), Err(Fault::Huffman));
        }
    }

    #[test]
    fn writes_no_further_than_there_is_room() {
        let encoded = encode([b'a'.into(); 100]);
        let mut out = [0; 101];
        for room in 0..100 {
            assert_eq!(decode(&encoded, &mut out[..room]), Err(Fault::TooLarge));
            assert_eq!(out[room], 0);
            out = [0; 101];
        }
        assert_eq!(decode(&encoded, &mut out[..100]), Ok(100));
        assert_eq!(decode(&encoded, &mut out), Ok(100));
    }

    /// Bit by bit, as a reference.
    fn reference(string: &[u8]) -> Option<Vec<u8>> {
        let codes: Vec<(u32, u8)> = (0..257).map(code).collect();
        let (mut out, mut seen) = (Vec::new(), (0, 0));
        for bit in string.iter().flat_map(|byte| (0..8).rev().map(move |bit| u32::from((byte >> bit) & 1))) {
            seen = ((seen.0 << 1) | bit, seen.1 + 1);
            if let Some(symbol) = codes.iter().position(|code| *code == seen) {
                out.push(u8::try_from(symbol).ok()?);
                seen = (0, 0);
            }
        }
        (seen.1 < 8 && seen.0 == (1 << seen.1) - 1).then_some(out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn decodes_what_was_encoded(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(decoded(&encode(text.iter().map(|byte| usize::from(*byte)))), Ok(text));
        }

        #[test]
        fn agrees_with_the_reference(
            symbols in proptest::collection::vec(0..257usize, 0..4),
            noise in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            for string in [&noise, &encode(symbols.clone()), &[encode(symbols), noise.clone()].concat()] {
                prop_assert_eq!(decoded(string).ok(), reference(string));
            }
        }
    }
}
