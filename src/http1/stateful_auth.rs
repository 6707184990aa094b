//! Authentication of connections: with NTLM, and with Negotiate (RFC 4559), which may be NTLM, a server takes the whole
//! connection as authenticated by one request on it. All later requests on it have the rights of that user, so they must not
//! be another client's.
//!
//! ```text
//!   request       Authorization: NTLM ..            the connection belongs to the user, from this request on or from
//!                                                   the last of several such requests on
//!   response      WWW-Authenticate: NTLM            the server would accept such a request
//!                 Persistent-Auth: true             the connection belongs to a user
//! ```
#![forbid(unsafe_code)]

/// The schemes that authenticate a connection, in lower case.
const SCHEMES: [&[u8]; 2] = [b"ntlm", b"negotiate"];

/// Whether the value of `WWW-Authenticate` or `Proxy-Authenticate` has a challenge of such a scheme. A value can have several
/// challenges, separated by commas (RFC 9110, section 11.6.1). A quoted string that does not end hides no challenge.
pub fn challenges(value: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    let mut outside = |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *byte == b',' && !quoted
    };
    let found = value.split(&mut outside).any(has_scheme);
    found || quoted && value.split(|byte| *byte == b',').any(has_scheme)
}

/// Whether the value of `Authorization` or `Proxy-Authorization` has credentials of such a scheme.
pub fn has_scheme(credentials: &[u8]) -> bool {
    let credentials = credentials.trim_ascii();
    let end = credentials.iter().position(u8::is_ascii_whitespace).unwrap_or(credentials.len());
    let scheme = credentials.get(..end).unwrap_or(credentials);
    SCHEMES.iter().any(|name| scheme.eq_ignore_ascii_case(name))
}

/// Whether the value of `Persistent-Auth` says that the connection belongs to a user.
pub fn persists(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"true"))
}

/// Whether the head of an HTTP/1 request has credentials of such a scheme.
pub fn sends_credentials(head: &[u8]) -> bool {
    let lines = head.split(|byte| *byte == b'\n').skip(1).map(<[u8]>::trim_ascii_end);
    lines.take_while(|line| !line.is_empty()).any(|line| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let named = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        (named(b"authorization") || named(b"proxy-authorization")) && value.get(1..).is_some_and(has_scheme)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_a_challenge_among_others() {
        for value in [
            "NTLM",
            "ntlm",
            "Negotiate",
            "NEGOTIATE oRQwEqADCgEA==",
            " NTLM TlRMTVNTUAACAAAA ",
            "Basic realm=\"x\", NTLM",
            "Negotiate,NTLM",
            "Negotiate, Basic realm=\"a, b\"",
            "Basic realm=\"a \\\" b\", Negotiate",
            ",,NTLM",
            "NTLM\tx",
        ] {
            assert!(challenges(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn others_are_none() {
        for value in [
            "",
            "Basic realm=\"NTLM\"",
            "Basic realm=\"a, NTLM, b\"",
            "Basic realm=\"a\\\", NTLM\"",
            "Digest nonce=\"Negotiate\", algorithm=NTLM",
            "NTLMv2",
            "Bearer NTLM",
        ] {
            assert!(!challenges(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn an_endless_quotation_hides_nothing() {
        assert!(challenges(b"Basic realm=\"x, NTLM"));
        assert!(challenges(b"NTLM, Basic realm=\"x"));
        assert!(challenges(b"Basic realm=\"x\\\", Negotiate"));
    }

    #[test]
    fn reads_whether_it_persists() {
        assert!(persists(b"true") && persists(b" TRUE ") && persists(b"false, true"));
        assert!(!persists(b"") && !persists(b"false") && !persists(b"truely"));
    }

    #[test]
    fn finds_credentials_in_a_head() {
        let sends = |head: &str| sends_credentials(head.replace('\n', "\r\n").as_bytes());
        assert!(sends("GET / HTTP/1.1\nHost: a\nauthorization:negotiate x\n\n"));
        assert!(sends("GET / HTTP/1.1\nProxy-Authorization: NTLM x\nHost: a\n\n"));
        assert!(!sends("GET / HTTP/1.1\nAuthorization: Basic NTLM\nX-Authorization: NTLM x\n\n"));
        assert!(!sends("GET / HTTP/1.1\nHost: a\n\nAuthorization: NTLM x\n"));
        assert!(!sends("GET / HTTP/1.1\nAuthorization\n\n") && !sends(""));
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = (challenges(&bytes), persists(&bytes), sends_credentials(&bytes));
        }

        #[test]
        fn a_challenge_is_found_wherever_it_stands(
            before in prop::collection::vec("Basic realm=\"[a-z,]{0,5}\"", 0..3),
            after in prop::collection::vec("[a-z]{1,5} [a-z]{0,4}", 0..3),
            scheme in "(NTLM|Negotiate)( [a-z]{0,4})?",
        ) {
            let all = [before, vec![scheme], after].concat().join(", ");
            prop_assert!(challenges(all.as_bytes()));
        }
    }
}
