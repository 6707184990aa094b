//! What all protocols have in common: a request comes in, its script says what the answer is, the answer goes out.

use std::io;

use clap::ValueEnum;

use crate::input::Input;
use crate::script::Script;
use crate::{cgi, fastcgi, http, memcached};

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Protocol {
    Http,
    Fastcgi,
    Uwsgi,
    Scgi,
    Memcached,
    /// With prior knowledge, and what does not begin so by HTTP/1.1.
    Http2,
}

/// The part of a request that scripts and answers depend on.
#[derive(Default)]
pub struct Request {
    pub script: Script,
    pub is_head: bool,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// FastCGI's request id or memcached's key: what the answer must repeat.
    pub tag: Vec<u8>,
    pub body: Body,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
}

/// The request body that follows the head, if its reader has not taken it already.
#[derive(Default)]
pub enum Body {
    #[default]
    None,
    Length(u64),
    Chunked,
    /// Came with the head; this long.
    Taken(u64),
}

/// Who answers: told by every answer, so that a test sees which connection carried it.
pub struct Identity {
    pub connection: u64,
    pub request: u64,
    pub body_length: Option<u64>,
}

/// An answer in the bytes of its protocol, split where scripts may cut it.
pub struct Answer {
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    /// Whether the protocol and the answer's own headers let the connection live on.
    pub keep_alive: bool,
}

impl Protocol {
    /// Reads the head of the next request; `None` when the peer closes instead.
    pub async fn read(self, input: &mut Input) -> io::Result<Option<Request>> {
        match self {
            Self::Http | Self::Http2 => http::read(input).await,
            Self::Fastcgi => fastcgi::read(input).await,
            Self::Uwsgi => cgi::read_uwsgi(input).await,
            Self::Scgi => cgi::read_scgi(input).await,
            Self::Memcached => memcached::read(input).await,
        }
    }

    pub fn answer(self, request: &Request, identity: &Identity) -> Answer {
        match self {
            Self::Http | Self::Http2 => http::answer(request, identity),
            Self::Fastcgi => fastcgi::answer(request, identity),
            Self::Uwsgi | Self::Scgi => cgi::answer(request, identity),
            Self::Memcached => memcached::answer(request, identity),
        }
    }
}

impl Request {
    /// The body text of an ordinary answer: what the script says, or `len` bytes, else who answers.
    pub fn body_text(&self, identity: &Identity) -> Vec<u8> {
        match (&self.script.body, self.script.len) {
            (Some(body), Some(len)) => body.iter().copied().cycle().take(len).collect(),
            (Some(body), None) => body.clone(),
            (None, Some(len)) => vec![b'x'; len],
            (None, None) => {
                format!("connection {} request {}\n", identity.connection, identity.request).into_bytes()
            }
        }
    }
}

impl Identity {
    /// The headers that name the connection, for every protocol that has headers.
    pub fn headers(&self) -> String {
        let mut headers = format!("X-Connection: {}\r\nX-Request: {}\r\n", self.connection, self.request);
        if let Some(length) = self.body_length {
            headers.push_str(&format!("X-Body-Length: {length}\r\n"));
        }
        headers
    }
}
