//! memcached's `get`: the key is read as a path with a query; `status=404` answers that the key is not there.

use std::io;

use crate::http::query;
use crate::input::Input;
use crate::protocol::{Answer, Identity, Request};
use crate::script::Script;

pub async fn read(input: &mut Input) -> io::Result<Option<Request>> {
    let Some(line) = input.take_until(b"\r\n").await? else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&line);
    let key = line.trim_end().strip_prefix("get ").unwrap_or("");
    Ok(Some(Request {
        script: Script::parse(query(key)),
        keep_alive: true,
        tag: key.as_bytes().to_vec(),
        ..Request::default()
    }))
}

pub fn answer(request: &Request, identity: &Identity) -> Answer {
    let (head, body) = if request.script.status == Some(404) {
        (Vec::new(), b"END\r\n".to_vec())
    } else {
        let text = request.body_text(identity);
        let key = String::from_utf8_lossy(&request.tag);
        let head = format!("VALUE {key} 0 {}\r\n", text.len()).into_bytes();
        (head, [&text[..], b"\r\nEND\r\n"].concat())
    };
    Answer { head, body, keep_alive: true }
}
