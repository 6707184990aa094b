//! The values of the `auth_subrequest` directives.
#![forbid(unsafe_code)]

use crate::base::decimal::decimal;
use crate::directive::{Allowed, Invalid};

/// `auth_subrequest_error 500 | 503 | pass | allow;`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The request fails with this status.
    Status(u16),
    /// The request fails with the status of the failure, if that is 500 to 599, and with the headers of a denial.
    Pass,
    /// The request goes on as if it were permitted.
    Allow,
}

impl OnError {
    /// Reads the word of `auth_subrequest_error`.
    ///
    /// # Errors
    /// [`Invalid::Argument`] for anything but `500`, `503`, `pass` and `allow`.
    pub fn parse(word: &[u8]) -> Result<Self, Invalid<'_>> {
        const ALLOWED: Allowed = Allowed::Words("it must be \"500\", \"503\", \"pass\" or \"allow\"");
        match word {
            b"500" => Ok(Self::Status(500)),
            b"503" => Ok(Self::Status(503)),
            b"pass" => Ok(Self::Pass),
            b"allow" => Ok(Self::Allow),
            _ => Err(Invalid::Argument("auth_subrequest_error", word, ALLOWED)),
        }
    }
}

impl OnError {
    /// The status with which a request fails if the auth subrequest has failed with `status`; `None` if it goes on. What is no
    /// failure of a server, but an unexpected answer, is for `status` 0.
    pub fn status(self, status: u16) -> Option<u16> {
        match self {
            Self::Status(fixed) => Some(fixed),
            Self::Pass if (500..=599).contains(&status) => Some(status),
            Self::Pass => Some(500),
            Self::Allow => None,
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
    const ALLOWED: Allowed = Allowed::Words("it must be a status from 300 to 599, except 499");
    let status = decimal(word).filter(|status| (300..=599).contains(status) && *status != 499);
    let status = status.and_then(|status| u16::try_from(status).ok());
    status.ok_or(Invalid::Argument("auth_subrequest_pass_status", word, ALLOWED))
}

/// Reads the word of `auth_subrequest`: the path of a location, and its arguments if there are any.
///
/// # Errors
/// [`Invalid::Argument`] if the word does not begin with a slash, or contains a variable.
pub fn parse_uri(word: &[u8]) -> Result<(&[u8], Option<&[u8]>), Invalid<'_>> {
    const ALLOWED: Allowed =
        Allowed::Words("it must be \"off\" or a path that begins with \"/\", without variables");
    if !word.starts_with(b"/") || word.contains(&b'$') {
        return Err(Invalid::Argument("auth_subrequest", word, ALLOWED));
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
            let message = format!(
                "invalid value \"{word}\" in \"auth_subrequest_pass_status\" directive, it must be a status from \
                 300 to 599, except 499"
            );
            assert_eq!(status(word), Err(message));
        }
    }

    #[test]
    fn a_failure_has_a_status_unless_it_allows() {
        let statuses =
            |value: &'static [u8]| OnError::parse(value).map(|on| [502, 503, 101, 0].map(|it| on.status(it)));
        assert_eq!(statuses(b"503"), Ok([Some(503); 4]));
        assert_eq!(statuses(b"pass"), Ok([Some(502), Some(503), Some(500), Some(500)]));
        assert_eq!(statuses(b"allow"), Ok([None; 4]));
        assert!(statuses(b"502").is_err());
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
