//! Header names in directives, and when two names mean the same header to a server.
#![forbid(unsafe_code)]

use crate::directive::{Allowed, Invalid};

/// Header names that no directive may name: those of message framing and of the connection (RFC 9110, section 7.6.1; RFC
/// 9112, section 6), and `Host`. nginx sets them.
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
/// [`Invalid::Header`] unless the word is a field name (RFC 9110, section 5.1) that does not concern the framing. A dollar
/// sign is refused too: it is meant as a variable, and the directive accepts none.
pub fn parse_header<'a>(directive: &'static str, word: &'a [u8]) -> Result<&'a [u8], Invalid<'a>> {
    const NAME: Allowed = Allowed::Words("it must have letters, digits and any of !#%&'*+-.^_`|~ only");
    const NOT_FRAMING: Allowed = Allowed::Words("nginx itself sets this header");
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#%&'*+-.^_`|~".contains(byte);
    let is_name = !word.is_empty() && word.iter().all(is_token);
    if !is_name {
        return Err(Invalid::Header(directive, word, NAME));
    }
    if FRAMING.iter().any(|name| is_same_header(name, word)) {
        return Err(Invalid::Header(directive, word, NOT_FRAMING));
    }
    Ok(word)
}

/// Whether a server may confuse the header that was sent with the header `name`.
///
/// Case does not matter (RFC 9110, section 5.1). A program that receives headers as variables sees `X-User` as `X_User` (RFC
/// 3875, section 4.1.18). Many programs also replace each byte that a variable name cannot have by an underscore: PHP does so
/// with `X.User` and `X[User`, others with every byte that is neither a letter nor a digit; from `X-User[a]` PHP makes an
/// array with the name `X_User`. Bytes that are not ASCII are not allowed in a name, but nginx passes them with
/// `ignore_invalid_headers off`. What they become depends on how the program decodes text: the byte 0xDF may end as `SS`, two
/// bytes as one letter or as none. So they match anything.
pub fn is_same_header(name: &[u8], sent: &[u8]) -> bool {
    let (mut at, mut sent_at) = (0, 0);
    // After a byte that matches anything: the positions in both names at which the next attempt starts.
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
            (Some(expected), Some(byte)) if normalized(*byte) == normalized(*expected) => {
                (at, sent_at) = (at + 1, sent_at + 1);
            }
            _ => {
                let Some((from, sent_from)) = retry.filter(|(from, _)| *from < name.len()) else {
                    return false;
                };
                (at, sent_at) = (from + 1, sent_from);
                retry = Some((at, sent_from));
            }
        }
    }
    true
}

/// The byte as it appears in the name of a variable.
fn normalized(byte: u8) -> u8 {
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

    #[test]
    fn accepts_names_that_do_not_frame() {
        for name in ["X-User", "x_user", "Authorization", "a"] {
            assert_eq!(parse_header("d", name.as_bytes()), Ok(name.as_bytes()));
        }
        let refuses = |name: &str, why: &str| {
            let message = format!("invalid header name \"{name}\" in \"d\" directive, {why}");
            assert_eq!(parse_header("d", name.as_bytes()).map_err(|err| err.to_string()), Err(message));
        };
        for name in ["", "X User", "X:User", "$user", "X\u{e9}"] {
            refuses(name, "it must have letters, digits and any of !#%&'*+-.^_`|~ only");
        }
        for name in ["Host", "content_length", "TRANSFER-ENCODING"] {
            refuses(name, "nginx itself sets this header");
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
    fn bytes_that_are_not_ascii_match_anything() {
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

    /// The rule without optimisation, as a reference.
    fn reference(name: &[u8], sent: &[u8]) -> bool {
        match (name, sent) {
            (_, [byte, rest @ ..]) if *byte >= 0x80 => {
                rest.contains(&b'[')
                    || (0..=name.len()).any(|skipped| reference(name.get(skipped..).unwrap_or(&[]), rest))
            }
            ([], [] | [b'[', ..]) => true,
            ([one, name @ ..], [other, sent @ ..]) => {
                let is_separator = |byte: &u8| !byte.is_ascii_alphanumeric();
                let is_same = one.eq_ignore_ascii_case(other) || is_separator(one) && is_separator(other);
                is_same && reference(name, sent)
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
        fn agrees_with_the_reference(
            name in proptest::collection::vec(prop::sample::select(b"aAbB1-_".to_vec()), 0..7),
            sent in proptest::collection::vec(byte(), 0..9),
        ) {
            prop_assert_eq!(is_same_header(&name, &sent), reference(&name, &sent));
        }

        #[test]
        fn each_spelling_of_a_header_is_the_same(
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
