//! The scripts of HTTP/2: of a request, in its query, and of a connection, by the command line or the control listener.

use std::time::Duration;

use super::frame::{code, setting};
use crate::script::{decoded, MAX_LEN};

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// `refuse`: RST_STREAM with REFUSED_STREAM.
    Refuse,
    /// `reset`: RST_STREAM with `code`.
    Reset,
    /// `goaway`: GOAWAY with `last` and `code`.
    Goaway,
    /// `close`: the connection is closed.
    Close,
    /// `abort`: the connection is reset.
    Abort,
    /// `hang`: nothing more on this stream.
    Hang,
    /// `silent`: nothing more on this connection, not even the answer to a PING.
    Silent,
    /// `deaf`: nothing more is read from this connection.
    Deaf,
    /// `frames=`: these frames, see `raw.rs`.
    Frames(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Point {
    /// When the header of the request has come.
    #[default]
    Start,
    /// After the request's body.
    Request,
    /// After the header of the answer.
    Header,
    /// In the middle of the body.
    Body,
    /// After END_STREAM.
    End,
}

/// What comes after the fault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Then {
    /// Nothing on this stream, which counts as ended.
    #[default]
    End,
    /// The answer, or the rest of it.
    Answer,
    Close,
    Abort,
    Hang,
    Silent,
}

/// Which requests a body is credited for (RFC 9113, section 6.9).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Credit {
    #[default]
    Both,
    /// The connection's window only, the stream's stays as it is.
    Connection,
    Nothing,
}

#[derive(Clone, Debug, Default)]
pub struct Script {
    /// `status=`, 200 if unset.
    pub status: Option<u16>,
    /// `len=`: a body of that length; `body=`: a text, again and again with `len=`.
    pub len: Option<usize>,
    pub body: Option<Vec<u8>>,
    /// `echo=1`: the body tells what came; `reflect=1`: it is the body that came.
    pub echo: bool,
    pub reflect: bool,
    /// `header=Name:value`, `trailer=Name:value`: any number of them, as they are.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// `fill=N`: one more header, with a value of this length.
    pub fill: Option<usize>,
    /// `interim=103`: separated by commas.
    pub interim: Vec<u16>,
    /// `delay=`: milliseconds before the header, `drip=` between ten (`pieces=`) pieces of the body.
    pub delay: Duration,
    pub drip: Option<Duration>,
    pub pieces: usize,
    /// `early=1`: answers before the body has come; `early=reset`: and then resets the stream with NO_ERROR.
    pub early: bool,
    pub early_reset: bool,
    /// `length=none`: no Content-Length; `length=N`: this one.
    pub no_length: bool,
    pub length: Option<u64>,
    /// `compact=1`: the header with indices and Huffman's code.
    pub compact: bool,
    /// `pad=N`: padding; `split=N`: header blocks in pieces of this length; `frame=N`: the largest DATA.
    pub pad: Option<u8>,
    pub split: Option<usize>,
    pub frame: Option<usize>,
    /// `credit=connection|nothing`
    pub credit: Credit,
    /// `fault=`, `at=start|request|header|body|end`, `after=` milliseconds, `then=end|answer|close|abort|hang|silent`.
    pub fault: Option<Fault>,
    pub at: Point,
    pub after: Duration,
    pub then: Then,
    /// `code=`: the error code of RST_STREAM and GOAWAY.
    pub code: Option<u32>,
    /// `last=below|at|max` or a number: the last stream of GOAWAY.
    pub last: Option<String>,
    /// `from=N`: the fault happens from the Nth stream of a connection on; `times=N`: for the first N requests of this path;
    /// `only=N`: at the Nth listener only.
    pub from: u64,
    pub times: Option<u64>,
    pub only: Option<usize>,
    /// `id=`: the name of the request.
    pub id: Option<String>,
}

impl Script {
    /// Unknown names are ignored.
    pub fn parse(query: &str) -> Self {
        let mut script = Self { pieces: 10, ..Self::default() };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            script.set(name, value);
            script.set_fault(name, value);
        }
        script
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = || value.parse().unwrap_or(0u64);
        let length = || Some(MAX_LEN.min(number() as usize));
        let duration = || Duration::from_millis(number());
        match name {
            "status" => self.status = value.parse().ok(),
            "len" => self.len = length(),
            "body" => self.body = Some(decoded(value)),
            "echo" => self.echo = value == "1",
            "reflect" => self.reflect = value == "1",
            "header" => self.headers.extend(field(value)),
            "trailer" => self.trailers.extend(field(value)),
            "fill" => self.fill = length(),
            "interim" => self.interim = value.split(',').filter_map(|code| code.parse().ok()).collect(),
            "delay" => self.delay = duration(),
            "drip" => self.drip = Some(duration()),
            "pieces" => self.pieces = (number() as usize).max(1),
            "early" => {
                self.early = value != "0";
                self.early_reset = value == "reset";
            }
            "length" => {
                self.no_length = value == "none";
                self.length = value.parse().ok();
            }
            "compact" => self.compact = value == "1",
            "pad" => self.pad = value.parse().ok(),
            "split" => self.split = length().filter(|length| *length > 0),
            "frame" => self.frame = length().filter(|length| *length > 0),
            "id" => self.id = Some(value.into()),
            _ => {}
        }
    }

    fn set_fault(&mut self, name: &str, value: &str) {
        match name {
            "credit" => {
                self.credit = match value {
                    "connection" => Credit::Connection,
                    "nothing" => Credit::Nothing,
                    _ => Credit::Both,
                }
            }
            "fault" => {
                self.fault = match value {
                    "refuse" => Some(Fault::Refuse),
                    "reset" => Some(Fault::Reset),
                    "goaway" => Some(Fault::Goaway),
                    "close" => Some(Fault::Close),
                    "abort" => Some(Fault::Abort),
                    "hang" => Some(Fault::Hang),
                    "silent" => Some(Fault::Silent),
                    "deaf" => Some(Fault::Deaf),
                    _ => None,
                }
            }
            "frames" => self.fault = Some(Fault::Frames(value.into())),
            "at" => {
                self.at = match value {
                    "request" => Point::Request,
                    "header" => Point::Header,
                    "body" => Point::Body,
                    "end" => Point::End,
                    _ => Point::Start,
                }
            }
            "after" => self.after = Duration::from_millis(value.parse().unwrap_or(0)),
            "then" => {
                self.then = match value {
                    "answer" => Then::Answer,
                    "close" => Then::Close,
                    "abort" => Then::Abort,
                    "hang" => Then::Hang,
                    "silent" => Then::Silent,
                    _ => Then::End,
                }
            }
            "code" => self.code = value.parse().ok(),
            "last" => self.last = Some(value.into()),
            "from" => self.from = value.parse().unwrap_or(0),
            "times" => self.times = value.parse().ok(),
            "only" => self.only = value.parse().ok(),
            _ => {}
        }
    }

    /// The last stream that a GOAWAY of this script names: by default the one before the request's.
    pub fn last_stream(&self, stream: u32) -> u32 {
        match self.last.as_deref() {
            Some("at") => stream,
            Some("max") => 0x7fff_ffff,
            Some(number) if number != "below" => number.parse().unwrap_or(0),
            _ => stream.saturating_sub(2),
        }
    }

    pub fn error_code(&self) -> u32 {
        self.code.unwrap_or(match self.fault {
            Some(Fault::Goaway) => code::NO_ERROR,
            _ => code::INTERNAL_ERROR,
        })
    }
}

fn field(value: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let bytes = decoded(value);
    // A name may begin with a colon.
    let at = bytes.iter().skip(1).position(|byte| *byte == b':')? + 1;
    Some((bytes[..at].to_vec(), bytes[at + 1..].to_vec()))
}

/// What a connection does, whatever its requests say.
#[derive(Clone, Debug)]
pub struct Connection {
    /// What SETTINGS say: `streams=` (MAX_CONCURRENT_STREAMS), `window=` (INITIAL_WINDOW_SIZE), `frame=` (MAX_FRAME_SIZE),
    /// `headers=` (MAX_HEADER_LIST_SIZE), `table=` (HEADER_TABLE_SIZE).
    pub settings: Vec<(u16, u32)>,
    /// `own=`: the connection's receive window; at least 65,535, which it has at the beginning.
    pub own_window: Option<u32>,
    /// `first=`: these frames (see `raw.rs`) instead of SETTINGS; empty for none.
    pub first: Option<String>,
    /// `late=`: milliseconds before SETTINGS.
    pub late: Duration,
    /// `accept=close|abort|silent|http1`: what happens once the preface has come; `deaf`: nothing is ever read;
    /// `handshake`: the connection ends instead of the handshake of TLS.
    pub accept: String,
    /// `idle=`: milliseconds without a stream before the end, `farewell=goaway|close|abort`.
    pub idle: Option<Duration>,
    pub farewell: String,
    /// `requests=N`: GOAWAY after so many.
    pub requests: Option<u64>,
    /// `ack=0`: neither SETTINGS nor PING are acknowledged.
    pub acknowledges: bool,
    /// `times=N`: only the next N connections.
    pub times: Option<u64>,
}

impl Connection {
    pub fn parse(query: &str) -> Self {
        let mut script = Self {
            settings: Vec::new(),
            own_window: None,
            first: None,
            late: Duration::ZERO,
            accept: String::new(),
            idle: None,
            farewell: "goaway".into(),
            requests: None,
            acknowledges: true,
            times: None,
        };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            script.set(name, value);
        }
        script
    }

    fn set(&mut self, name: &str, value: &str) {
        let duration = || Duration::from_millis(value.parse().unwrap_or(0));
        match name {
            "own" => self.own_window = value.parse().ok(),
            "first" => self.first = Some(value.into()),
            "late" => self.late = duration(),
            "accept" => self.accept = value.into(),
            "idle" => self.idle = Some(duration()),
            "farewell" => self.farewell = value.into(),
            "requests" => self.requests = value.parse().ok(),
            "ack" => self.acknowledges = value != "0",
            "times" => self.times = value.parse().ok(),
            _ => self.settings.extend(setting_of(name).zip(value.parse().ok())),
        }
    }
}

/// The setting that a script calls by this name.
pub fn setting_of(name: &str) -> Option<u16> {
    match name {
        "streams" => Some(setting::MAX_CONCURRENT_STREAMS),
        "window" => Some(setting::INITIAL_WINDOW_SIZE),
        "frame" => Some(setting::MAX_FRAME_SIZE),
        "headers" => Some(setting::MAX_HEADER_LIST_SIZE),
        "table" => Some(setting::HEADER_TABLE_SIZE),
        _ => None,
    }
}
