//! One request as a client sends it, and what may come of it.

use std::fmt;

/// What came of a request.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    Status(u16),
    /// A head, and not all of the body.
    Cut(u16),
    /// The client did not stay to see.
    Left,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Cut(status) => write!(f, "{status} cut off"),
            Self::Left => write!(f, "client left"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Body {
    #[default]
    None,
    Length(usize),
    Chunked(usize),
}

/// How the client behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Manner {
    #[default]
    Stays,
    /// Leaves so many milliseconds after it has asked.
    Leaves(u64),
    /// The same, by a reset.
    Resets(u64),
    /// Leaves when half of the request body is sent.
    LeavesSending(u64),
    /// Talks through the tunnel that 101 has opened.
    Tunnels,
}

#[derive(Debug, Default)]
pub struct Ask {
    pub method: &'static str,
    pub target: String,
    pub version: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
    pub manner: Manner,
    pub allowed: &'static [Outcome],
    /// The body of an answer with the first status that is allowed; what is cut off has the beginning of it.
    pub text: Option<String>,
    /// Headers that an answer with that status must have.
    pub told: Vec<(&'static str, String)>,
    /// What request bodies consist of.
    pub id: String,
}

const OK: &[Outcome] = &[Outcome::Status(200)];

/// How the locations end that pass a request body on as it comes: by `proxy_request_buffering off`, and `grpc_pass` always does.
const UNBUFFERED: [&str; 2] = ["/direct", "/grpc"];

/// The server answers before it reads the request body.
pub const EARLY: &str = "early=1";

impl Ask {
    /// A GET that is answered with the name of the request again and again, up to this length.
    pub fn new(location: &str, id: &str, length: u64) -> Self {
        Self {
            method: "GET",
            target: format!("{location}?{}", script(id, length)),
            version: "1.1",
            allowed: OK,
            text: Some(repeated(id, length as usize)),
            told: vec![("X-Echo", id.into())],
            id: id.into(),
            ..Self::default()
        }
    }

    /// More of the server's script.
    pub fn with(mut self, script: impl fmt::Display) -> Self {
        self.target.push_str(&format!("&{script}"));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With a request body, whose length the server tells in its answer.
    pub fn post(mut self, body: Body) -> Self {
        let (Body::Length(length) | Body::Chunked(length)) = body else { return self };
        (self.method, self.body) = ("POST", body);
        self.tells("X-Body-Length", length.to_string())
    }

    /// With a request body that an HTTP/2 server returns, and whose arrival it writes down.
    pub fn reflected(mut self, body: Body) -> Self {
        let (Body::Length(length) | Body::Chunked(length)) = body else { return self };
        (self.method, self.body) = ("POST", body);
        self.text = Some(repeated(&self.id, length));
        let named = format!("reflect=1&id={}", self.id);
        self.with(named)
    }

    pub fn head(mut self) -> Self {
        (self.method, self.text) = ("HEAD", None);
        self
    }

    pub fn version_1_0(mut self) -> Self {
        self.version = "1.0";
        self
    }

    pub fn like(mut self, manner: Manner) -> Self {
        self.manner = manner;
        if !matches!(manner, Manner::Tunnels) {
            self.allowed = &[Outcome::Left];
        }
        self
    }

    /// The outcomes that are allowed, first the one that body and headers belong to.
    pub fn gives(mut self, allowed: &'static [Outcome]) -> Self {
        self.allowed = allowed;
        self
    }

    pub fn tells(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.told.push((name, value.into()));
        self
    }

    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Nothing is known of the answer but its status.
    pub fn unknown(mut self) -> Self {
        self.text = None;
        self.told.clear();
        self
    }

    /// Whether nginx may have given this outcome before it had read all of the request body.
    ///
    /// It does so where it passes the body on as it comes, and the server answers early or is lost. Then nginx closes the
    /// connection after the answer (`r->reading_body` in `ngx_http_finalize_connection`), although the head of the answer,
    /// which was sent before, says `Connection: keep-alive`. This is so without our module too.
    pub fn may_be_unread(&self, outcome: Outcome) -> bool {
        let location = self.target.split('?').next().unwrap_or("");
        let is_unbuffered = UNBUFFERED.iter().any(|end| location.ends_with(end));
        let is_proof = outcome == self.allowed[0] && !self.target.contains(EARLY);
        self.body != Body::None && is_unbuffered && !is_proof
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/{}\r\nHost: soak\r\n", self.method, self.target, self.version);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.body {
            Body::None => head.push_str("\r\n"),
            Body::Length(length) => {
                head.push_str(&format!("Content-Length: {length}\r\n\r\n{}", repeated(&self.id, length)))
            }
            Body::Chunked(length) => {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
                for piece in repeated(&self.id, length).as_bytes().chunks(1 + length / 3) {
                    head.push_str(&format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)));
                }
                head.push_str("0\r\n\r\n");
            }
        }
        head.into_bytes()
    }
}

/// What the server is told to answer. HTTP/2 has no upper case in names.
pub fn script(id: &str, length: u64) -> String {
    format!("header=x-echo:{id}&body={id}&len={length}")
}

pub fn repeated(text: &str, length: usize) -> String {
    text.chars().cycle().take(length).collect()
}

/// A text as the value of an argument.
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_requests() {
        let bytes = |ask: Ask| String::from_utf8(ask.bytes()).unwrap();
        assert_eq!(
            bytes(Ask::new("/a", "i7", 5).with("delay=1").header("X", "y")),
            "GET /a?header=x-echo:i7&body=i7&len=5&delay=1 HTTP/1.1\r\nHost: soak\r\nX: y\r\n\r\n"
        );
        assert!(
            bytes(Ask::new("/a", "i7", 5).post(Body::Length(3))).ends_with("Content-Length: 3\r\n\r\ni7i")
        );
        assert!(bytes(Ask::new("/a", "i7", 5).post(Body::Chunked(4)))
            .ends_with("chunked\r\n\r\n2\r\ni7\r\n2\r\ni7\r\n0\r\n\r\n"));
        assert_eq!(encoded("a <b"), "a%20%3Cb");
    }

    #[test]
    fn knows_what_proves_that_a_body_was_read() {
        let ask = |location| Ask::new(location, "i7", 5).post(Body::Length(3));
        let (done, failed) = (Outcome::Status(200), Outcome::Status(502));
        assert!(!ask("/a/direct").may_be_unread(done) && ask("/a/direct").may_be_unread(failed));
        assert!(ask("/a/direct").may_be_unread(Outcome::Cut(200)));
        assert!(ask("/direct").with(EARLY).may_be_unread(done));
        assert!(ask("/a/grpc").may_be_unread(failed));
        // nginx has read the body before it asks the server; or there is none.
        assert!(!ask("/a").may_be_unread(failed));
        assert!(!Ask::new("/a/direct", "i7", 5).may_be_unread(failed));
    }
}
