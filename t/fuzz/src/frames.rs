//! The head of an HTTP/2 request whose stream number is set back: nothing else changes.
#![forbid(unsafe_code)]

use keepalive::http2::frames::number_as_first;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn target(data: &[u8]) {
    check(data);
    check(&[PREFACE, data].concat());
}

fn check(data: &[u8]) {
    let mut numbered = data.to_vec();
    let is_whole = number_as_first(&mut numbered);
    let expected = expected(data);
    assert_eq!(is_whole, expected.is_some());
    if let Some(expected) = expected {
        assert_eq!(numbered, expected);
        assert!(number_as_first(&mut numbered));
        assert_eq!(numbered, expected);
    }
}

/// The expected head, built from the start; the module writes in place.
fn expected(data: &[u8]) -> Option<Vec<u8>> {
    let mut expected = PREFACE.to_vec();
    let mut at = data.strip_prefix(PREFACE)?;
    while let [high, middle, low, kind, flags, a, b, c, d, rest @ ..] = at {
        let length = (usize::from(*high) << 16) | (usize::from(*middle) << 8) | usize::from(*low);
        let stream = if [a, b, c, d] == [&0; 4] { [0; 4] } else { [0, 0, 0, 1] };
        expected.extend([high, middle, low, kind, flags]);
        expected.extend(stream);
        expected.extend(rest.get(..length)?);
        at = &rest[length..];
    }
    at.is_empty().then_some(expected)
}
