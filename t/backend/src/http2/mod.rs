//! HTTP/2 with prior knowledge and by ALPN (RFC 9113): a server that answers, or misbehaves, as each request's query says
//! (see `script.rs`), and that tells which rules its client has broken.
//!
//! A client that does not begin with HTTP/2's preface is served by HTTP/1.1.

mod counts;
mod frame;
mod hpack;
mod huffman;
mod link;
mod raw;
mod reader;
mod request;
mod script;
mod stream;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::address::Stream;
use crate::connection::{self, Farewell};
use crate::input::Input;
use crate::protocol::Protocol;
use crate::stats::Stats;
use link::{Link, Output};
use reader::Reader;
use script::{setting_of, Connection};

pub use counts::Counts;

/// What all connections of a listener share.
pub struct Site {
    /// The script of connections that come, and the one after it.
    script: Mutex<Connection>,
    default: Connection,
    /// How often each path was asked for.
    paths: Mutex<HashMap<String, u64>>,
    links: Mutex<Vec<Weak<Link>>>,
}

impl Site {
    pub fn new(script: &str) -> Self {
        let script = Connection::parse(script);
        Self {
            script: Mutex::new(script.clone()),
            default: script,
            paths: Mutex::default(),
            links: Mutex::default(),
        }
    }

    /// Changes what connections that are still to come do.
    pub fn behave(&self, query: &str) {
        *self.script.lock().expect("no holder panics") = Connection::parse(query);
    }

    /// Forgets how often each path was asked for, and what connections were to do.
    pub fn reset(&self) {
        self.paths.lock().expect("no holder panics").clear();
        *self.script.lock().expect("no holder panics") = self.default.clone();
    }

    fn next_script(&self) -> Connection {
        let mut script = self.script.lock().expect("no holder panics");
        let next = script.clone();
        if let Some(times) = &mut script.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                *script = self.default.clone();
            }
        }
        next
    }

    /// Whether the TLS handshake of the next connection is to fail.
    pub fn fails_handshake(&self) -> bool {
        let fails = self.script.lock().expect("no holder panics").accept == "handshake";
        fails && self.next_script().accept == "handshake"
    }

    /// How often this path was asked for, this time included.
    fn asked(&self, path: &str) -> u64 {
        let mut paths = self.paths.lock().expect("no holder panics");
        let number = paths.entry(path.into()).or_default();
        *number += 1;
        *number
    }

    fn live(&self) -> Vec<Arc<Link>> {
        let mut links = self.links.lock().expect("no holder panics");
        links.retain(|link| link.strong_count() > 0);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// Changes the settings of all connections.
    pub fn announce(&self, query: &str) {
        let values: Vec<_> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter_map(|(name, value)| setting_of(name).zip(value.parse().ok()))
            .collect();
        self.live().iter().for_each(|link| link.announce(&values));
    }

    /// Sends these frames (see `raw.rs`) to all connections.
    pub fn send(&self, frames: &str) {
        for link in self.live() {
            for piece in raw::pieces(frames, 0) {
                if let raw::Piece::Bytes(bytes) = piece {
                    link.send(bytes);
                }
            }
        }
    }

    /// GOAWAY to all connections, which end with their last stream.
    pub fn goaway(&self) {
        for link in self.live() {
            let last = link.with(|state| state.last);
            link.goaway(last, frame::code::NO_ERROR, true);
        }
    }
}

/// What a listener knows about a connection.
pub struct Context {
    pub listener: usize,
    pub serial: u64,
    pub stats: Arc<Stats>,
    pub site: Arc<Site>,
}

/// Serves a connection to its end, by HTTP/2 or by HTTP/1.1.
pub async fn serve(mut stream: Box<dyn Stream>, context: Context, farewells: watch::Receiver<Farewell>) {
    let Context { listener, serial, stats, site } = context;
    let script = site.next_script();
    if script.accept == "deaf" {
        // Until the other side gives up.
        let mut farewells = farewells;
        let _ = farewells.changed().await;
        return stats.closed(serial, 0);
    }
    let begun = match begin(&mut stream).await {
        Ok((begun, is_http2)) if is_http2 => begun,
        Ok((begun, _)) => {
            stats.http2.line(serial, |line| line.protocol = "http/1.1");
            let input = Input::with(stream, begun);
            return connection::serve(input, Protocol::Http, listener, serial, stats, farewells).await;
        }
        Err(_) => return stats.closed(serial, 0),
    };
    stats.http2.line(serial, |line| (line.protocol, line.is_open) = ("h2", true));

    let socket = stream.duplicate().ok();
    let (input, output) = tokio::io::split(stream);
    let (sender, receiver) = mpsc::unbounded_channel();
    let link = Arc::new(Link::new(serial, listener, script, stats.clone(), site.clone(), sender));
    site.links.lock().expect("no holder panics").push(Arc::downgrade(&link));
    let writer = tokio::spawn(write(output, receiver, link.clone()));
    let farewell = match greet(&link).await {
        true => converse(Reader::new(input, link.clone(), begun), writer, &link, farewells).await,
        false => writer.await.unwrap_or(Farewell::Close),
    };
    if let Some(socket) = socket.filter(|_| farewell == Farewell::Reset) {
        let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
    link.over();
    stats.http2.line(serial, |line| line.is_open = false);
    stats.closed(serial, 0);
}

/// Reads and writes until either has ended; returns how the connection is to end.
async fn converse(
    mut reader: Reader<ReadHalf<Box<dyn Stream>>>,
    mut writer: JoinHandle<Farewell>,
    link: &Arc<Link>,
    mut farewells: watch::Receiver<Farewell>,
) -> Farewell {
    loop {
        tokio::select! {
            _ = reader.run() => {
                link.over();
                return writer.await.unwrap_or(Farewell::Close);
            }
            ended = &mut writer => {
                let farewell = ended.unwrap_or(Farewell::Close);
                link.over();
                if farewell == Farewell::Close {
                    // A close with unread bytes would be a reset, and take what was sent with it.
                    let _ = timeout(Duration::from_millis(500), reader.discard()).await;
                }
                return farewell;
            }
            changed = farewells.changed() => {
                let farewell = *farewells.borrow();
                link.end(if changed.is_ok() { farewell } else { Farewell::Close });
            }
        }
    }
}

/// The first bytes, without the preface if they are one; and whether they are.
async fn begin(stream: &mut Box<dyn Stream>) -> io::Result<(Vec<u8>, bool)> {
    let mut begun = Vec::new();
    loop {
        if stream.read_buf(&mut begun).await? == 0 {
            return match begun.is_empty() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok((begun, false)),
            };
        }
        let length = begun.len().min(frame::PREFACE.len());
        if begun[..length] != frame::PREFACE[..length] {
            return Ok((begun, false));
        }
        if length == frame::PREFACE.len() {
            return Ok((begun.split_off(length), true));
        }
    }
}

/// What this side says first; returns whether the connection goes on.
async fn greet(link: &Arc<Link>) -> bool {
    let script = &link.script;
    match script.accept.as_str() {
        "close" => link.end(Farewell::Close),
        "abort" => link.end(Farewell::Reset),
        "http1" => {
            link.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec());
            link.end(Farewell::Close);
        }
        "silent" => link.is_silent.store(true, Relaxed),
        _ => {}
    }
    if matches!(script.accept.as_str(), "close" | "abort" | "http1") {
        return false;
    }
    match &script.first {
        Some(frames) => stream::send_pieces(link, frames, 0).await,
        None => {
            // Nothing may come before SETTINGS, so nothing is read.
            if !script.late.is_zero() {
                sleep(script.late).await;
            }
            link.announce(&script.settings);
        }
    }
    if let Some(more) =
        script.own_window.and_then(|window| window.checked_sub(65_535)).filter(|more| *more > 0)
    {
        link.widen(more);
    }
    true
}

/// Writes what there is to write; returns how the connection is to end.
async fn write(
    mut output: WriteHalf<Box<dyn Stream>>,
    mut receiver: mpsc::UnboundedReceiver<Output>,
    link: Arc<Link>,
) -> Farewell {
    while let Some(mut next) = receiver.recv().await {
        let mut bytes = Vec::new();
        let end = loop {
            match next {
                Output::Bytes(more) => bytes.extend_from_slice(&more),
                Output::End(farewell) => break Some(farewell),
            }
            match receiver.try_recv() {
                Ok(more) if bytes.len() < 65_536 => next = more,
                Ok(Output::Bytes(more)) => {
                    bytes.extend_from_slice(&more);
                    break None;
                }
                Ok(Output::End(farewell)) => break Some(farewell),
                Err(_) => break None,
            }
        };
        link.stats.http2.line(link.serial, |line| line.bytes_out += bytes.len() as u64);
        if !bytes.is_empty() && output.write_all(&bytes).await.is_err() {
            return Farewell::Close;
        }
        match end {
            Some(Farewell::Reset) => return Farewell::Reset,
            Some(Farewell::Close) => {
                let _ = output.shutdown().await;
                return Farewell::Close;
            }
            None => {}
        }
    }
    Farewell::Close
}
