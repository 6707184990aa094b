//! The values of the `keepalive` directive: what is written, and what holds when nothing is.
#![forbid(unsafe_code)]

use std::fmt;

/// `keepalive connections [local];`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle connections kept per worker; 0 switches the pool off.
    pub connections: usize,
    /// Only requests of the location that opened a connection may reuse it.
    pub local: bool,
}

/// From 1.29.7 on nginx keeps connections unless told otherwise; before, only when told to.
pub const DEFAULT_SINCE_1_29_7: Keepalive = Keepalive { connections: 32, local: true };

/// What is wrong with the words of a directive. Displays as nginx would say it; nginx adds file
/// and line.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid<'a> {
    /// The first word is not a number, or too large a one.
    Value(&'a [u8]),
    /// Another word is not a parameter of the directive.
    Parameter(&'a [u8]),
}

impl fmt::Display for Invalid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(word) => {
                write!(f, "invalid value \"{}\" in \"keepalive\" directive", String::from_utf8_lossy(word))
            }
            Self::Parameter(word) => write!(f, "invalid parameter \"{}\"", String::from_utf8_lossy(word)),
        }
    }
}

impl Keepalive {
    /// Reads the words behind `keepalive`.
    ///
    /// # Errors
    /// [`Invalid::Value`] unless the first word is a decimal number that a pool can have as its
    /// capacity; [`Invalid::Parameter`] for a second word other than `local`.
    pub fn parse<'a>(number: &'a [u8], parameter: Option<&'a [u8]>) -> Result<Self, Invalid<'a>> {
        let connections =
            decimal(number).filter(|n| *n <= crate::pool::MAX_CAPACITY).ok_or(Invalid::Value(number))?;
        match parameter {
            None => Ok(Self { connections, local: false }),
            Some(b"local") => Ok(Self { connections, local: true }),
            Some(other) => Err(Invalid::Parameter(other)),
        }
    }
}

/// Decimal digits only, as nginx's `ngx_atoi()`: no sign, no blank, no overflow.
fn decimal(word: &[u8]) -> Option<usize> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0usize, |n, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        n.checked_mul(10)?.checked_add(digit as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nginx_reads() {
        assert_eq!(Keepalive::parse(b"32", None), Ok(Keepalive { connections: 32, local: false }));
        assert_eq!(Keepalive::parse(b"8", Some(b"local")), Ok(Keepalive { connections: 8, local: true }));
        assert_eq!(Keepalive::parse(b"0", None).map(|k| k.connections), Ok(0));
    }

    #[test]
    fn refuses_what_is_no_number() {
        for word in ["x", "-1", "", "1k", " 1", "1.5", "+1", "99999999999999999999999999", "4294967295"] {
            let err = Keepalive::parse(word.as_bytes(), None).unwrap_err();
            assert_eq!(err.to_string(), format!("invalid value \"{word}\" in \"keepalive\" directive"));
        }
    }

    #[test]
    fn refuses_an_unknown_parameter() {
        let err = Keepalive::parse(b"1", Some(b"lokal")).unwrap_err();
        assert_eq!(err.to_string(), "invalid parameter \"lokal\"");
    }
}
