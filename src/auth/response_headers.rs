//! Which headers of a denial pass to the client, and which statuses nginx's core treats specially.
#![forbid(unsafe_code)]

/// Response headers that occur once at most: a second one is left out (RFC 9110, section 5.3).
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

/// Whether a response can have only one header of this name.
pub fn is_single(name: &[u8]) -> bool {
    SINGLE.iter().any(|single| name.eq_ignore_ascii_case(single))
}

/// Whether the header describes the response's body: it passes together with the body, and never by its name.
pub fn describes_body(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"Content-Type") || name.eq_ignore_ascii_case(b"Content-Encoding")
}

/// Whether a header of this name is added even if the response already has one.
pub fn is_repeatable(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"WWW-Authenticate") || name.eq_ignore_ascii_case(b"Set-Cookie")
}

/// The status that nginx's core sends for a request that ended with `status`: some of its internal ones become 400, as in
/// `ngx_http_special_response_handler()`.
pub fn error_page_status(status: u16) -> u16 {
    match status {
        494..=497 => 400,
        status => status,
    }
}

/// Whether nginx's core would end the request with this status without sending a response.
pub fn closes_request(status: u16) -> bool {
    matches!(status, 408 | 444 | 499)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_headers_are_of_three_kinds() {
        assert!(is_single(b"retry-After") && is_single(b"LOCATION") && is_single(b"Server"));
        assert!(!is_single(b"Set-Cookie") && !is_single(b"Cache-Control") && !is_single(b"X-Reason"));
        assert!(is_repeatable(b"www-authenticate") && is_repeatable(b"set-cookie"));
        assert!(!is_repeatable(b"Location"));
        assert!(describes_body(b"content-type") && describes_body(b"Content-encoding"));
        assert!(!describes_body(b"ETag"));
    }

    #[test]
    fn some_statuses_are_internal_to_nginx() {
        assert_eq!([401, 494, 497, 498].map(error_page_status), [401, 400, 400, 498]);
        assert!(closes_request(408) && closes_request(444) && !closes_request(401));
    }
}
