//! Numbers as nginx's directives and HTTP's headers write them.
#![forbid(unsafe_code)]

/// Decimal digits only, as nginx's `ngx_atoi()`: no sign, no blank, no overflow.
pub(crate) fn decimal(word: &[u8]) -> Option<usize> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0usize, |n, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        n.checked_mul(10)?.checked_add(digit as usize)
    })
}
