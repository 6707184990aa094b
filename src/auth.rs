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

/// Whether a server may take a header that was sent for the one with this name.
///
/// Case does not matter (RFC 9110, section 5.1). A program that gets headers as variables sees `X-User` as `X_User` (RFC
/// 3875, section 4.1.18), and many make an underscore of whatever a variable's name cannot have: PHP of `X.User` and
/// `X[User`, others of every byte that is neither letter nor digit; of `X-User[a]` PHP makes an array with the name `X_User`.
/// Bytes that are not ASCII are no part of a name at all, but nginx passes them with `ignore_invalid_headers off`, and
/// what becomes of them depends on the program's idea of text: the byte 0xDF may end as `SS`, two bytes as one letter or as
/// none. So they may stand for anything.
pub fn is_same_header(name: &[u8], sent: &[u8]) -> bool {
    let (mut at, mut sent_at) = (0, 0);
    // Behind bytes that may stand for anything: where in both to go on if what was tried last does not fit.
    let mut retry = None;
    while at < name.len() || sent_at < sent.len() {
        match (name.get(at), sent.get(sent_at)) {
            (None, Some(b'[')) => return true,
            (_, Some(byte)) if !byte.is_ascii() => {
                if retry.is_none() && sent.split_at(sent_at).1.contains(&b'[') {
                    return true;
                }
                sent_at += 1;
                retry = Some((at, sent_at));
            }
            (Some(wanted), Some(byte)) if plain(*byte) == plain(*wanted) => {
                (at, sent_at) = (at + 1, sent_at + 1);
            }
            _ => {
                let Some((from, behind)) = retry.filter(|(from, _)| *from < name.len()) else { return false };
                (at, sent_at) = (from + 1, behind);
                retry = Some((at, behind));
            }
        }
    }
    true
}

/// What is left of a byte in the name of a variable.
fn plain(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'_'
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert!(is_same_header(b"X-User", b"x[user"));
        assert!(is_same_header(b"X-User", b"x_user[a]"));
        assert!(!is_same_header(b"X-User", b"XUser"));
        assert!(!is_same_header(b"X-User", b"X-User-"));
        assert!(!is_same_header(b"X-User", b"X-User-[a]"));
        for byte in 0..0x80u8 {
            let is_letter = byte.is_ascii_alphanumeric();
            assert_eq!(
                is_same_header(b"X-User", &[b'x', byte, b'u', b's', b'e', b'r']),
                !is_letter,
                "{byte}"
            );
        }
    }

    #[test]
    fn what_is_not_ascii_may_stand_for_anything() {
        assert!(is_same_header(b"X-Class", b"X-Cla\xdf"));
        assert!(is_same_header(b"X-User", "X-U\u{17f}er".as_bytes()));
        assert!(is_same_header(b"X-User", "\u{200b}X\u{2010}User\u{200b}".as_bytes()));
        assert!(is_same_header(b"X-User", b"\xff"));
        assert!(is_same_header(b"X-User", b"X-\xff[a]"));
        assert!(!is_same_header(b"X-User", b"Y-\xff[a]"));
        assert!(!is_same_header(b"X-User", b"X-\xffb"));
        assert!(!is_same_header(b"X-User", b"X-User\xffr-"));
        assert!(!is_same_header(b"X-User", "Gr\u{f6}\u{df}e".as_bytes()));
    }

    /// As slow as it is plain.
    fn fits(name: &[u8], sent: &[u8]) -> bool {
        match (name, sent) {
            (_, [byte, rest @ ..]) if *byte >= 0x80 => {
                rest.contains(&b'[')
                    || (0..=name.len()).any(|skipped| fits(name.get(skipped..).unwrap_or(&[]), rest))
            }
            ([], [] | [b'[', ..]) => true,
            ([one, name @ ..], [other, sent @ ..]) => {
                let is_separator = |byte: &u8| !byte.is_ascii_alphanumeric();
                let is_same = one.eq_ignore_ascii_case(other) || is_separator(one) && is_separator(other);
                is_same && fits(name, sent)
            }
            _ => false,
        }
    }

    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![4 => prop::sample::select(b"aAbB1-_[.".to_vec()), 1 => Just(0xc3u8), 1 => any::<u8>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn headers_are_the_same_as_the_plain_rule_says(
            name in proptest::collection::vec(prop::sample::select(b"aAbB1-_".to_vec()), 0..7),
            sent in proptest::collection::vec(byte(), 0..9),
        ) {
            prop_assert_eq!(is_same_header(&name, &sent), fits(&name, &sent));
        }

        #[test]
        fn each_way_to_write_a_header_is_the_same(
            written in proptest::collection::vec((prop::sample::select(b"xUser0-_".to_vec()), any::<u8>()), 1..12),
        ) {
            let name: Vec<u8> = written.iter().map(|(name, _)| *name).collect();
            let sent: Vec<u8> = written
                .iter()
                .map(|(name, other)| match name {
                    b'0' => *name,
                    b'-' | b'_' if other.is_ascii_alphanumeric() => b'.',
                    b'-' | b'_' => *other,
                    letter => letter ^ (other & 0x20),
                })
                .collect();
            prop_assert!(is_same_header(&name, &sent));
        }
    }
}
