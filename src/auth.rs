//! What the answer of an authorisation server means, and which values its directives can have.
#![forbid(unsafe_code)]

use crate::base::decimal::decimal;
use crate::directive::Invalid;

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
    /// Whether it permits.
    pub fn permits(self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// `pass_status` are the statuses that the client is to get.
    pub fn verdict(self, pass_status: &[u16]) -> Verdict {
        match self.status {
            _ if self.permits() => Verdict::Allow,
            status if !self.made_up && pass_status.contains(&status) => Verdict::Deny(status),
            status @ 300..=499 => Verdict::Unexpected(status),
            status => Verdict::Failure(status),
        }
    }
}

/// The answer that decides, of all that became known of one question, in this order: the first that is no permission.
/// Whatever follows it (an error page, a redirect to another location) cannot permit. `None` if there is none.
pub fn decisive(answers: impl IntoIterator<Item = Answer>) -> Option<Answer> {
    let mut last = None;
    for answer in answers {
        last = Some(answer);
        if !answer.permits() {
            break;
        }
    }
    last
}

/// The client's body, at the moment when a location is to be authorised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The client sends none.
    Absent,
    /// It was not read. Its size in bytes, if the client has announced it.
    Unread(Option<u64>),
    /// It is there, with its size in bytes.
    Read(u64),
    /// The client has sent one, but it was discarded, or has gone on already, wholly or in part.
    Gone,
}

/// How a location asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With the header alone.
    Bare,
    /// The body is to be read first.
    ReadFirst,
    /// With the body, of so many bytes.
    WithBody(u64),
    /// Not at all: the body has so many bytes, and that is more than may be sent.
    TooLarge(u64),
    /// Not at all: the body would belong to the question, and is not there.
    BodyIsGone,
}

impl Body {
    /// `limit` is that of `auth_subrequest_body`, in bytes; 0 if bodies are not sent.
    pub fn how_to_ask(self, limit: u64) -> How {
        match self {
            _ if limit == 0 => How::Bare,
            Self::Absent => How::Bare,
            Self::Unread(Some(size)) | Self::Read(size) if size > limit => How::TooLarge(size),
            Self::Unread(_) => How::ReadFirst,
            Self::Read(size) => How::WithBody(size),
            Self::Gone => How::BodyIsGone,
        }
    }
}

/// With which body, and by which method, a question was asked; the method matters only with a body, as all others
/// are GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The size of the body in bytes, `None` without one.
    pub body: Option<u64>,
    /// nginx's number of the request's method.
    pub method: usize,
}

impl Sent {
    /// Whether it is what would be sent now: only then the answer is one to the same question.
    pub fn is_as(self, how: How, method: usize) -> bool {
        match (self.body, how) {
            (None, How::Bare) => true,
            (Some(body), How::WithBody(size)) => body == size && self.method == method,
            _ => false,
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

/// Headers of a response that stand in it once, or not at all: a second one is left out (RFC 9110, section 5.3).
const SINGLE: [&[u8]; 13] = [
    b"location",
    b"retry-after",
    b"server",
    b"date",
    b"expires",
    b"last-modified",
    b"etag",
    b"age",
    b"refresh",
    b"content-location",
    b"content-range",
    b"content-disposition",
    b"accept-ranges",
];

/// Whether a response can have a header of this name once only.
pub fn is_single(name: &[u8]) -> bool {
    SINGLE.iter().any(|single| name.eq_ignore_ascii_case(single))
}

/// Whether a header of the response is about its body: it comes with that, and never by its name.
pub fn is_of_body(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"Content-Type") || name.eq_ignore_ascii_case(b"Content-Encoding")
}

/// Whether each header of this name is one more for the client, whoever sends the others.
pub fn adds_up(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"WWW-Authenticate") || name.eq_ignore_ascii_case(b"Set-Cookie")
}

/// The status with which nginx's core answers a request that has ended with `status`: some that are its own become 400.
pub fn status_of_page(status: u16) -> u16 {
    match status {
        494..=497 => 400,
        status => status,
    }
}

/// Whether nginx's core would end the request, and send nothing, for this status.
pub fn ends_request(status: u16) -> bool {
    matches!(status, 408 | 444 | 499)
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
    fn the_first_refusal_decides() {
        let of = |statuses: &[u16]| {
            let answers = statuses.iter().map(|status| Answer { status: *status, made_up: false });
            decisive(answers).map(|answer| answer.status)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[200]), Some(200));
        assert_eq!(of(&[401, 200]), Some(401));
        assert_eq!(of(&[502, 403, 200]), Some(502));
        assert_eq!(of(&[200, 204, 404, 200]), Some(404));
        assert_eq!(of(&[200, 204]), Some(204));
        assert_eq!(of(&[200, 0]), Some(0));
    }

    #[test]
    fn how_to_ask_depends_on_the_body_and_its_limit() {
        for body in [Body::Absent, Body::Unread(None), Body::Unread(Some(5)), Body::Read(5), Body::Gone] {
            assert_eq!(body.how_to_ask(0), How::Bare, "{body:?}");
        }
        assert_eq!(Body::Absent.how_to_ask(10), How::Bare);
        assert_eq!(Body::Unread(None).how_to_ask(10), How::ReadFirst);
        assert_eq!(Body::Unread(Some(10)).how_to_ask(10), How::ReadFirst);
        assert_eq!(Body::Unread(Some(11)).how_to_ask(10), How::TooLarge(11));
        assert_eq!(Body::Read(0).how_to_ask(10), How::WithBody(0));
        assert_eq!(Body::Read(10).how_to_ask(10), How::WithBody(10));
        assert_eq!(Body::Read(11).how_to_ask(10), How::TooLarge(11));
        assert_eq!(Body::Gone.how_to_ask(10), How::BodyIsGone);
    }

    #[test]
    fn an_answer_is_to_the_question_that_was_asked() {
        let (bare, with) = (Sent { body: None, method: 2 }, Sent { body: Some(5), method: 2 });
        assert!(bare.is_as(How::Bare, 2));
        assert!(bare.is_as(How::Bare, 8));
        assert!(!bare.is_as(How::WithBody(5), 2));
        assert!(with.is_as(How::WithBody(5), 2));
        assert!(!with.is_as(How::WithBody(6), 2));
        assert!(!with.is_as(How::WithBody(5), 8));
        assert!(!with.is_as(How::Bare, 2));
        for how in [How::ReadFirst, How::TooLarge(5), How::BodyIsGone] {
            assert!(!bare.is_as(how, 2) && !with.is_as(how, 2), "{how:?}");
        }
    }

    #[test]
    fn headers_of_a_response_are_of_three_kinds() {
        assert!(is_single(b"retry-After") && is_single(b"LOCATION") && is_single(b"Server"));
        assert!(!is_single(b"Set-Cookie") && !is_single(b"Cache-Control") && !is_single(b"X-Reason"));
        assert!(adds_up(b"www-authenticate") && adds_up(b"set-cookie") && !adds_up(b"Location"));
        assert!(is_of_body(b"content-type") && is_of_body(b"Content-encoding") && !is_of_body(b"ETag"));
    }

    #[test]
    fn some_statuses_are_nginx_own() {
        assert_eq!([401, 494, 497, 498].map(status_of_page), [401, 400, 400, 498]);
        assert!(ends_request(408) && ends_request(444) && !ends_request(401));
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
