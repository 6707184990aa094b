//! What is counted of HTTP/2, for `/stats`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// So many violations are kept as text.
const MAX_TEXTS: usize = 20;

const KINDS: [&str; 10] = [
    "data",
    "headers",
    "priority",
    "rst_stream",
    "settings",
    "push_promise",
    "ping",
    "goaway",
    "window_update",
    "continuation",
];

/// What a connection has seen.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// What it speaks: `h2` or `http/1.1`.
    pub protocol: &'static str,
    pub is_tls: bool,
    pub is_resumed: bool,
    pub name: String,
    pub streams: u64,
    pub open: u64,
    pub max_open: u64,
    /// Frames from the client, by type.
    pub frames: [u64; 10],
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub is_open: bool,
}

#[derive(Default)]
struct Inner {
    lines: BTreeMap<u64, Line>,
    open: u64,
    max_open: u64,
    refused: u64,
    failed_handshakes: u64,
    violations: u64,
    texts: Vec<String>,
}

/// Counters of one listener.
#[derive(Default)]
pub struct Counts(Mutex<Inner>);

impl Counts {
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().expect("no holder panics"))
    }

    /// Changes the line of a connection.
    pub fn line(&self, serial: u64, change: impl FnOnce(&mut Line)) {
        self.with(|inner| change(inner.lines.entry(serial).or_default()));
    }

    pub fn opened(&self, serial: u64) {
        self.with(|inner| {
            inner.open += 1;
            inner.max_open = inner.max_open.max(inner.open);
            let line = inner.lines.entry(serial).or_default();
            line.streams += 1;
            line.open += 1;
            line.max_open = line.max_open.max(line.open);
        });
    }

    pub fn ended(&self, serial: u64, number: u64) {
        self.with(|inner| {
            inner.open = inner.open.saturating_sub(number);
            let line = inner.lines.entry(serial).or_default();
            line.open = line.open.saturating_sub(number);
        });
    }

    pub fn refused(&self) {
        self.with(|inner| inner.refused += 1);
    }

    pub fn handshake_failed(&self) {
        self.with(|inner| inner.failed_handshakes += 1);
    }

    /// The client has broken a rule.
    pub fn violation(&self, serial: u64, stream: u32, rule: &str) {
        self.with(|inner| {
            inner.violations += 1;
            if inner.texts.len() < MAX_TEXTS {
                inner.texts.push(format!("connection {serial} stream {stream}: {rule}"));
            }
        });
    }
}

fn quoted(text: &str) -> String {
    let safe: String = text
        .chars()
        .map(|char| match char {
            '"' | '\\' => '\'',
            ' '..='~' => char,
            _ => '?',
        })
        .collect();
    format!("\"{safe}\"")
}

impl Line {
    fn json(&self, serial: u64) -> String {
        let frames: Vec<_> =
            KINDS.iter().zip(self.frames).map(|(kind, number)| format!("\"{kind}\":{number}")).collect();
        format!(
            r#"{{"connection":{serial},"protocol":"{}","tls":{},"resumed":{},"name":{},"streams":{},"open":{},"max_open":{},"frames":{{{}}},"bytes_in":{},"bytes_out":{},"is_open":{}}}"#,
            self.protocol,
            u8::from(self.is_tls),
            u8::from(self.is_resumed),
            quoted(&self.name),
            self.streams,
            self.open,
            self.max_open,
            frames.join(","),
            self.bytes_in,
            self.bytes_out,
            u8::from(self.is_open),
        )
    }
}

/// A JSON object.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|inner| {
            let lines: Vec<_> = inner.lines.iter().map(|(serial, line)| line.json(*serial)).collect();
            let texts: Vec<_> = inner.texts.iter().map(|text| quoted(text)).collect();
            let streams: u64 = inner.lines.values().map(|line| line.streams).sum();
            let frames: Vec<_> = (0..KINDS.len())
                .map(|at| {
                    format!("\"{}\":{}", KINDS[at], inner.lines.values().map(|line| line.frames[at]).sum::<u64>())
                })
                .collect();
            write!(
                f,
                r#"{{"streams":{streams},"open":{},"max_open":{},"refused":{},"failed_handshakes":{},"frames":{{{}}},"violations":{},"broken":[{}],"connections":[{}]}}"#,
                inner.open,
                inner.max_open,
                inner.refused,
                inner.failed_handshakes,
                frames.join(","),
                inner.violations,
                texts.join(","),
                lines.join(","),
            )
        })
    }
}
