#![forbid(unsafe_code)]

use super::*;
use crate::http2::hpack::{decode, Fault, Limits};
use proptest::prelude::*;

/// The translated request, and the fields as lines. In the text a line feed is the end of a line.
fn translated(head: &str, secure: bool) -> Result<(Translated, Vec<String>), Unfit> {
    let mut out = [0; 4096];
    let translated = translate(head.replace('\n', "\r\n").as_bytes(), secure, &mut out)?;
    Ok((translated, lines(&out[..translated.block])))
}

fn lines(block: &[u8]) -> Vec<String> {
    let (mut lines, mut scratch) = (Vec::new(), [0; 4096]);
    decode::<Fault>(block, &mut scratch, Limits { fields: 1000, bytes: 100_000 }, |name, value| {
        lines.push(format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        Ok(())
    })
    .unwrap();
    lines
}

/// The fields behind `:path`, of a request with these ones.
fn fields_of(fields: &str) -> Result<Vec<String>, Unfit> {
    let (_, lines) = translated(&format!("GET / HTTP/1.1\n{fields}\n"), false)?;
    let path = lines.iter().position(|line| line == ":path: /").unwrap();
    Ok(lines[path + 1..].to_vec())
}

fn body_of(fields: &str) -> Result<Body, Unfit> {
    translated(&format!("POST / HTTP/1.1\n{fields}\n"), false).map(|(translated, _)| translated.body)
}

#[test]
fn control_data_comes_first() {
    let head = "GET /a?b HTTP/1.1\nX-First: 1\nHost: h:8080 \nConnection: close\nX-Last:\t2\n\nbody";
    let (translated, lines) = translated(head, true).unwrap();
    let control = [":method: GET", ":scheme: https", ":authority: h:8080", ":path: /a?b"];
    assert_eq!(lines, [&control[..], &["x-first: 1", "x-last: 2"]].concat());
    assert_eq!(translated.length, head.len() + 6 - "body".len());
    assert_eq!((translated.body, translated.is_head), (Body::None, false));
}

#[test]
fn without_a_host_there_is_no_authority() {
    for head in ["HEAD / HTTP/1.0\n\n", "HEAD / HTTP/1.0\nHost:\n\n", "HEAD / HTTP/1.0\nHost: \t\n\n"] {
        let (translated, lines) = translated(head, false).unwrap();
        assert_eq!(lines, [":method: HEAD", ":scheme: http", ":path: /"], "{head}");
        assert!(translated.is_head);
    }
}

#[test]
fn a_target_is_a_path_or_has_one() {
    let target = |method: &str, target: &str| {
        let (_, lines) = translated(&format!("{method} {target} HTTP/1.1\nHost: h\n\n"), false)?;
        Ok((lines[2].clone(), lines[3].clone()))
    };
    for (method, written, authority, path) in [
        ("GET", "//a//", "h", "//a//"),
        ("GET", "/\u{e4}%00#", "h", "/\u{e4}%00#"),
        ("GET", "http://a/b?c", "a", "/b?c"),
        ("GET", "HTTPS://u:p@[::1]:80", "u:p@[::1]:80", "/"),
        ("OPTIONS", "*", "h", "*"),
        ("OPTIONS", "http://a", "a", "*"),
        ("OPTIONS", "http://a/", "a", "/"),
    ] {
        let expected = (format!(":authority: {authority}"), format!(":path: {path}"));
        assert_eq!(target(method, written), Ok(expected), "{written}");
    }
    for (method, written) in [
        ("GET", "*"),
        ("GET", "a"),
        ("GET", "http:///a"),
        ("GET", "http://a?b"),
        ("GET", "ftp://a/"),
        ("GET", "http:/a"),
        ("CONNECT", "a:443"),
        ("CONNECT", "/"),
        ("OPTIONS", "**"),
    ] {
        assert_eq!(target(method, written), Err(Unfit::Target), "{method} {written}");
    }
    assert_eq!(target("GET", "http://a\\b/"), Err(Unfit::Authority));
}

#[test]
fn the_first_line_is_a_method_a_target_and_a_version() {
    for line in [
        "",
        "GET",
        "GET /",
        "GET / ",
        " / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\t HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.10",
        "GET /\x7f HTTP/1.1",
        "GET / http/1.1",
        "\nGET / HTTP/1.1",
    ] {
        let head = format!("{line}\nHost: h\n\n");
        assert_eq!(translated(&head, false), Err(Unfit::RequestLine), "{line:?}");
    }
}

#[test]
fn a_host_is_an_authority_and_there_is_one() {
    for host in ["a b", "a/b", "a?", "a#", "a\\b", "\u{e4}", "<a>"] {
        assert_eq!(fields_of(&format!("Host: {host}\n")), Err(Unfit::Authority), "{host}");
    }
    assert_eq!(fields_of("Host: a\nHost: a\n"), Err(Unfit::Hosts));
    assert_eq!(fields_of("Host:\nX: y\nhost: a\n"), Err(Unfit::Hosts));
}

#[test]
fn fields_of_the_connection_are_left_out() {
    let left_out = "Connection: keep-alive, Upgrade\nKeep-Alive: 5\nProxy-Connection: close\nUpgrade: h2c\n\
        HTTP2-Settings: AAA\nTE: gzip\nTE: trailers, gzip\nExpect: 100-Continue\nTransfer-Encoding: Chunked\n";
    assert_eq!(fields_of(left_out), Ok(vec![]));
    let kept = fields_of("TE: Trailers \nExpect: 200\nConnections: close\n").unwrap();
    assert_eq!(kept, ["te: trailers", "expect: 200", "connections: close"]);
}

#[test]
fn what_connection_names_is_left_out() {
    let fields =
        fields_of("X-A: 1\nx-b: 2\nConnection: close, x-a\nX-C: 3\nconnection: X-C,,\nX-D: 4\n").unwrap();
    assert_eq!(fields, ["x-b: 2", "x-d: 4"]);
}

#[test]
fn connection_cannot_name_what_the_request_needs() {
    let names = "host, content-length, Authorization, cookie, content-type, te, x";
    let head = format!(
        "POST / HTTP/1.1\nHost: h\nConnection: {names}\nContent-Length: 1\nAuthorization: a\nCookie: c\nContent-Type: t\nTE: trailers\nX: y\n\n"
    );
    let (translated, lines) = translated(&head, false).unwrap();
    assert_eq!(translated.body, Body::Length(1));
    assert_eq!(lines[2], ":authority: h");
    let kept = ["content-length: 1", "authorization: a", "cookie: c", "content-type: t", "te: trailers"];
    assert_eq!(lines[4..], kept);
}

#[test]
fn connection_names_a_limited_number_of_fields() {
    let options = |count| format!("Connection: {}\nX: y\n", ["x"].repeat(count).join(","));
    assert_eq!(fields_of(&options(16)), Ok(vec![]));
    assert_eq!(fields_of(&options(17)), Err(Unfit::Options));
    assert_eq!(fields_of(&format!("Connection: {}\n", ["close"].repeat(99).join(","))), Ok(vec![]));
}

#[test]
fn names_and_values_are_valid() {
    for line in ["a", ": b", "a b: c", "a : b", "a\u{e4}: b", "a(: b", ":path: /x", "a\x01: b"] {
        assert_eq!(fields_of(&format!("{line}\n")), Err(Unfit::Name), "{line:?}");
    }
    for byte in (0..0x20).chain([0x7f]).map(char::from).filter(|byte| !"\t\n".contains(*byte)) {
        assert_eq!(fields_of(&format!("a: b{byte}c\n")), Err(Unfit::Value), "{byte:?}");
    }
    assert_eq!(fields_of("a: b\n c: d\n"), Err(Unfit::Fold));
    assert_eq!(fields_of("a: b\n\tc\n"), Err(Unfit::Fold));
    let long = "n".repeat(MAX_NAME);
    assert_eq!(fields_of(&format!("{long}: v\n")), Ok(vec![format!("{long}: v")]));
    assert_eq!(fields_of(&format!("{long}n: v\n")), Err(Unfit::TooLarge));
    assert_eq!(fields_of("a: b\tc \u{e4}\t\nB:\n"), Ok(vec!["a: b\tc \u{e4}".to_owned(), "b: ".to_owned()]));
}

#[test]
fn lines_end_with_both_characters() {
    for head in [
        "GET / HTTP/1.1\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    ] {
        assert!(translate(head.as_bytes(), false, &mut [0; 100]).is_err(), "{head:?}");
    }
}

#[test]
fn the_body_has_one_length() {
    assert_eq!(body_of("Host: a\n"), Ok(Body::None));
    assert_eq!(body_of("Content-Length: 0\n"), Ok(Body::Length(0)));
    assert_eq!(body_of("Content-Length: 12 \ncontent-length: 12\n"), Ok(Body::Length(12)));
    assert_eq!(
        fields_of("Content-Length: 12\nContent-Length: 012\n"),
        Ok(vec!["content-length: 12".to_owned()])
    );
    assert_eq!(body_of("Transfer-Encoding: chunked\n"), Ok(Body::Chunked));
    for fields in ["Content-Length: 1\nContent-Length: 2\n", "Content-Length:\n", "Content-Length: 1,1\n"] {
        assert_eq!(body_of(fields), Err(Unfit::Length), "{fields}");
    }
    for value in ["gzip", "gzip, chunked", "", "chunked, chunked", "chunked\nTransfer-Encoding: chunked"] {
        assert_eq!(body_of(&format!("Transfer-Encoding: {value}\n")), Err(Unfit::Coding), "{value}");
    }
    assert_eq!(body_of("Content-Length: 1\nTransfer-Encoding: chunked\n"), Err(Unfit::Framing));
    let in_1_0 = translated("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n", false);
    assert_eq!(in_1_0, Err(Unfit::Framing));
}

#[test]
fn a_head_that_is_cut_off_is_refused() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nX-Name: value\r\n\r\n";
    for end in 0..head.len() {
        let result = translate(&head[..end], false, &mut [0; 200]);
        let expected = if end < 14 { Unfit::RequestLine } else { Unfit::Incomplete };
        assert_eq!(result, Err(expected), "{end}");
    }
    assert!(translate(head, false, &mut [0; 200]).is_ok());
}

#[test]
fn a_block_that_does_not_fit_is_refused() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nX-Name: value\r\n\r\n";
    let length = translate(head, false, &mut [0; 200]).unwrap().block;
    for room in 0..length {
        assert_eq!(translate(head, false, &mut vec![0; room]), Err(Unfit::TooLarge), "{room}");
    }
    assert!(translate(head, false, &mut vec![0; length]).is_ok());
}

#[test]
fn the_way_of_a_request_is_in_its_head() {
    let way = |head: &str| path(head.replace('\n', "\r\n").as_bytes());
    assert_eq!(way("PRI * HTTP/2.0\n\nSM\n\n"), Path::Frames);
    for head in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.0\n\n",
        "GET / HTTP/1.1\nUpgrade-Insecure-Requests: 1\nX-Upgrade: a\n\n",
        "GET / HTTP/1.1\nAuthorization: Bearer NTLM\nProxy-Authorization: Basic x\n\nUpgrade: a\n",
        "POST / HTTP/1.1\nAccept: NTLM\nAuthorization:\n\nCONNECT ",
    ] {
        assert_eq!(way(head), Path::Translate, "{head}");
    }
    for head in [
        "",
        "CONNECT a:1 HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\n",
        "GET / HTTP/1.1",
        "GET / HTTP/2.0\n\n",
        "GET / HTTP/1.1\nupgrade: websocket\n\n",
        "GET / HTTP/1.1\nAUTHORIZATION:negotiate x\n\n",
        "GET / HTTP/1.1\nProxy-Authorization: NTLM\n\n",
        "\x01\x01\0\x01\0\x08\0\0",
    ] {
        assert_eq!(way(head), Path::Ordinary, "{head:?}");
    }
}

proptest! {
    #[test]
    fn any_head_will_do(head in "(GET|HEAD|A\\(|) (/|\\*|http://a)[ -~]{0,5} HTTP/1\\.[01]\r\n(([A-Z\t :-]{1,5}|Host|Connection|TE): ?[ -~\t\0\n]{0,9}\r\n){0,9}(\r\n)?") {
        let mut out = [0; 300];
        let _ = path(head.as_bytes());
        if let Ok(translated) = translate(head.as_bytes(), false, &mut out) {
            let lines = lines(&out[..translated.block]);
            prop_assert!(lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])));
            prop_assert!(lines.iter().all(|line| !line.starts_with("connection:")));
        }
    }
}
