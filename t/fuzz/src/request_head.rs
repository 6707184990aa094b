//! What the module reads in the head of a request, which has headers of the client: whether it announces a body, how long
//! that is, and whether the connection is to be closed. If the module and the server disagreed about the length of a body, one
//! client could send a request in the name of the next.
#![forbid(unsafe_code)]

use keepalive::http1::request_head::{
    asks_to_close, may_announce_body, says_close, AsksToClose, RequestHead,
};

pub fn target(data: &[u8]) {
    let expected = announced(data);
    let head = RequestHead::read(data);
    assert_eq!(head.is_some(), expected.is_some());
    if let (Some(head), Some(expected)) = (head, expected) {
        is_all_sent(head, &expected);
        let announces = expected.body.is_some() || expected.chunked;
        assert!(!announces || may_announce_body(data));
    }
    if may_announce_body(data) {
        assert!(data.windows(2).any(|pair| matches!(pair, [b'\n', b'c' | b'C' | b't' | b'T'])));
    }
    assert_eq!(asks_to_close(data), closes(data));
    close_is_an_option_of(data);
}

struct Announced {
    length: u64,
    body: Option<u64>,
    chunked: bool,
}

/// Read in several passes, each of which does one thing.
fn announced(data: &[u8]) -> Option<Announced> {
    let length = 3 + data.windows(3).position(|bytes| bytes == b"\n\r\n")?;
    let head = &data[..length];
    let ends: Vec<usize> = (0..length).filter(|at| head[*at] == b'\n').collect();
    if ends.iter().any(|end| *end == 0 || head[*end - 1] != b'\r') {
        return None;
    }
    let line_ends = ends.iter().map(|end| end - 1);
    let line_starts = [0].into_iter().chain(ends.iter().map(|end| end + 1));
    let lines: Vec<&[u8]> = line_starts.zip(line_ends).map(|(start, end)| &head[start..end]).collect();
    let (first, fields) = lines.split_first()?;
    if !(first.ends_with(b" HTTP/1.0") || first.ends_with(b" HTTP/1.1")) {
        return None;
    }
    let mut lengths = Vec::new();
    for line in fields {
        let (name, value) = split_field(line);
        if name == b"content-length" {
            lengths.push(number(value?)?);
        }
    }
    if lengths.iter().any(|length| *length != lengths[0]) {
        return None;
    }
    let chunked = fields.iter().any(|line| split_field(line).0 == b"transfer-encoding");
    Some(Announced { length: length as u64, body: lengths.first().copied(), chunked })
}

fn split_field(line: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    (parts.next().unwrap_or_default().to_ascii_lowercase(), parts.next())
}

/// The value of `Content-Length`: digits, and blanks around them (RFC 9110, sections 5.6.3 and 8.6).
fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let digits = !text.is_empty() && text.chars().all(|digit| digit.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn is_all_sent(head: RequestHead, expected: &Announced) {
    let whole = expected.length.checked_add(expected.body.unwrap_or(0));
    let around = |number: u64| [number.wrapping_sub(1), number, number.wrapping_add(1)];
    for sent in [expected.length, whole.unwrap_or(0), 0].into_iter().flat_map(around) {
        for chunks in [false, true] {
            let is_all = match (expected.chunked, expected.body) {
                (true, Some(_)) => false,
                (true, None) => chunks,
                (false, _) => whole == Some(sent),
            };
            assert_eq!(head.is_all_sent(sent, chunks), is_all, "{sent} {chunks}");
        }
    }
}

fn closes(data: &[u8]) -> Option<AsksToClose> {
    let text: String = data.iter().map(|byte| char::from(*byte)).collect();
    let blanks = [' ', '\t', '\n', '\r', '\x0c'];
    let mut lines = text.split('\n').map(|line| line.trim_end_matches(blanks));
    if lines.next().is_some_and(|line| line.ends_with(" HTTP/1.0")) {
        return Some(AsksToClose::Version);
    }
    let mut fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let closes = fields.any(|(name, value)| {
        let mut options = value.split(',').map(|option| option.trim_matches(blanks));
        name.eq_ignore_ascii_case("connection") && options.any(|option| option.eq_ignore_ascii_case("close"))
    });
    closes.then_some(AsksToClose::Header)
}

fn close_is_an_option_of(value: &[u8]) {
    let closes = says_close(value);
    for other in ["te", "closed", "\"close\"", ""] {
        assert_eq!(says_close(&[value, b", ", other.as_bytes()].concat()), closes);
        assert_eq!(says_close(&[other.as_bytes(), b" ,", value].concat()), closes);
    }
    assert!(says_close(&[value, b",\tcLose "].concat()));
    let mentions = value.windows(5).any(|word| word.eq_ignore_ascii_case(b"close"));
    assert!(!closes || mentions);
}
