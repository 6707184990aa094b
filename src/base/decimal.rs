//! Decimal numbers, as nginx's directives and HTTP's headers contain them.
#![forbid(unsafe_code)]

/// Parses a decimal number as nginx's `ngx_atoi()` does. `None` if it is empty, has a character that is not a digit, or
/// overflows.
pub(crate) fn decimal(word: &[u8]) -> Option<usize> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0usize, |n, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        n.checked_mul(10)?.checked_add(digit as usize)
    })
}
