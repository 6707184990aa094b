//! The trailer section of a response (RFC 9110, section 6.5).
#![forbid(unsafe_code)]

/// Whether a field of this name, in lower case, may be in a trailer section. Those about framing, routing, authentication, the
/// control of requests and responses, and the format of the content may not (RFC 9110, section 6.5.1): a program that
/// merges trailers into the header would take them for what the header says.
pub(super) fn is_allowed(name: &[u8]) -> bool {
    !FORBIDDEN.contains(&name) && !name.starts_with(b"if-")
}

const FORBIDDEN: [&[u8]; 27] = [
    // Framing and routing.
    b"content-length",
    b"trailer",
    b"host",
    b"max-forwards",
    // The control of requests and responses.
    b"cache-control",
    b"expect",
    b"pragma",
    b"range",
    b"age",
    b"date",
    b"expires",
    b"location",
    b"retry-after",
    b"vary",
    b"warning",
    b"etag",
    // Authentication and state.
    b"authorization",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"www-authenticate",
    b"authentication-info",
    b"proxy-authentication-info",
    b"cookie",
    b"set-cookie",
    // The format of the content.
    b"content-encoding",
    b"content-type",
    b"content-range",
];
