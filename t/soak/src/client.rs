//! An HTTP/1 client that tells exactly how far an answer has come.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAX_HEADERS: usize = 100;

/// A connection to nginx, with what has come over it and was not used yet.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The worker at its other end, once an answer has told.
    pub worker: Option<i32>,
    /// Whether it has carried an answer.
    pub used: bool,
}

#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body is all there.
    pub complete: bool,
    /// Whether another request can follow on the connection.
    pub reusable: bool,
}

impl Answer {
    pub fn header(&self, wanted: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    }
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length(usize),
    Chunked,
    Eof,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), worker: None, used: false })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Leaves with a reset instead of a FIN.
    pub fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// So many bytes as they come, for what follows 101.
    pub async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// The next answer; an error if not even its head has come.
    pub async fn receive(&mut self, is_head: bool) -> io::Result<Answer> {
        let mut answer = loop {
            if let Some((answer, length)) = parse_head(&self.buffer)? {
                self.buffer.drain(..length);
                match answer.status {
                    101 | 200.. => break answer,
                    // An interim answer.
                    _ => continue,
                }
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        self.used = true;
        if let Some(worker) = answer.header("X-Worker").and_then(|pid| pid.parse().ok()) {
            self.worker = Some(worker);
        }
        let framing = framing(&answer, is_head);
        answer.complete = match framing {
            Framing::Length(length) => self.read_length(length, &mut answer.body).await,
            Framing::Chunked => self.read_chunks(&mut answer.body).await,
            Framing::Eof => {
                let end = loop {
                    match self.fill().await {
                        Ok(true) => {}
                        other => break other,
                    }
                };
                answer.body = std::mem::take(&mut self.buffer);
                end
            }
        }
        .is_ok_and(|complete| complete || framing == Framing::Eof);
        let closes = answer.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        answer.reusable = answer.complete && !closes && framing != Framing::Eof;
        Ok(answer)
    }

    /// Reads some more; `Ok(false)` at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// `Ok(false)` if the connection ends before; what has come is in the body all the same.
    async fn read_length(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<bool> {
        let mut end = Ok(true);
        while self.buffer.len() < length && matches!(end, Ok(true)) {
            end = self.fill().await;
        }
        let length = length.min(self.buffer.len());
        body.extend(self.buffer.drain(..length));
        end
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let Some(line) = self.line().await? else { return Ok(false) };
            let size = usize::from_str_radix(line.trim(), 16)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if size == 0 {
                // Trailers, to the empty line.
                return loop {
                    match self.line().await? {
                        Some(line) if line == "\r\n" => break Ok(true),
                        Some(_) => {}
                        None => break Ok(false),
                    }
                };
            }
            if !self.read_length(size, body).await? || self.line().await?.is_none() {
                return Ok(false);
            }
        }
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }
}

/// The head at the start of `bytes` and its length, once it is complete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(invalid)? else {
        return Ok(None);
    };
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.into(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    Ok(Some((Answer { status: head.code.unwrap_or(0), headers, ..Answer::default() }, length)))
}

fn framing(answer: &Answer, is_head: bool) -> Framing {
    if is_head || matches!(answer.status, 101 | 204 | 304) {
        return Framing::Length(0);
    }
    if answer.header("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked;
    }
    match answer.header("Content-Length").and_then(|value| value.parse().ok()) {
        Some(length) => Framing::Length(length),
        None => Framing::Eof,
    }
}

/// The body of a plain GET over a connection of its own.
pub async fn get(address: SocketAddr, target: impl std::fmt::Display) -> io::Result<String> {
    let mut connection = Connection::open(address).await?;
    connection
        .send(format!("GET {target} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let answer = connection.receive(false).await?;
    if answer.status != 200 || !answer.complete {
        return Err(io::Error::other(format!("{target}: status {}", answer.status)));
    }
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn received(bytes: &'static [u8], is_head: bool) -> io::Result<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::open(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(bytes).await.unwrap();
        drop(server);
        connection.receive(is_head).await
    }

    #[tokio::test]
    async fn knows_where_an_answer_ends() {
        for (bytes, is_head, body, complete, reusable) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"[..], false, "ab", true, true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false, "ab", false, false),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true, "", true, true),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
                false,
                "ab",
                true,
                true,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n",
                false,
                "ab",
                true,
                true,
            ),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", false, "ab", false, false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab", false, "ab", false, false),
            (b"HTTP/1.0 200 OK\r\n\r\nab", false, "ab", true, false),
            (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", false, "", true, false),
            (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", false, "", true, true),
        ] {
            let answer = received(bytes, is_head).await.unwrap();
            let told = (answer.body.as_slice(), answer.complete, answer.reusable);
            assert_eq!(told, (body.as_bytes(), complete, reusable), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(received(b"HTTP/1.1 200 OK\r\nCont", false).await.is_err());
        assert!(received(b"", false).await.is_err());
    }
}
