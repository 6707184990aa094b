//! The head of a request, as nginx wrote it for the server. It announces the length of the body, so it tells whether the
//! request was sent completely. A server takes whatever follows the announced body as the next request.
#![forbid(unsafe_code)]

/// What the head of an HTTP/1 request announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The length of the head in bytes, including the empty line.
    length: u64,
    /// The value of `Content-Length`.
    body: Option<u64>,
    /// Whether there is a `Transfer-Encoding`.
    chunked: bool,
}

impl RequestHead {
    /// Reads the head at the beginning of `bytes`. `None` if it is not a complete HTTP/1 head, or if it has contradictory
    /// lengths of the body (RFC 9112, section 6.3).
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut head = Self { length: 0, body: None, chunked: false };
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = bytes.get(begin..end)?.strip_suffix(b"\r")?;
            match line.first() {
                _ if begin == 0 => is_http1(line).then_some(())?,
                None => {
                    head.length = end as u64 + 1;
                    return Some(head);
                }
                // Neither of the two names begins with another letter.
                Some(b'c' | b'C' | b't' | b'T') => head.add(line)?,
                Some(_) => {}
            }
            begin = end + 1;
        }
        None
    }

    /// Reads a header field. `None` if its length is malformed or contradicts an earlier one.
    fn add(&mut self, line: &[u8]) -> Option<()> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            let body = length(value.get(1..)?)?;
            if self.body.is_some_and(|before| before != body) {
                return None;
            }
            self.body = Some(body);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        }
        Some(())
    }

    /// Whether exactly the announced request was sent. `sent` is the number of bytes, including the head; `chunks` says that
    /// the body was sent in chunks, including the last one.
    pub fn is_all_sent(&self, sent: u64, chunks: bool) -> bool {
        match self.body {
            Some(_) if self.chunked => false,
            None if self.chunked => chunks,
            body => self.length.checked_add(body.unwrap_or(0)) == Some(sent),
        }
    }
}

/// The number that is the value of a `Content-Length`, between spaces and tabs only: a server that does not accept other whitespace sees
/// no length there. `None` if it is none, or too large.
fn length(mut value: &[u8]) -> Option<u64> {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether the head may announce a body. `false` is certain, `true` is not. It is called for every request, so it looks
/// only at some letters of each line, where `Content-Length` and `Transfer-Encoding` differ from other headers.
#[inline(always)]
pub fn may_announce_body(head: &[u8]) -> bool {
    // Few other lines have this eleventh letter.
    has_line(head, eleventh_letter) && has_line(head, two_letters)
}

/// How many positions are compared at a time. The compiler uses vector instructions for them.
const LANES: usize = 16;

/// The bytes that are read for them: the positions, and those behind the last one.
const PART: usize = LANES + 11;

/// Whether `look` returns 0 for one of the lines; it gets a part of the head, and where in it the byte before the line is.
#[inline(always)]
fn has_line(head: &[u8], look: impl Fn(&[u8; PART], usize) -> u8) -> bool {
    let mut least = [u8::MAX; LANES];
    let mut look_at = |part: &[u8; PART]| {
        for (at, least) in least.iter_mut().enumerate() {
            *least = (*least).min(look(part, at));
        }
    };
    let mut rest = head;
    // Two at a time, which saves a part of what the loop needs.
    while let Some(parts) = rest.first_chunk::<{ LANES + PART }>() {
        for part in [0, LANES].into_iter().filter_map(|at| parts.get(at..)?.first_chunk()) {
            look_at(part);
        }
        rest = rest.get(2 * LANES..).unwrap_or(&[]);
    }
    while let Some(part) = rest.first_chunk() {
        look_at(part);
        rest = rest.get(LANES..).unwrap_or(&[]);
    }
    match head.last_chunk() {
        Some(part) => look_at(part),
        // Too short for a request line and either name.
        None => return false,
    }
    least.iter().fold(u8::MAX, |least, other| least.min(*other)) == 0
}

/// Returns 0 if the eleventh letter of the line is that of `Content-Length` and `Transfer-Encoding`.
#[inline(always)]
fn eleventh_letter(part: &[u8; PART], at: usize) -> u8 {
    (part[at] ^ b'\n') | ((part[at + 11] | 0x20) ^ b'n')
}

/// The same of the first and the ninth letter of one of them.
#[inline(always)]
fn two_letters(part: &[u8; PART], at: usize) -> u8 {
    let (first, ninth) = (part[at + 1] | 0x20, part[at + 9] | 0x20);
    let length = (first ^ b'c') | (ninth ^ b'l');
    let encoding = (first ^ b't') | (ninth ^ b'-');
    (part[at] ^ b'\n') | length.min(encoding)
}

/// What in a request makes the server close the connection after the response (RFC 9112, section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsksToClose {
    /// The version is HTTP/1.0.
    Version,
    /// The header `Connection: close`.
    Header,
}

/// What in a request asks the server to close the connection; `None` if nothing does.
pub fn asks_to_close(head: &[u8]) -> Option<AsksToClose> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    if lines.next()?.ends_with(b" HTTP/1.0") {
        return Some(AsksToClose::Version);
    }
    let close = |line: &[u8]| {
        let (name, value) = line.split_at_checked("connection".len())?;
        let options = value.strip_prefix(b":").filter(|_| name.eq_ignore_ascii_case(b"connection"))?;
        says_close(options).then_some(AsksToClose::Header)
    };
    lines.take_while(|line| !line.is_empty()).find_map(close)
}

/// Whether the value of a header `Connection` has the option `close` (RFC 9110, section 7.6.1).
pub fn says_close(options: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Whether this is the first line of an HTTP/1 request.
pub fn is_http1(line: &[u8]) -> bool {
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_may_want_its_connection_to_be_closed() {
        let asks = |head: &str| asks_to_close(head.replace('\n', "\r\n").as_bytes());
        assert_eq!(asks("GET / HTTP/1.0\nHost: a\n\n"), Some(AsksToClose::Version));
        assert_eq!(asks("GET / HTTP/1.1\nHost: a\nconnection:  Close\n\n"), Some(AsksToClose::Header));
        assert_eq!(asks("GET / HTTP/1.1\nConnection: TE, close\n\n"), Some(AsksToClose::Header));
        assert_eq!(asks("GET / HTTP/1.1\nConnection: \nX: close\n\nConnection: close\n"), None);
        assert_eq!(asks("GET / HTTP/1.1\nConnection: closed\nConnection-Id: close\n\n"), None);
        assert_eq!(asks(""), None);
    }

    fn all_sent(head: &str, body: u64, chunks: bool) -> Option<bool> {
        let text = head.replace('\n', "\r\n");
        let length = text.find("\r\n\r\n").map_or(text.len(), |at| at + 4) as u64;
        RequestHead::read(text.as_bytes()).map(|head| head.is_all_sent(length + body, chunks))
    }

    #[test]
    fn so_much_is_sent_as_is_announced() {
        assert_eq!(all_sent("GET / HTTP/1.1\nHost: a\n\n", 0, false), Some(true));
        assert_eq!(all_sent("GET / HTTP/1.1\nHost: a\n\n", 1, false), Some(false));
        let post = "POST / HTTP/1.0\nHost: a\ncontent-LENGTH: 12\n\nwhat follows";
        assert_eq!(all_sent(post, 12, false), Some(true));
        assert_eq!(all_sent(post, 0, false), Some(false));
        assert_eq!(all_sent(post, 11, false), Some(false));
        assert_eq!(all_sent(post, 13, false), Some(false));
    }

    #[test]
    fn chunks_are_announced() {
        let post = "POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n";
        assert_eq!(all_sent(post, 50, true), Some(true));
        assert_eq!(all_sent(post, 50, false), Some(false));
        assert_eq!(all_sent("POST / HTTP/1.1\nHost: a\n\n", 50, true), Some(false));
    }

    #[test]
    fn most_heads_can_be_told_from_those_that_announce_a_body() {
        let may = |head: &str| may_announce_body(head.replace('\n', "\r\n").as_bytes());
        for header in [
            "Content-Length: 0",
            "content-length:5",
            "CONTENT-LENGTH:",
            "Transfer-Encoding: x",
            "transfer-encoding:x",
        ] {
            assert!(may(&format!("GET / HTTP/1.1\n{header}\n\n")), "{header}");
            assert!(may(&format!("GET / HTTP/1.1\nHost: a\n{header}\nAccept: b\n\n")), "{header}");
        }
        assert!(!may("GET /content-length HTTP/1.1\nHost: transfer-encoding\nContent-Type: a/b\nConnection: x\nCookie: a=b\nTe: a\n\n"));
        for head in ["", "\n", "\nContent-", "GET / HTTP/1.1\n\n"] {
            assert!(!may(head), "{head:?}");
        }
    }

    #[test]
    fn a_name_is_found_at_every_place() {
        for name in ["Content-Length:", "content-lengtH:", "Transfer-Encoding:", "tRANSFER-eNCODING:"] {
            for (before, behind) in (0..80).flat_map(|before| (0..80).map(move |behind| (before, behind))) {
                let (before, behind) = ("n".repeat(before), "n".repeat(behind));
                assert!(may_announce_body(format!("{before}GET / HTTP/1.1\r\n{name}{behind}").as_bytes()));
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_announced_is_not_missed(
            lines in prop::collection::vec("[A-Za-z-]{1,20}: ?[a-z0-9 ]{0,20}", 0..6),
            name in "[cC]ontent-[lL]ength|[tT][rR]ansfer-[eE]ncoding",
            at in any::<prop::sample::Index>(),
        ) {
            let mut lines = lines;
            lines.insert(at.index(lines.len() + 1), format!("{name}: 1"));
            let head = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
            prop_assert!(may_announce_body(head.as_bytes()));
        }
    }

    #[test]
    fn what_is_said_twice_must_be_the_same() {
        let twice = |value| format!("POST / HTTP/1.1\nContent-Length: 1\nContent-Length: {value}\n\n");
        assert_eq!(all_sent(&twice("1"), 1, false), Some(true));
        assert_eq!(all_sent(&twice("2"), 1, false), None);
        let both = "POST / HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked\n\n";
        assert_eq!(all_sent(both, 5, true), Some(false));
        for value in ["", "x", "-1", "+1", "1 2", "99999999999999999999999", "\u{a0}1", "1\u{3000}", "\x0b1"]
        {
            let head = format!("POST / HTTP/1.1\nContent-Length: {value}\n\n");
            assert_eq!(all_sent(&head, 1, false), None, "{value:?}");
        }
    }

    #[test]
    fn what_is_not_http1_is_not_known() {
        for head in [
            "",
            "\n",
            "GET / HTTP/2.0\n\n",
            "PRI * HTTP/2.0\n\nSM\n\n",
            "GET / HTTP/1.1\nHost: a\n",
            "GET / HTTP/1.1",
        ] {
            assert_eq!(all_sent(head, 0, false), None, "{head:?}");
        }
    }
}
