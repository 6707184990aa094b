#![forbid(unsafe_code)]

use super::*;
use crate::http2::hpack::Encoder;
use proptest::prelude::*;

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.extend(bytes);
        Some(())
    }
}

/// What the server sends: a header block as lines, or content. Each says whether it ends the stream.
#[derive(Clone, Copy, Debug)]
enum Frame<'a> {
    Head(&'a str, bool),
    Data(&'a str, bool),
}
use Frame::{Data, Head as Block};

const END: bool = true;

fn block(lines: &str) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut encoder = Encoder::new(&mut bytes);
    for line in lines.split('\n').filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        encoder.field(name.as_bytes(), value.as_bytes(), false).unwrap();
    }
    let length = encoder.length();
    bytes.truncate(length);
    bytes
}

const LIMITS: Limits = Limits { fields: 100, bytes: 10_000 };

fn feed(response: &mut Response, frame: Frame<'_>, out: &mut impl Sink) -> Result<(), Malformed> {
    match frame {
        Block(lines, end) => response.head(&block(lines), end, &mut [0; 4096], LIMITS, out).map(|_| ()),
        Data(payload, end) => response.data(payload.as_bytes(), end, out),
    }
}

/// What nginx reads, with line feeds as ends of lines, and whether the response is complete.
fn read(is_head: bool, frames: &[Frame<'_>]) -> Result<(String, bool), Malformed> {
    let (mut response, mut out) = (Response::new(is_head), Vec::new());
    for frame in frames {
        feed(&mut response, *frame, &mut out)?;
    }
    Ok((String::from_utf8_lossy(&out).replace("\r\n", "\n"), response.is_complete()))
}

/// What nginx reads of a complete response to GET.
fn whole(frames: &[Frame<'_>]) -> Result<String, Malformed> {
    read(false, frames).map(|(text, is_complete)| {
        assert!(is_complete, "{text}");
        text
    })
}

#[test]
fn a_known_length_is_passed_on() {
    let frames = [Block(":status: 200\ncontent-length: 5\nx: y", false), Data("hel", false), Data("lo", END)];
    assert_eq!(whole(&frames), Ok("HTTP/1.1 200 OK\ncontent-length: 5\nx: y\n\nhello".to_owned()));
    assert!(!read(false, &frames[..2]).unwrap().1);
    let twice = [
        Block(":status: 200\ncontent-length: 1\ncontent-length: 01", false),
        Data("a", false),
        Data("", END),
    ];
    assert_eq!(whole(&twice), Ok("HTTP/1.1 200 OK\ncontent-length: 1\n\na".to_owned()));
}

#[test]
fn an_unknown_length_becomes_chunks() {
    let long = "x".repeat(26);
    let frames =
        [Block(":status: 200", false), Data("a", false), Data("", false), Data(&long, false), Data("", END)];
    let chunks = format!("1\na\n1a\n{long}\n0\n\n");
    assert_eq!(whole(&frames), Ok(format!("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n{chunks}")));
    let one = whole(&[Block(":status: 404", false), Data("a", END)]);
    assert_eq!(one, Ok("HTTP/1.1 404 Not Found\ntransfer-encoding: chunked\n\n1\na\n0\n\n".to_owned()));
}

#[test]
fn chunks_have_sizes_of_any_length() {
    for length in [1, 9, 10, 15, 16, 255, 256, 16_384, 1_048_577] {
        let mut out = Vec::new();
        chunk(&vec![b'x'; length], false, &mut out).unwrap();
        assert!(out.starts_with(format!("{length:x}\r\nx").as_bytes()), "{length}");
        assert!(out.ends_with(b"x\r\n"));
    }
}

#[test]
fn a_response_without_content_says_so() {
    let empty = whole(&[Block(":status: 200\nx: y", END)]);
    assert_eq!(empty, Ok("HTTP/1.1 200 OK\nx: y\ncontent-length: 0\n\n".to_owned()));
    let zero = whole(&[Block(":status: 200\ncontent-length: 0", END)]);
    assert_eq!(zero, Ok("HTTP/1.1 200 OK\ncontent-length: 0\n\n".to_owned()));
}

#[test]
fn some_responses_have_no_content() {
    for (status, is_head) in [("200", true), ("304", false)] {
        for rest in [&[Data("", END)][..], &[Data("", false), Block("x: y", END)]] {
            let lines = format!(":status: {status}\ncontent-length: 12");
            let (text, is_complete) = read(is_head, &[&[Block(&lines, false)], rest].concat()).unwrap();
            assert!(text.ends_with("\ncontent-length: 12\n\n") && is_complete, "{text}");
            let at_once = read(is_head, &[Block(&lines, END)]);
            assert_eq!(at_once, Ok((text, true)));
        }
        let lines = format!(":status: {status}");
        assert_eq!(read(is_head, &[Block(&lines, false), Data("a", END)]), Err(Malformed::NoContent));
    }
    for end in [false, END] {
        let (text, is_complete) =
            read(false, &[Block(":status: 204\ncontent-length: 5\nx: y", end)]).unwrap();
        assert_eq!((&text[..], is_complete), ("HTTP/1.1 204 No Content\nx: y\n\n", end));
    }
    assert_eq!(whole(&[Block(":status: 204", false), Data("a", false)]), Err(Malformed::NoContent));
    assert_eq!(whole(&[Block(":status: 204\ncontent-length: a", END)]), Err(Malformed::Length));
}

#[test]
fn interim_responses_are_left_out() {
    let frames =
        [Block(":status: 100", false), Block(":status: 103\nlink: </a>", false), Block(":status: 200", END)];
    assert_eq!(whole(&frames), Ok("HTTP/1.1 200 OK\ncontent-length: 0\n\n".to_owned()));
    assert_eq!(whole(&[Block(":status: 100", END)]), Err(Malformed::EarlyEnd));
    assert_eq!(whole(&[Block(":status: 101", false)]), Err(Malformed::SwitchingProtocols));
    assert_eq!(whole(&[Block(":status: 103\nx: a\rb", false)]), Err(Malformed::Value));
    assert_eq!(whole(&[Block(":status: 100", false), Data("", false)]), Err(Malformed::EarlyData));
}

#[test]
fn the_kind_of_each_header_block_is_told() {
    let (mut response, mut out) = (Response::new(false), Vec::new());
    for (lines, end, kind) in [
        (":status: 103", false, Head::Interim),
        (":status: 200", false, Head::Final),
        ("x: y", END, Head::Trailers),
    ] {
        assert_eq!(response.head(&block(lines), end, &mut [0; 99], LIMITS, &mut out), Ok(kind));
    }
}

#[test]
fn there_is_one_status_and_it_comes_first() {
    for lines in [
        "",
        "x: y",
        "x: y\n:status: 200",
        ":path: 200",
        ":status: 99",
        ":status: 600",
        ":status: 20",
        ":status: 0200",
        ":status: 2x0",
        ":status: +20",
        ":status: ",
        "status: 200",
    ] {
        assert_eq!(whole(&[Block(lines, END)]), Err(Malformed::Status), "{lines:?}");
    }
    for lines in [":status: 200\n:status: 200", ":status: 200\n:path: /", ":status: 200\nx: y\n:status: 200"]
    {
        assert_eq!(whole(&[Block(lines, END)]), Err(Malformed::Pseudo), "{lines:?}");
    }
    assert_eq!(whole(&[Block(":status: 599", END)]), Ok("HTTP/1.1 599 \ncontent-length: 0\n\n".to_owned()));
}

#[test]
fn names_and_values_are_valid() {
    for line in ["X: y", "x y: z", "x\r: y", "\u{e4}: y", "x(: y", "x\0: y", ": y"] {
        assert_eq!(whole(&[Block(&format!(":status: 200\n{line}"), END)]), Err(Malformed::Name), "{line:?}");
    }
    for byte in (0..0x20).chain([0x7f]).map(char::from).filter(|byte| !"\t\n".contains(*byte)) {
        let lines = format!(":status: 200\nx: a{byte}b");
        assert_eq!(whole(&[Block(&lines, END)]), Err(Malformed::Value), "{byte:?}");
    }
    let mut with_line_feed = block(":status: 200\nx: a-b");
    let last = with_line_feed.len() - 2;
    with_line_feed[last] = b'\n';
    let result = Response::new(false).head(&with_line_feed, END, &mut [0; 99], LIMITS, &mut Vec::new());
    assert_eq!(result, Err(Malformed::Value));
    assert_eq!(whole(&[Block(":status: 200\nx:  a", END)]), Err(Malformed::Value));
    assert_eq!(whole(&[Block(":status: 200\nx: a ", END)]), Err(Malformed::Value));
    assert!(whole(&[Block(":status: 200\nx: \nset-cookie: a\tb\u{e4}\nset-cookie: c", END)]).is_ok());
}

#[test]
fn fields_of_a_connection_are_malformed() {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"] {
        let lines = format!("{name}: trailers");
        let head = format!(":status: 200\n{lines}");
        assert_eq!(whole(&[Block(&head, END)]), Err(Malformed::Connection), "{name}");
        assert_eq!(whole(&[Block(":status: 200", false), Block(&lines, END)]), Err(Malformed::Connection));
    }
}

#[test]
fn a_length_is_one_number() {
    for lengths in ["x", "-1", "", "1,1", "18446744073709551616", "1\ncontent-length: 2"] {
        let lines = format!(":status: 200\ncontent-length: {lengths}");
        assert_eq!(whole(&[Block(&lines, false)]), Err(Malformed::Length), "{lengths}");
    }
}

#[test]
fn the_content_has_the_length_that_was_announced() {
    let head = Block(":status: 200\ncontent-length: 3", false);
    for frames in [
        &[Block(":status: 200\ncontent-length: 3", END)][..],
        &[head, Data("ab", END)],
        &[head, Data("abcd", false)],
        &[head, Data("abc", false), Data("d", END)],
        &[head, Data("", END)],
        &[head, Data("ab", false), Block("x: y", END)],
    ] {
        assert_eq!(whole(frames), Err(Malformed::ContentLength), "{frames:?}");
    }
}

#[test]
fn trailers_follow_the_last_chunk() {
    let trailers = "grpc-status: 0\ncontent-length: 9\nset-cookie: a\nif-match: b\nx: y";
    let frames = [Block(":status: 200", false), Data("a", false), Block(trailers, END)];
    let text = whole(&frames).unwrap();
    assert!(text.ends_with("chunked\n\n1\na\n0\ngrpc-status: 0\nx: y\n\n"), "{text}");
    let head = Block(":status: 200\ncontent-length: 1", false);
    let text = whole(&[head, Data("a", false), Block(trailers, END)]).unwrap();
    assert!(text.ends_with("\n\na"), "{text}");
    let text = whole(&[Block(":status: 200", false), Block("", END)]).unwrap();
    assert!(text.ends_with("chunked\n\n0\n\n"), "{text}");
}

#[test]
fn trailers_end_the_stream_and_are_fields() {
    let head = Block(":status: 200", false);
    assert_eq!(whole(&[head, Block("x: y", false)]), Err(Malformed::Trailers));
    assert_eq!(whole(&[head, Block(":status: 200", END)]), Err(Malformed::Pseudo));
    assert_eq!(whole(&[head, Block("X: y", END)]), Err(Malformed::Name));
}

#[test]
fn nothing_comes_before_the_header_or_behind_the_end() {
    assert_eq!(whole(&[Data("a", false)]), Err(Malformed::EarlyData));
    assert_eq!(whole(&[Data("", END)]), Err(Malformed::EarlyEnd));
    let (head, end) = (Block(":status: 200", false), Data("", END));
    for behind in [Data("", false), Data("a", END), Block("x: y", END), Block(":status: 200", false)] {
        assert_eq!(whole(&[head, end, behind]), Err(Malformed::Ended), "{behind:?}");
        assert_eq!(whole(&[Block(":status: 200", END), behind]), Err(Malformed::Ended), "{behind:?}");
        assert_eq!(whole(&[head, Block("x: y", END), behind]), Err(Malformed::Ended), "{behind:?}");
    }
}

#[test]
fn a_lack_of_memory_is_no_success() {
    struct Room(usize);
    impl Sink for Room {
        fn put(&mut self, bytes: &[u8]) -> Option<()> {
            self.0 = self.0.checked_sub(bytes.len())?;
            Some(())
        }
    }
    let frames = [Block(":status: 299\nx: y", false), Data("hello", false), Block("a: b", END)];
    let length = whole(&frames).unwrap().replace('\n', "\r\n").len();
    for room in 0..=length {
        let (mut response, mut out) = (Response::new(false), Room(room));
        let result = frames.iter().try_for_each(|frame| feed(&mut response, *frame, &mut out));
        assert_eq!(result, if room < length { Err(Malformed::NoMemory) } else { Ok(()) }, "{room}");
    }
}

#[test]
fn limits_of_the_header_are_those_of_the_block() {
    let lines = format!(":status: 200\n{}", "x: y\n".repeat(100));
    assert!(matches!(whole(&[Block(&lines, END)]), Err(Malformed::Block(_))));
}

proptest! {
    #[test]
    fn any_block_will_do(bytes in prop::collection::vec(any::<u8>(), 0..60), is_head in any::<bool>(), is_end in any::<bool>()) {
        let (mut response, mut out) = (Response::new(is_head), Vec::new());
        let _ = response.head(&bytes, is_end, &mut [0; 256], LIMITS, &mut out);
        let _ = response.head(&bytes, true, &mut [0; 256], LIMITS, &mut out);
    }
}
