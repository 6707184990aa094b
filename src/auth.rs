//! What the answer of an authorisation server means, and which values its directives can have.
#![forbid(unsafe_code)]

use crate::directive::{decimal, Invalid};

/// The answer of the location that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0 if there was none.
    pub status: u16,
    /// The status is nginx's own, for want of a whole answer from the server: 502, 504 and the like.
    pub made_up: bool,
}

/// What it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may go on.
    Allow,
    /// The client gets this status.
    Deny(u16),
    /// The server has answered, but not with a permission: the request never goes on.
    Unexpected(u16),
    /// No server has answered in a way that makes sense; `auth_subrequest_error` says what that means.
    Failure(u16),
}

impl Answer {
    /// `pass_status` are the statuses that the client is to get.
    pub fn verdict(self, pass_status: &[u16]) -> Verdict {
        match self.status {
            200..=299 => Verdict::Allow,
            status if !self.made_up && pass_status.contains(&status) => Verdict::Deny(status),
            status @ 300..=499 => Verdict::Unexpected(status),
            status => Verdict::Failure(status),
        }
    }
}

/// `auth_subrequest_error 500 | 503 | allow;`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The request fails with this status.
    Status(u16),
    /// It goes on as if it was permitted.
    Allow,
}

impl OnError {
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

/// The statuses that `auth_subrequest_pass_status` passes unless it is written.
pub const PASS_STATUS: &[u16] = &[401, 403];

/// Reads a word of `auth_subrequest_pass_status`: a status that an error page can have.
///
/// # Errors
/// [`Invalid::Argument`] unless it is a number from 300 to 599, and not 499, which says that the client has gone.
pub fn parse_status(word: &[u8]) -> Result<u16, Invalid<'_>> {
    let status = decimal(word).filter(|status| (300..=599).contains(status) && *status != 499);
    let status = status.and_then(|status| u16::try_from(status).ok());
    status.ok_or(Invalid::Argument("auth_subrequest_pass_status", word))
}

/// Reads the word of `auth_subrequest`: the path of a location, and perhaps arguments.
///
/// # Errors
/// [`Invalid::Argument`] if it does not begin with a slash, or contains a variable.
pub fn parse_uri(word: &[u8]) -> Result<(&[u8], Option<&[u8]>), Invalid<'_>> {
    if !word.starts_with(b"/") || word.contains(&b'$') {
        return Err(Invalid::Argument("auth_subrequest", word));
    }
    Ok(match word.iter().position(|byte| *byte == b'?') {
        None => (word, None),
        Some(at) => (word.split_at(at).0, word.get(at + 1..)),
    })
}

/// Headers that say where a message ends and what becomes of its connection (RFC 9110, section 7.6.1, and RFC 9112,
/// section 6), or whom it is for: they are nginx's.
const FRAMING: [&[u8]; 9] = [
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"upgrade",
    b"expect",
    b"te",
    b"trailer",
    b"keep-alive",
];

/// Reads a word of a directive that names headers.
///
/// # Errors
/// [`Invalid::Header`] unless it is a field name (RFC 9110, section 5.1) that does not concern the framing. A dollar sign
/// is refused too: it is meant as a variable, which there is none of.
pub fn parse_header<'a>(directive: &'static str, word: &'a [u8]) -> Result<&'a [u8], Invalid<'a>> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#%&'*+-.^_`|~".contains(byte);
    let is_name = !word.is_empty() && word.iter().all(is_token);
    if is_name && !FRAMING.iter().any(|name| is_same_header(name, word)) {
        return Ok(word);
    }
    Err(Invalid::Header(directive, word))
}

/// Whether a server may take one header for the other: case does not matter (RFC 9110, section 5.1), many
/// programs see `X-User` and `X_User` as one (RFC 3875, section 4.1.18), and PHP sees no difference to `X.User`.
pub fn is_same_header(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| match byte {
        b'_' | b'.' | b' ' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16) -> Verdict {
        Answer { status, made_up: false }.verdict(&[401, 403, 302, 503])
    }

    #[test]
    fn only_success_permits() {
        assert_eq!(verdict(200), Verdict::Allow);
        assert_eq!(verdict(299), Verdict::Allow);
        for status in (0..200).chain(300..1000) {
            assert_ne!(verdict(status), Verdict::Allow, "{status}");
        }
    }

    #[test]
    fn denials_are_passed_as_listed() {
        assert_eq!(verdict(401), Verdict::Deny(401));
        assert_eq!(verdict(302), Verdict::Deny(302));
        assert_eq!(verdict(503), Verdict::Deny(503));
        assert_eq!(verdict(404), Verdict::Unexpected(404));
        assert_eq!(verdict(301), Verdict::Unexpected(301));
        assert_eq!(verdict(500), Verdict::Failure(500));
        assert_eq!(verdict(101), Verdict::Failure(101));
        assert_eq!(verdict(0), Verdict::Failure(0));
    }

    #[test]
    fn what_nginx_makes_up_is_no_denial() {
        assert_eq!(Answer { status: 503, made_up: true }.verdict(&[503]), Verdict::Failure(503));
    }

    #[test]
    fn statuses_are_those_of_error_pages() {
        let status = |word: &'static str| parse_status(word.as_bytes()).map_err(|err| err.to_string());
        assert_eq!(status("300"), Ok(300));
        assert_eq!(status("599"), Ok(599));
        for word in ["200", "299", "600", "499", "", "x", "-401", "4010"] {
            let said = format!("invalid value \"{word}\" in \"auth_subrequest_pass_status\" directive");
            assert_eq!(status(word), Err(said));
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

    #[test]
    fn headers_are_names_that_do_not_frame() {
        for name in ["X-User", "x_user", "Authorization", "a"] {
            assert_eq!(parse_header("d", name.as_bytes()), Ok(name.as_bytes()));
        }
        for name in
            ["", "X User", "X:User", "$user", "X\u{e9}", "Host", "content_length", "TRANSFER-ENCODING"]
        {
            let said = format!("invalid header name \"{name}\" in \"d\" directive");
            assert_eq!(parse_header("d", name.as_bytes()).map_err(|err| err.to_string()), Err(said));
        }
    }

    #[test]
    fn headers_are_the_same_in_any_spelling() {
        assert!(is_same_header(b"X-User", b"x_uSER"));
        assert!(!is_same_header(b"X-User", b"X-Use"));
        assert!(is_same_header(b"X-User", b"X.User"));
        assert!(!is_same_header(b"X-User", b"XUser"));
    }
}
