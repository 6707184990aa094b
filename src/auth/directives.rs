//! The values of the `auth_subrequest` directives.
#![forbid(unsafe_code)]

use crate::base::decimal::decimal;
use crate::directive::Invalid;

/// `auth_subrequest_error 500 | 503 | allow;`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The request fails with this status.
    Status(u16),
    /// The request goes on as if it were permitted.
    Allow,
}

impl OnError {
    /// Reads the word of `auth_subrequest_error`.
    ///
    /// # Errors
    /// [`Invalid::Argument`] for anything but `500`, `503` and `allow`.
    pub fn parse(word: &[u8]) -> Result<Self, Invalid<'_>> {
        match word {
            b"500" => Ok(Self::Status(500)),
            b"503" => Ok(Self::Status(503)),
            b"allow" => Ok(Self::Allow),
            _ => Err(Invalid::Argument("auth_subrequest_error", word)),
        }
    }
}

/// The default of `auth_subrequest_pass_status`.
pub const PASS_STATUS: &[u16] = &[401, 403];

/// Reads a word of `auth_subrequest_pass_status`: a status that an error page can have.
///
/// # Errors
/// [`Invalid::Argument`] unless the word is a number from 300 to 599. 499 is refused too: it means that the client has
/// closed the connection.
pub fn parse_status(word: &[u8]) -> Result<u16, Invalid<'_>> {
    let status = decimal(word).filter(|status| (300..=599).contains(status) && *status != 499);
    let status = status.and_then(|status| u16::try_from(status).ok());
    status.ok_or(Invalid::Argument("auth_subrequest_pass_status", word))
}

/// Reads the word of `auth_subrequest`: the path of a location, and its arguments if there are any.
///
/// # Errors
/// [`Invalid::Argument`] if the word does not begin with a slash, or contains a variable.
pub fn parse_uri(word: &[u8]) -> Result<(&[u8], Option<&[u8]>), Invalid<'_>> {
    if !word.starts_with(b"/") || word.contains(&b'$') {
        return Err(Invalid::Argument("auth_subrequest", word));
    }
    Ok(match word.iter().position(|byte| *byte == b'?') {
        None => (word, None),
        Some(at) => (word.split_at(at).0, word.get(at + 1..)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_statuses_of_error_pages() {
        let status = |word: &'static str| parse_status(word.as_bytes()).map_err(|err| err.to_string());
        assert_eq!(status("300"), Ok(300));
        assert_eq!(status("599"), Ok(599));
        for word in ["200", "299", "600", "499", "", "x", "-401", "4010"] {
            let message = format!("invalid value \"{word}\" in \"auth_subrequest_pass_status\" directive");
            assert_eq!(status(word), Err(message));
        }
    }

    #[test]
    fn uris_are_paths_with_arguments() {
        assert_eq!(parse_uri(b"/auth"), Ok((&b"/auth"[..], None)));
        assert_eq!(parse_uri(b"/auth?a=b?c"), Ok((&b"/auth"[..], Some(&b"a=b?c"[..]))));
        for word in ["", "auth", "@auth", "http://a/", "/$auth"] {
            assert!(parse_uri(word.as_bytes()).is_err(), "{word}");
        }
    }
}
