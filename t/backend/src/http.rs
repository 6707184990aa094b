//! HTTP/1.0 and 1.1.

use std::io;

use crate::input::Input;
use crate::protocol::{Answer, Body, Identity, Request};
use crate::script::{Framing, Script};

const MAX_HEADERS: usize = 100;

pub const SWITCHING_PROTOCOLS: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

pub fn interim(code: u16) -> String {
    match code {
        103 => "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n".into(),
        _ => format!("HTTP/1.1 {code} Interim\r\n\r\n"),
    }
}

pub async fn read(input: &mut Input) -> io::Result<Option<Request>> {
    loop {
        if let Some((request, length)) = parse(input.buffered())? {
            input.take(length).await?;
            return Ok(Some(request));
        }
        if !input.fill().await? {
            return Ok(None);
        }
    }
}

/// The request at the start of `bytes` and the length of its head, once the head is complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let length = match head.parse(bytes).map_err(invalid)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };

    let mut request = Request {
        script: Script::parse(query(head.path.unwrap_or(""))),
        is_head: head.method == Some("HEAD"),
        keep_alive: head.version == Some(1),
        ..Request::default()
    };
    for header in head.headers.iter() {
        let value = String::from_utf8_lossy(header.value).to_ascii_lowercase();
        match header.name.to_ascii_lowercase().as_str() {
            "connection" if value == "close" => request.keep_alive = false,
            "connection" if value == "keep-alive" => request.keep_alive = true,
            "transfer-encoding" if value == "chunked" => request.body = Body::Chunked,
            "authorization" => {
                request.authorization = Some(String::from_utf8_lossy(header.value).into_owned())
            }
            "content-length" => request.body = Body::Length(value.parse().unwrap_or(0)),
            _ => {}
        }
    }
    Ok(Some((request, length)))
}

pub fn query(path: &str) -> &str {
    path.split_once('?').map_or("", |(_, query)| query)
}

/// Reads a chunked body away; its length, or `None` if it ended too early.
pub async fn skip_chunked(input: &mut Input) -> io::Result<Option<u64>> {
    let mut total = 0;
    loop {
        let Some(line) = input.take_until(b"\r\n").await? else {
            return Ok(None);
        };
        let size = String::from_utf8_lossy(&line);
        let size = u64::from_str_radix(size.trim(), 16)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        total += size;
        if !input.skip(size + 2).await? {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(total));
        }
    }
}

pub fn answer(request: &Request, identity: &Identity) -> Answer {
    let script = &request.script;
    if let Some(raw) = &script.raw {
        return Answer { head: Vec::new(), body: raw.clone(), keep_alive: true };
    }
    let status = script.status.unwrap_or(200);
    let has_body = !request.is_head && !matches!(status, 204 | 304);
    let text = request.body_text(identity);

    let version = if script.http_1_0 { "1.0" } else { "1.1" };
    let mut head = format!("HTTP/{version} {status} Scripted\r\n{}", identity.headers());
    match script.framing {
        // 304 carries the length of what it does not send, if asked to; 204 never does.
        Framing::Length if status == 204 || (status == 304 && script.len.is_none()) => {}
        Framing::Length => head.push_str(&format!("Content-Length: {}\r\n", text.len())),
        Framing::Chunked | Framing::Trailers => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::Eof => {}
    }
    for (name, value) in &script.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let keep_alive = keeps_alive(request, has_body);
    if !keep_alive
        && !script.http_1_0
        && script.header("connection").is_none()
        && script.framing != Framing::Eof
    {
        head.push_str("Connection: close\r\n");
    }
    let body = if has_body { frame(text, script.framing) } else { Vec::new() };
    head.push_str(&padding(script.fill, head.len() + body.len()));
    head.push_str("\r\n");

    Answer { head: head.into_bytes(), body, keep_alive }
}

/// A header that makes an answer of `length` bytes, not counting the empty line, as long as the script wants it.
fn padding(fill: Option<usize>, length: usize) -> String {
    let missing = fill.unwrap_or(0).saturating_sub(length + "X-Fill: \r\n\r\n".len());
    if missing > 0 {
        format!("X-Fill: {:x<missing$}\r\n", "")
    } else {
        String::new()
    }
}

/// Whether an honest server keeps the connection open after this answer.
fn keeps_alive(request: &Request, has_body: bool) -> bool {
    let script = &request.script;
    let by_header = match script.header("connection") {
        Some(value) => value.eq_ignore_ascii_case("keep-alive"),
        None => !script.http_1_0,
    };
    request.keep_alive && by_header && !(has_body && script.framing == Framing::Eof)
}

fn frame(text: Vec<u8>, framing: Framing) -> Vec<u8> {
    let trailer = match framing {
        Framing::Length | Framing::Eof => return text,
        Framing::Chunked => "",
        Framing::Trailers => "X-Trailer: last\r\n",
    };
    let mut body = Vec::with_capacity(text.len() + 64);
    // Two chunks, so that an unchunker has something to do.
    let (first, second) = text.split_at(text.len() / 2);
    for chunk in [first, second].into_iter().filter(|chunk| !chunk.is_empty()) {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Identity = Identity { connection: 3, request: 4, body_length: None };

    fn answered(head: &str) -> (String, String, bool) {
        let (request, _) = parse(head.as_bytes()).unwrap().expect("a complete head");
        let answer = answer(&request, &WHO);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(answer.head), text(answer.body), answer.keep_alive)
    }

    #[test]
    fn names_the_connection() {
        let (head, body, keep_alive) = answered("GET / HTTP/1.1\r\n\r\n");
        assert!(head.contains("X-Connection: 3\r\nX-Request: 4\r\nContent-Length: 23\r\n\r\n"));
        assert_eq!(body, "connection 3 request 4\n");
        assert!(keep_alive);
    }

    #[test]
    fn repeats_a_text() {
        let (head, body, _) = answered("GET /?len=7&body=abc HTTP/1.1\r\n\r\n");
        assert!(head.contains("Content-Length: 7\r\n"));
        assert_eq!(body, "abcabca");
    }

    #[test]
    fn fills_up_to_a_length() {
        let (head, body, _) = answered("GET /?fill=4096&len=100 HTTP/1.1\r\n\r\n");
        assert_eq!(head.len() + body.len(), 4096);
    }

    #[test]
    fn frames_chunks_and_trailers() {
        let (_, body, _) = answered("GET /?len=5&framing=trailers HTTP/1.1\r\n\r\n");
        assert_eq!(body, "2\r\nxx\r\n3\r\nxxx\r\n0\r\nX-Trailer: last\r\n\r\n");
    }

    #[test]
    fn sends_no_body_where_http_forbids_it() {
        for head in [
            "HEAD / HTTP/1.1\r\n\r\n",
            "GET /?status=204 HTTP/1.1\r\n\r\n",
            "GET /?status=304&len=9 HTTP/1.1\r\n\r\n",
        ] {
            let (_, body, keep_alive) = answered(head);
            assert_eq!(body, "");
            assert!(keep_alive);
        }
    }

    #[test]
    fn closes_when_either_side_says_so() {
        for head in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            "GET /?header=Connection:close HTTP/1.1\r\n\r\n",
            "GET /?version=1.0 HTTP/1.1\r\n\r\n",
            "GET /?framing=eof HTTP/1.1\r\n\r\n",
        ] {
            assert!(!answered(head).2, "{head}");
        }
        assert!(answered("GET /?version=1.0&header=Connection:keep-alive HTTP/1.1\r\n\r\n").2);
    }
}
