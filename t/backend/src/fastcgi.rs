//! FastCGI: one request at a time per connection, FCGI_KEEP_CONN honoured.

use std::io;

use crate::cgi;
use crate::http::query;
use crate::input::Input;
use crate::protocol::{Answer, Body, Identity, Request};
use crate::script::Script;

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;

const KEEP_CONN: u8 = 1;
const MAX_CONTENT: usize = 65528;

pub async fn read(input: &mut Input) -> io::Result<Option<Request>> {
    let mut request = Request::default();
    let mut params = Vec::new();
    let mut body = 0;

    loop {
        let Some(header) = input.take(8).await? else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let Some(mut content) = input.take(length + usize::from(header[6])).await? else {
            return Ok(None);
        };
        content.truncate(length);

        match header[1] {
            BEGIN_REQUEST => {
                request.tag = header[2..4].to_vec();
                request.keep_alive = content.get(2).is_some_and(|flags| flags & KEEP_CONN != 0);
            }
            PARAMS => params.extend(content),
            STDIN if content.is_empty() => break,
            STDIN => body += content.len() as u64,
            _ => {}
        }
    }

    request.script = Script::parse(&parameter(&params, "QUERY_STRING"));
    if request.script == Script::default() {
        request.script = Script::parse(query(&parameter(&params, "REQUEST_URI")));
    }
    request.is_head = parameter(&params, "REQUEST_METHOD") == "HEAD";
    request.body = Body::Taken(body);
    Ok(Some(request))
}

/// The value of one parameter of a name-value stream, empty if it is not there.
fn parameter(mut stream: &[u8], wanted: &str) -> String {
    while let Some((name_length, rest)) = length(stream) {
        let Some((value_length, rest)) = length(rest) else { break };
        let Some(end) = name_length.checked_add(value_length).filter(|end| *end <= rest.len()) else {
            break;
        };
        if &rest[..name_length] == wanted.as_bytes() {
            return String::from_utf8_lossy(&rest[name_length..end]).into_owned();
        }
        stream = &rest[end..];
    }
    String::new()
}

/// A length of one byte, or of four with the top bit set.
fn length(stream: &[u8]) -> Option<(usize, &[u8])> {
    match stream {
        [short, rest @ ..] if short & 0x80 == 0 => Some((usize::from(*short), rest)),
        [a, b, c, d, rest @ ..] => Some((u32::from_be_bytes([a & 0x7f, *b, *c, *d]) as usize, rest)),
        _ => None,
    }
}

pub fn answer(request: &Request, identity: &Identity) -> Answer {
    if let Some(raw) = &request.script.raw {
        return Answer { head: Vec::new(), body: raw.clone(), keep_alive: request.keep_alive };
    }
    let cgi::Text { head, body } = cgi::text(request, identity);
    let mut framed = Vec::new();
    for piece in body.chunks(MAX_CONTENT) {
        record(&mut framed, STDOUT, &request.tag, piece);
    }
    record(&mut framed, STDOUT, &request.tag, b"");
    record(&mut framed, END_REQUEST, &request.tag, &[0; 8]);

    let mut framed_head = Vec::new();
    record(&mut framed_head, STDOUT, &request.tag, &head);
    Answer { head: framed_head, body: framed, keep_alive: request.keep_alive }
}

fn record(out: &mut Vec<u8>, kind: u8, id: &[u8], content: &[u8]) {
    out.extend([1, kind]);
    out.extend_from_slice(id);
    out.extend((content.len() as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_parameters() {
        let stream = [&[1, 2][..], b"aBB", &[0x80, 0, 0, 1, 1], b"cD"].concat();
        assert_eq!(parameter(&stream, "a"), "BB");
        assert_eq!(parameter(&stream, "c"), "D");
        assert_eq!(parameter(&stream, "x"), "");
    }
}
