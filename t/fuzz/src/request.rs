//! A request that is translated to a header block. The head has headers of clients. A naive second version reads it in
//! several passes, and httparse reads the fields too.
#![forbid(unsafe_code)]

use httparse::{parse_headers, Status, EMPTY_HEADER};
use keepalive::http1::stateful_auth::sends_credentials;
use keepalive::http2::chunks::Chunks;
use keepalive::http2::hpack::{decode, Fault, Limits};
use keepalive::http2::request::{path, translate, Body, Path, Unfit};

use crate::input::Input;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Flags: TLS, and whether the ends of lines are to be made complete. Then the head, and a chunked body.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (secure, completes) = (input.flag(), input.flag());
    let head = if completes { complete(input.0) } else { input.0.to_vec() };
    let mut out = vec![0; 2 * head.len() + 100];
    let result = translate(&head, secure, &mut out);
    let expected = expected(&head, secure);
    assert_eq!(result.is_ok(), expected.is_some(), "{result:?}");
    let (Ok(translated), Some((expected, body))) = (result, expected) else { return };
    let fields = fields(&out[..translated.block]);
    assert_eq!(fields, expected);
    assert_eq!(translated.body, body);
    assert!(head[..translated.length].ends_with(b"\r\n\r\n"));
    has_rules_of_http2(&fields);
    assert_eq!(translate(&head, secure, &mut out[..translated.block - 1]), Err(Unfit::TooLarge));
    assert_eq!(translate(&head[..translated.length - 1], secure, &mut out), Err(Unfit::Incomplete));
    way(&head[..translated.length]);
    chunks(&head[translated.length..]);
}

fn complete(text: &[u8]) -> Vec<u8> {
    text.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..])
}

fn fields(block: &[u8]) -> Fields {
    let (mut fields, mut scratch) = (Vec::new(), [0; 64]);
    let limits = Limits { fields: usize::MAX, bytes: usize::MAX };
    let result = decode::<Fault>(block, &mut scratch, limits, |name, value| {
        fields.push((name.to_vec(), value.to_vec()));
        Ok(())
    });
    assert_eq!(result, Ok(()));
    fields
}

fn has_rules_of_http2(fields: &Fields) {
    let count = |wanted: &str| fields.iter().filter(|(name, _)| name == wanted.as_bytes()).count();
    assert!([":method", ":scheme", ":path"].iter().all(|name| count(name) == 1));
    assert!(count(":authority") <= 1 && count("content-length") <= 1);
    let regular = fields.iter().skip_while(|(name, _)| name.starts_with(b":"));
    for (name, value) in regular {
        assert!(is_token(name) && !name.iter().any(u8::is_ascii_uppercase));
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')));
        let of_connection = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
        assert!(of_connection.iter().all(|it| it.as_bytes() != name) && name != b"host");
        assert!(name != b"te" || value == b"trailers");
    }
}

fn way(head: &[u8]) {
    let has_upgrade =
        lines(head).is_some_and(|(_, fields)| fields.iter().any(|(name, _)| name == b"upgrade"));
    let is_ordinary = has_upgrade || sends_credentials(head);
    assert_eq!(path(head), if is_ordinary { Path::Ordinary } else { Path::Translate });
}

fn is_token(text: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_token)
}

/// The first line, and the fields with names in lower case. `None` if there is no complete head, or an invalid field.
fn lines(data: &[u8]) -> Option<(&[u8], Fields)> {
    let end = data.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 2;
    let mut lines = Vec::new();
    let mut rest = &data[..end];
    while let Some(length) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
        lines.push(&rest[..length]);
        rest = &rest[length + 2..];
    }
    let (first, lines) = lines.split_first()?;
    let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    let mut fields = Fields::new();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        if !is_token(name) || name.len() > 256 || value.iter().any(is_control) {
            return None;
        }
        let text: String = value[1..].iter().map(|byte| char::from(*byte)).collect();
        let value = text.trim_matches([' ', '\t']).chars().map(|it| u8::try_from(it).unwrap()).collect();
        fields.push((name.to_ascii_lowercase(), value));
    }
    agrees(&data[first.len() + 2..end + 2], &fields);
    Some((first, fields))
}

/// Whether httparse reads the same fields.
fn agrees(section: &[u8], fields: &Fields) {
    let mut headers = [EMPTY_HEADER; 200];
    if fields.len() > headers.len() {
        return;
    }
    let Ok(Status::Complete((length, headers))) = parse_headers(section, &mut headers) else {
        panic!("httparse refuses the fields")
    };
    let read: Fields =
        headers.iter().map(|it| (it.name.to_ascii_lowercase().into_bytes(), it.value.to_vec())).collect();
    assert_eq!((length, &read), (section.len(), fields));
}

fn expected(head: &[u8], secure: bool) -> Option<(Fields, Body)> {
    let (first, fields) = lines(head)?;
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version @ (b"HTTP/1.0" | b"HTTP/1.1")] = words[..] else { return None };
    let is_visible = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    if !is_token(method) || method == b"CONNECT" || !target.iter().all(is_visible) {
        return None;
    }
    let values = |wanted: &str| -> Vec<&[u8]> {
        fields.iter().filter(|(name, _)| name == wanted.as_bytes()).map(|(_, value)| &value[..]).collect()
    };
    let (authority, path) = split(method, target)?;
    let host = match values("host")[..] {
        [] => &b""[..],
        [host] => host,
        _ => return None,
    };
    let authority = authority.unwrap_or(host);
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]%".contains(byte);
    if !authority.iter().all(is_allowed) {
        return None;
    }
    let body = body(version, &values("content-length"), &values("transfer-encoding"))?;
    let named = named(&values("connection"))?;
    let mut all: Vec<(&str, &[u8])> =
        vec![(":method", method), (":scheme", if secure { b"https" } else { b"http" })];
    all.extend((!authority.is_empty()).then_some((":authority", authority)));
    all.push((":path", path));
    let mut expected: Fields =
        all.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
    expected.extend(fields.iter().filter_map(|field| passed(field, &named)));
    let mut lengths = 0;
    expected.retain(|(name, _)| {
        lengths += usize::from(name == b"content-length");
        name != b"content-length" || lengths == 1
    });
    Some((expected, body))
}

fn split<'a>(method: &[u8], target: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    if target.starts_with(b"/") || target == b"*" && method == b"OPTIONS" {
        return Some((None, target));
    }
    let lower = target.to_ascii_lowercase();
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(|it| lower.starts_with(it))?;
    let rest = &target[scheme.len()..];
    let authority = rest.split(|byte| b"/?#".contains(byte)).next()?;
    let path = match &rest[authority.len()..] {
        b"" if method == b"OPTIONS" => b"*",
        b"" => b"/",
        path => path,
    };
    let is_path = path.starts_with(b"/") || path == b"*";
    (is_path && !authority.is_empty()).then_some((Some(authority), path))
}

fn body(version: &[u8], lengths: &[&[u8]], codings: &[&[u8]]) -> Option<Body> {
    let mut numbers = Vec::new();
    for length in lengths {
        let text = std::str::from_utf8(length).ok()?;
        let is_number = !text.is_empty() && text.chars().all(|digit| digit.is_ascii_digit());
        numbers.push(is_number.then(|| text.parse::<u64>().ok())??);
    }
    numbers.dedup();
    match (&numbers[..], codings) {
        ([], []) => Some(Body::None),
        ([length], []) => Some(Body::Length(*length)),
        ([], [coding]) if version == b"HTTP/1.1" && coding.eq_ignore_ascii_case(b"chunked") => {
            Some(Body::Chunked)
        }
        _ => None,
    }
}

/// The fields that `Connection` names, without those that it cannot name.
fn named(values: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
    let own_rules = "close keep-alive upgrade te proxy-connection http2-settings transfer-encoding";
    let needed = "host content-length content-type content-encoding authorization cookie";
    let mut named = Vec::new();
    for value in values {
        let text: String = value.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect();
        let options = text.split(',').map(|option| option.trim_matches([' ', '\t']));
        let names = options.filter(|it| {
            !it.is_empty() && !own_rules.split(' ').chain(needed.split(' ')).any(|known| known == *it)
        });
        named.extend(names.map(|it| it.chars().map(|it| u8::try_from(it).unwrap()).collect::<Vec<u8>>()));
    }
    (named.len() <= 16).then_some(named)
}

fn passed((name, value): &(Vec<u8>, Vec<u8>), named: &[Vec<u8>]) -> Option<(Vec<u8>, Vec<u8>)> {
    let left_out = "host connection keep-alive proxy-connection upgrade http2-settings transfer-encoding";
    let waits = name == b"expect" && value.eq_ignore_ascii_case(b"100-continue");
    if left_out.split(' ').any(|it| it.as_bytes() == name) || named.contains(name) || waits {
        return None;
    }
    match &name[..] {
        b"te" => value.eq_ignore_ascii_case(b"trailers").then(|| (name.clone(), b"trailers".to_vec())),
        _ => Some((name.clone(), value.clone())),
    }
}

/// A chunked body gives the same data in one piece and byte by byte.
fn chunks(body: &[u8]) {
    let read = |size: usize| {
        let (mut chunks, mut data, mut is_last) = (Chunks::default(), Vec::<u8>::new(), false);
        for piece in body.chunks(size) {
            let mut rest = piece;
            while !rest.is_empty() {
                let piece = chunks.next(rest)?;
                assert!(piece.read > 0 && piece.data.len() <= piece.read);
                data.extend(piece.data);
                (rest, is_last) = (&rest[piece.read..], piece.is_last);
            }
        }
        Some((data, is_last))
    };
    let whole = read(body.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(3), whole);
    assert!(whole.is_none_or(|(data, is_last)| data.len() + if is_last { 5 } else { 0 } <= body.len()));
}
