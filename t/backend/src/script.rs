//! The script of a request: its query, e.g. `/?status=200&len=10&fault=reset&at=body&after=20`.

use std::time::Duration;

/// A body is built in memory, so it has a bound.
pub const MAX_LEN: usize = 16 * 1024 * 1024;

/// How the answer's body is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Framing {
    #[default]
    Length,
    Chunked,
    /// Chunked, with a trailer after the last chunk.
    Trailers,
    /// No length at all: the end of the connection is the end of the body.
    Eof,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A FIN, without any announcement.
    Close,
    /// A RST.
    Reset,
    /// Nothing more, until the peer closes.
    Hang,
    /// Bytes nobody asked for: a complete foreign answer.
    Extra,
    /// More of the same, until the peer closes: header lines, body, or chunks.
    Endless,
}

/// Where it goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Point {
    /// Before the first byte of the answer.
    Start,
    /// In the middle of the head.
    Header,
    /// In the middle of the body.
    Body,
    /// After the last byte.
    #[default]
    End,
}

#[derive(Debug, Default, PartialEq)]
pub struct Script {
    /// `status=`, 200 if unset.
    pub status: Option<u16>,
    /// `len=`: the body is this long instead of naming the connection.
    pub len: Option<usize>,
    /// `body=`: the body is this text; with `len=` too, this text again and again until it is that long.
    pub body: Option<Vec<u8>>,
    /// `raw=`: these bytes are the whole answer; faults see them as a body without a head.
    pub raw: Option<Vec<u8>>,
    /// `fill=`: head and body together are this long, by a padding header; for tests of what lies behind a full buffer.
    pub fill: Option<usize>,
    /// `framing=length|chunked|trailers|eof`
    pub framing: Framing,
    /// `version=1.0`: answer as an HTTP/1.0 server.
    pub http_1_0: bool,
    /// `header=Name:value`, any number of them, e.g. `header=Connection:close`.
    pub headers: Vec<(String, String)>,
    /// `stay=1`: keep the connection open although the answer said it will be closed.
    pub stay: bool,
    /// `delay=`: milliseconds before the head.
    pub delay: Duration,
    /// `drip=`: send the body in ten pieces with this many milliseconds between them.
    pub drip: Option<Duration>,
    /// `pieces=N`: so many pieces instead of ten.
    pub pieces: Option<usize>,
    /// `interim=103`: interim answers before the real one, separated by commas.
    pub interim: Vec<u16>,
    /// `early=1`: answer before the request body is read.
    pub early: bool,
    /// `upgrade=1`: answer 101 and echo from then on.
    pub upgrade: bool,
    /// `fault=close|reset|hang|extra|endless`
    pub fault: Option<Fault>,
    /// `at=start|header|body|end`
    pub at: Point,
    /// `after=`: milliseconds between reaching that point and the fault.
    pub after: Duration,
    /// `from=N`: the fault happens from the Nth request of a connection on.
    pub from: u64,
    /// `only=N`: the script is for the Nth listener (the first is 0); others answer as if there were none.
    pub only: Option<usize>,
    /// `linger=`: when the peer closes the connection, this side follows so many milliseconds later.
    pub linger: Duration,
    /// `idle=`: the connection is closed if no byte of the next request comes within so many milliseconds.
    pub idle: Option<Duration>,
    /// `login=1`: the connection needs a user, see `login.rs`.
    pub login: bool,
    /// `id=`: the name of the request; `/stats` tells how many names there were, and how many came again.
    pub id: Option<String>,
}

impl Script {
    /// Unknown names are ignored: other parts of the query may be of use to a test.
    pub fn parse(query: &str) -> Self {
        let mut script = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            script.set(name, value);
        }
        script
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = || value.parse().unwrap_or(0u64);
        let duration = || Duration::from_millis(number());
        match name {
            "status" => self.status = value.parse().ok(),
            "len" => self.len = Some(MAX_LEN.min(number() as usize)),
            "body" => self.body = Some(decoded(value)),
            "raw" => self.raw = Some(decoded(value)),
            "fill" => self.fill = Some(MAX_LEN.min(number() as usize)),
            "framing" => {
                self.framing = match value {
                    "chunked" => Framing::Chunked,
                    "trailers" => Framing::Trailers,
                    "eof" => Framing::Eof,
                    _ => Framing::Length,
                }
            }
            "version" => self.http_1_0 = value == "1.0",
            "header" => {
                let header = String::from_utf8_lossy(&decoded(value)).into_owned();
                self.headers.extend(header.split_once(':').map(|(name, value)| (name.into(), value.into())));
            }
            "stay" => self.stay = value == "1",
            "delay" => self.delay = duration(),
            "drip" => self.drip = Some(duration()),
            "pieces" => self.pieces = value.parse().ok().filter(|pieces| *pieces > 0),
            "interim" => self.interim = value.split(',').filter_map(|code| code.parse().ok()).collect(),
            "early" => self.early = value == "1",
            "upgrade" => self.upgrade = value == "1",
            "fault" => {
                self.fault = match value {
                    "close" => Some(Fault::Close),
                    "reset" => Some(Fault::Reset),
                    "hang" => Some(Fault::Hang),
                    "extra" => Some(Fault::Extra),
                    "endless" => Some(Fault::Endless),
                    _ => None,
                }
            }
            "at" => {
                self.at = match value {
                    "start" => Point::Start,
                    "header" => Point::Header,
                    "body" => Point::Body,
                    _ => Point::End,
                }
            }
            "after" => self.after = duration(),
            "from" => self.from = number(),
            "only" => self.only = value.parse().ok(),
            "linger" => self.linger = duration(),
            "idle" => self.idle = Some(duration()),
            "login" => self.login = value == "1",
            "id" => self.id = Some(value.into()),
            _ => {}
        }
    }

    /// The script as it is for this listener.
    pub fn at_listener(self, listener: usize) -> Self {
        match self.only {
            Some(only) if only != listener => Self::default(),
            _ => self,
        }
    }

    /// The value of a header that the script sets itself.
    pub fn header(&self, wanted: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    }
}

/// The bytes of a value in which `%XX` may stand for any of them.
pub fn decoded(value: &str) -> Vec<u8> {
    let mut pieces = value.split('%');
    let mut bytes = pieces.next().unwrap_or("").as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_script() {
        let script =
            Script::parse("status=404&len=7&framing=chunked&fault=reset&at=body&after=20&from=2&x=y&flag");
        assert_eq!(
            script,
            Script {
                status: Some(404),
                len: Some(7),
                framing: Framing::Chunked,
                fault: Some(Fault::Reset),
                at: Point::Body,
                after: Duration::from_millis(20),
                from: 2,
                ..Script::default()
            }
        );
    }

    #[test]
    fn finds_headers_in_any_case() {
        let script = Script::parse("header=Connection:close&header=X:y");
        assert_eq!(script.header("connection"), Some("close"));
        assert_eq!(script.header("z"), None);
    }

    #[test]
    fn decodes_texts() {
        let script = Script::parse("header=X:%22a%20b%22&body=100%&raw=%ff%0D%0a.%zz");
        assert_eq!(script.header("x"), Some("\"a b\""));
        assert_eq!(script.body.as_deref(), Some(&b"100%"[..]));
        assert_eq!(script.raw.as_deref(), Some(&b"\xff\r\n.%zz"[..]));
    }

    #[test]
    fn spares_other_listeners() {
        let script = || Script::parse("status=500&only=1");
        assert_eq!(script().at_listener(1), script());
        assert_eq!(script().at_listener(0), Script::default());
    }

    #[test]
    fn bounds_the_body() {
        assert_eq!(Script::parse("len=99999999999").len, Some(MAX_LEN));
    }
}
