//! uwsgi and SCGI: one request per connection, the answer ends with the connection.

use std::io;

use crate::http::query;
use crate::input::Input;
use crate::protocol::{Answer, Body, Identity, Request};
use crate::script::Script;

/// uwsgi: four bytes of header (modifier, size in little endian, modifier), then pairs of sized strings.
pub async fn read_uwsgi(input: &mut Input) -> io::Result<Option<Request>> {
    let Some(header) = input.take(4).await? else { return Ok(None) };
    let size = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let Some(block) = input.take(size).await? else { return Ok(None) };

    let mut strings = Vec::new();
    let mut rest = block.as_slice();
    while let [low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        strings.push(&tail[..length]);
        rest = &tail[length..];
    }
    Ok(Some(from_variables(&strings)))
}

/// SCGI: a netstring of NUL-terminated names and values.
pub async fn read_scgi(input: &mut Input) -> io::Result<Option<Request>> {
    let Some(length) = input.take_until(b":").await? else {
        return Ok(None);
    };
    let length: usize = String::from_utf8_lossy(&length[..length.len() - 1])
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let Some(block) = input.take(length + 1).await? else {
        return Ok(None);
    };
    let strings: Vec<&[u8]> = block.split(|byte| *byte == 0).collect();
    Ok(Some(from_variables(&strings)))
}

/// `strings` holds names and values in turn.
fn from_variables(strings: &[&[u8]]) -> Request {
    let variable = |wanted: &str| {
        strings
            .chunks_exact(2)
            .find(|pair| pair[0] == wanted.as_bytes())
            .map(|pair| String::from_utf8_lossy(pair[1]).into_owned())
            .unwrap_or_default()
    };
    let from_uri = variable("REQUEST_URI");
    Request {
        script: Script::parse(query(&from_uri)),
        is_head: variable("REQUEST_METHOD") == "HEAD",
        body: Body::Length(variable("CONTENT_LENGTH").parse().unwrap_or(0)),
        ..Request::default()
    }
}

/// An answer in the form of CGI, for all protocols of its family.
pub struct Text {
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

pub fn text(request: &Request, identity: &Identity) -> Text {
    let script = &request.script;
    let mut head = format!("Status: {} Scripted\r\n{}", script.status.unwrap_or(200), identity.headers());
    for (name, value) in &script.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    Text {
        head: head.into_bytes(),
        body: if request.is_head { Vec::new() } else { request.body_text(identity) },
    }
}

pub fn answer(request: &Request, identity: &Identity) -> Answer {
    let Text { head, body } = text(request, identity);
    Answer { head, body, keep_alive: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_script_from_the_uri() {
        let request = from_variables(&[
            b"REQUEST_METHOD",
            b"HEAD",
            b"REQUEST_URI",
            b"/x?status=404",
            b"CONTENT_LENGTH",
            b"",
        ]);
        assert!(request.is_head);
        assert_eq!(request.script.status, Some(404));
        assert!(matches!(request.body, Body::Length(0)));
    }
}
