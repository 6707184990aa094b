//! The headers that tie a connection to a user. A naive second version reads them byte by byte.
#![forbid(unsafe_code)]

use keepalive::http1::stateful_auth::{challenges, has_scheme, persists, sends_credentials};

/// The bytes are the value of a header, and, behind a first line, the head of a request.
pub fn target(data: &[u8]) {
    assert_eq!(challenges(data), naive(data), "{}", String::from_utf8_lossy(data));
    assert!(!has_scheme(data) || data.contains(&b'"') || data.contains(&b',') || challenges(data));
    let _ = persists(data);

    let line: Vec<u8> = data.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let head = |name: &[u8]| [b"GET / HTTP/1.1\r\nHost: a\r\n", name, b":", &line, b"\r\n\r\n"].concat();
    assert_eq!(sends_credentials(&head(b"aUTHORIZATION")), has_scheme(&line));
    assert_eq!(sends_credentials(&head(b"Proxy-Authorization")), has_scheme(&line));
    assert!(!sends_credentials(&head(b"X-Authorization")));
    let _ = sends_credentials(data);
}

/// The parts between commas, those in quotations left out unless a quotation does not end.
fn naive(value: &[u8]) -> bool {
    let (mut parts, mut part, mut quoted, mut at) = (Vec::new(), Vec::new(), false, 0);
    while let Some(byte) = value.get(at) {
        match byte {
            b'\\' if quoted => {
                part.push(*byte);
                at += 1;
                part.extend(value.get(at));
            }
            b',' if !quoted => parts.push(std::mem::take(&mut part)),
            _ => {
                quoted ^= *byte == b'"';
                part.push(*byte);
            }
        }
        at += 1;
    }
    parts.push(part);
    if quoted {
        parts.extend(value.split(|byte| *byte == b',').map(<[u8]>::to_vec));
    }
    parts.iter().any(|part| {
        let text = String::from_utf8_lossy(part).to_ascii_lowercase();
        let word = text.split([' ', '\t', '\n', '\r', '\x0c']).find(|word| !word.is_empty());
        matches!(word, Some("ntlm" | "negotiate"))
    })
}
