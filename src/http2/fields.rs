//! Names and values of fields (RFC 9113, section 8.2.1; RFC 9110, sections 5.1 and 5.5). They are looked at for each request,
//! so values are read eight bytes at a time.
//!
//! The rules are a little stricter than the least that RFC 9113 demands: a name is a token, and a value has no control
//! character except the tab. So what passes is also valid in HTTP/1.1.
#![forbid(unsafe_code)]

/// What each byte of a name is in lower case. Zero if a name cannot have it (RFC 9110, section 5.6.2).
const LOWER: [u8; 256] = lower();

const fn lower() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.') {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        if matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~') {
            table[byte as usize] = byte;
        }
        byte += 1;
    }
    table
}

/// How many bytes at the beginning of `bytes` can be a name or a method, in upper or lower case.
#[inline]
pub fn token_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| LOWER[usize::from(*byte)] == 0).unwrap_or(bytes.len())
}

/// Copies the name at the beginning of `bytes` in lower case. Returns its length, which is at most that of `to`.
#[inline]
pub fn to_lower_case(bytes: &[u8], to: &mut [u8]) -> usize {
    let mut length = 0;
    while let (Some(word), Some(to)) =
        (word_at(bytes, length), to.get_mut(length..).and_then(<[u8]>::first_chunk_mut))
    {
        // Bit 5 makes a capital a small letter, and nothing else a letter.
        let letters = small_letters(word | (HIGHEST >> 2));
        *to = (word | (letters >> 2)).to_le_bytes();
        let others = HIGHEST & !(letters | hyphens(word));
        if others != 0 {
            length += first_mark(others);
            if bytes.get(length) == Some(&b':') {
                return length;
            }
            break;
        }
        length += WORD;
    }
    let rest = bytes.iter().zip(to).skip(length);
    for (byte, to) in rest {
        *to = LOWER[usize::from(*byte)];
        if *to == 0 {
            break;
        }
        length += 1;
    }
    length
}

/// Whether this is the name of a field of HTTP/2: a token in lower case. A pseudo-header field is none.
#[inline]
pub fn is_name(name: &[u8]) -> bool {
    is_usual_name(name)
        || !name.is_empty() && name.iter().all(|byte| *byte != 0 && LOWER[usize::from(*byte)] == *byte)
}

/// Whether these are at least four letters in lower case and hyphens.
#[inline]
fn is_usual_name(name: &[u8]) -> bool {
    let others = |word: u64| HIGHEST & !(small_letters(word) | hyphens(word));
    let Some(last) = name.last_chunk() else { return short_word(name).is_some_and(|word| others(word) == 0) };
    let mut marks = others(u64::from_le_bytes(*last));
    let mut rest = name;
    while let Some((word, behind)) = rest.split_first_chunk() {
        marks |= others(u64::from_le_bytes(*word));
        rest = behind;
    }
    marks == 0
}

/// Whether this is the value of a field of HTTP/2: no control characters except tabs, and no blank at either end.
#[inline]
pub fn is_value(value: &[u8]) -> bool {
    !is_blank(value.first()) && !is_blank(value.last()) && is_text(value)
}

/// Whether there are no control characters except tabs.
#[inline]
fn is_text(value: &[u8]) -> bool {
    let Some(last) = value.last_chunk() else { return value.iter().all(|byte| is_text_byte(*byte)) };
    let mut marks = outside::<b' '>(*last);
    let mut rest = value;
    while let Some((word, behind)) = rest.split_first_chunk() {
        marks |= outside::<b' '>(*word);
        rest = behind;
    }
    marks == 0 || value.iter().all(|byte| is_text_byte(*byte))
}

#[inline]
fn is_text_byte(byte: u8) -> bool {
    byte >= b' ' && byte != DELETE || byte == b'\t'
}

/// How many bytes at the beginning of `bytes` are text: no control characters except tabs.
#[inline]
pub fn text_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    while let Some(rest) = bytes.get(length..) {
        length += visible_length::<b' '>(rest);
        if bytes.get(length) != Some(&b'\t') {
            break;
        }
        length += 1;
    }
    length
}

/// How many bytes at the beginning of `bytes` are at least `FIRST`, and not the control character DEL. `FIRST` is at most 128.
#[inline]
pub fn visible_length<const FIRST: u8>(bytes: &[u8]) -> usize {
    let mut length = 0;
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk() {
        let marks = outside::<FIRST>(*word);
        if marks != 0 {
            return length + first_mark(marks);
        }
        length += WORD;
        rest = behind;
    }
    length + rest.iter().take_while(|byte| **byte >= FIRST && **byte != DELETE).count()
}

/// The length of the line at the beginning of `bytes`, without the line feed at its end. `None` if there is no line feed.
#[inline]
pub fn line_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk() {
        let marks = equal(u64::from_le_bytes(*word), b'\n') & HIGHEST;
        if marks != 0 {
            return Some(length + first_mark(marks));
        }
        length += WORD;
        rest = behind;
    }
    rest.iter().position(|byte| *byte == b'\n').map(|at| length + at)
}

const DELETE: u8 = 0x7f;

/// How many bytes are looked at together.
const WORD: usize = 8;

/// One in each byte, and the highest bit of each byte.
const ONES: u64 = u64::from_le_bytes([1; WORD]);
const HIGHEST: u64 = u64::from_le_bytes([0x80; WORD]);

/// Marks the bytes that are below `FIRST` or DEL, each by its highest bit. The lowest mark is exact. A mark above another may
/// be wrong, because a subtraction borrows from the next byte.
#[inline(always)]
fn outside<const FIRST: u8>(bytes: [u8; WORD]) -> u64 {
    let word = u64::from_le_bytes(bytes);
    let below = word.wrapping_sub(ONES * u64::from(FIRST)) & !word;
    (below | equal(word, DELETE)) & HIGHEST
}

/// Like [`outside`], marks the bytes that are this one. Other bits are set too.
#[inline(always)]
fn equal(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * u64::from(byte));
    zero.wrapping_sub(ONES) & !zero
}

/// Marks the bytes that are letters in lower case.
#[inline(always)]
fn small_letters(word: u64) -> u64 {
    // No sum is larger than 255, so no byte changes the next one.
    let ascii = word & !HIGHEST;
    let from_a = ascii + ONES * u64::from(0x80 - b'a');
    let behind_z = ascii + ONES * u64::from(0x80 - b'z' - 1);
    from_a & !behind_z & !word & HIGHEST
}

/// Marks the bytes that are hyphens.
#[inline(always)]
fn hyphens(word: u64) -> u64 {
    let zero = (word ^ (ONES * u64::from(b'-'))) & !HIGHEST;
    !(zero + !HIGHEST) & !word & HIGHEST
}

/// All bytes, which are four to eight. Some are there twice.
#[inline(always)]
fn short_word(bytes: &[u8]) -> Option<u64> {
    let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
    Some(u64::from(u32::from_le_bytes(*first)) | (u64::from(u32::from_le_bytes(*last)) << 32))
}

/// Eight bytes at this position.
#[inline(always)]
fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// The position of the lowest mark.
#[inline(always)]
fn first_mark(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

/// The value without blanks at its ends (RFC 9110, section 5.6.3).
#[inline]
pub fn trimmed(value: &[u8]) -> &[u8] {
    // Most values have one blank before them and none behind.
    let value = value.strip_prefix(b" ").unwrap_or(value);
    if is_blank(value.first()) || is_blank(value.last()) {
        return trimmed_at_length(value);
    }
    value
}

#[inline(always)]
fn is_blank(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

#[cold]
fn trimmed_at_length(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The value of `Content-Length` (RFC 9110, section 8.6). `None` if it is not a decimal number below 2^64.
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        let is_digit = digit < 10;
        is_digit.then_some(())?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Whether a field of this name in lower case may never be in a compression table: it has secrets (RFC 7541, section 7.1.3).
#[inline]
pub fn is_sensitive(name: &[u8]) -> bool {
    matches!(name, b"authorization" | b"proxy-authorization" | b"cookie" | b"set-cookie")
}

/// Whether a field of this name in lower case is about an HTTP/1 connection: HTTP/2 has none of them, except for `TE` in
/// requests (RFC 9113, section 8.2.2).
#[inline]
pub fn is_of_connection(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" | b"te"
    )
}

/// Whether this can be the authority of a URI (RFC 3986, section 3.2), with a host of any kind. It is not empty.
pub fn is_authority(authority: &[u8]) -> bool {
    !authority.is_empty() && authority.iter().all(|byte| AUTHORITY[usize::from(*byte)])
}

/// Which bytes an authority can have.
const AUTHORITY: [bool; 256] = authority();

const fn authority() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'
                    ..=b',' | b';' | b'=' | b':' | b'@' | b'[' | b']' | b'%'
            );
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_token_byte(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
    }

    #[test]
    fn a_name_is_a_token_in_lower_case() {
        for byte in 0..=255 {
            let is_lower = is_token_byte(byte) && !byte.is_ascii_uppercase();
            assert_eq!(is_name(&[byte]), is_lower, "{byte}");
            assert_eq!(is_name(&[b'a', byte]), is_lower, "{byte}");
            assert_eq!(token_length(&[b'A', byte, b' ']), 1 + usize::from(is_token_byte(byte)), "{byte}");
        }
        assert!(!is_name(b"") && !is_name(b":status"));
    }

    #[test]
    fn a_name_is_copied_in_lower_case() {
        let mut to = [b'-'; 8];
        assert_eq!(to_lower_case(b"X-Y_z: A", &mut to), 5);
        assert_eq!(&to[..5], b"x-y_z");
        assert_eq!(to_lower_case(b"Content-Length: 0", &mut to), 8);
        assert_eq!(to_lower_case(b": a", &mut to), 0);
    }

    #[test]
    fn each_byte_of_a_long_name_counts() {
        for length in 1..30 {
            let name = vec![b'n'; length];
            for (at, byte) in (0..length).flat_map(|at| (0..=255u8).map(move |byte| (at, byte))) {
                let mut sent = name.clone();
                sent[at] = byte;
                let is_token = is_token_byte(byte);
                assert_eq!(is_name(&sent), is_token && !byte.is_ascii_uppercase(), "{sent:?}");
                let mut lower = [0; 30];
                assert_eq!(to_lower_case(&sent, &mut lower), if is_token { length } else { at });
                assert!(!is_token || lower[..length] == sent.to_ascii_lowercase());
            }
        }
    }

    #[test]
    fn a_value_has_no_control_characters_and_no_blank_at_its_ends() {
        for byte in 0..=255u8 {
            let is_text = byte == b'\t' || byte >= 0x20 && byte != 0x7f;
            for length in [1, 7, 8, 9, 30] {
                for at in 1..=length {
                    let mut value = vec![b'a'; length + 2];
                    value[at] = byte;
                    assert_eq!(is_value(&value), is_text, "{byte} {length} {at}");
                    assert_eq!(text_length(&value), if is_text { length + 2 } else { at });
                }
            }
        }
        for value in [" a", "a ", "\ta", "a\t", " "] {
            assert!(!is_value(value.as_bytes()), "{value:?}");
        }
        assert!(is_value(b"") && is_value(b"a") && is_value(b"a \t b"));
    }

    #[test]
    fn an_authority_has_what_its_grammar_has() {
        for byte in 0..=255u8 {
            let is_allowed = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]%".contains(&byte);
            assert_eq!(is_authority(&[b'a', byte]), is_allowed, "{byte}");
        }
        assert!(!is_authority(b""));
    }

    #[test]
    fn a_length_is_a_decimal_number() {
        for (value, length) in [("0", 0), ("007", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(content_length(value.as_bytes()), Some(length), "{value}");
        }
        for value in ["", "-1", "+1", " 1", "1 ", "1,1", "0x1", "18446744073709551616", "1e3", "\u{661}"] {
            assert_eq!(content_length(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn blanks_are_trimmed_and_nothing_else() {
        assert_eq!(trimmed(b" \ta b\t "), b"a b");
        assert_eq!(trimmed(b"\x0ca\r"), b"\x0ca\r");
        assert_eq!(trimmed(b" \t"), b"");
    }

    proptest! {
        #[test]
        fn runs_are_as_long_as_byte_by_byte(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), b' '..=b'~', Just(b'\n'), Just(b'\t')], 0..60),
        ) {
            let run = |is: fn(u8) -> bool| bytes.iter().position(|byte| !is(*byte)).unwrap_or(bytes.len());
            prop_assert_eq!(text_length(&bytes), run(is_text_byte));
            prop_assert_eq!(visible_length::<b' '>(&bytes), run(|byte| byte >= b' ' && byte != DELETE));
            prop_assert_eq!(visible_length::<b'!'>(&bytes), run(|byte| byte > b' ' && byte != DELETE));
            prop_assert_eq!(line_length(&bytes), bytes.iter().position(|byte| *byte == b'\n'));
            let mut name = [0; 60];
            let length = to_lower_case(&bytes, &mut name);
            prop_assert_eq!(length, token_length(&bytes));
            prop_assert_eq!(&name[..length], bytes[..length].to_ascii_lowercase());
            prop_assert_eq!(is_text(&bytes), bytes.iter().all(|byte| is_text_byte(*byte)));
        }
    }
}
