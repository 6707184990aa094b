//! The state of one HTTP/2 connection: its streams, its windows, and what is to be written.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::Notify;

use super::frame::{self, setting};
use super::script::{Connection, Credit};
use super::Site;
use crate::connection::Farewell;
use crate::stats::Stats;

/// Every connection's window, and every stream's, at the beginning (RFC 9113, section 6.9.2).
const FIRST_WINDOW: i64 = 65_535;

/// The stream is no more: reset, or lost with its connection.
#[derive(Debug)]
pub struct Gone;

pub enum Output {
    Bytes(Vec<u8>),
    End(Farewell),
}

/// One stream as the connection sees it.
pub struct Entry {
    pub send: i64,
    pub receive: i64,
    /// Bytes that have come and are not credited yet.
    pub owed: i64,
    pub credit: Credit,
    pub is_request_over: bool,
    pub is_answer_over: bool,
    pub length: u64,
    /// The sum of all bytes of the body, as 32 bits.
    pub sum: u32,
    /// The body, if it is to be sent back.
    pub body: Option<Vec<u8>>,
    pub declared: Option<u64>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    pub changed: Arc<Notify>,
}

pub struct State {
    pub streams: HashMap<u32, Entry>,
    pub last: u32,
    pub served: u64,
    /// What the client allows.
    pub send: i64,
    pub first_send: i64,
    pub max_frame: usize,
    /// What this side allows, and what it has announced but the client has not acknowledged.
    pub receive: i64,
    pub owed: i64,
    pub first_receive: i64,
    pub own_window: i64,
    pub max_streams: Option<u64>,
    pub announced: VecDeque<Vec<(u16, u32)>>,
    pub goaway: Option<u32>,
    pub ends_when_empty: bool,
    pub idle_since: Instant,
}

/// What DATA has come to: the rule that it breaks, and what is to be credited now.
pub struct Arrival {
    pub broken: Option<&'static str>,
    pub of_stream: i64,
    pub of_link: i64,
}

impl State {
    /// DATA have come: `length` bytes with their padding.
    pub fn data(&mut self, stream: u32, length: i64, content: &[u8]) -> Arrival {
        let mut arrival = Arrival { broken: None, of_stream: 0, of_link: 0 };
        self.receive -= length;
        self.owed += length;
        if self.receive < 0 {
            arrival.broken = Some("DATA beyond the connection's window");
        }
        if stream > self.last || stream & 1 == 0 {
            arrival.broken = Some("DATA on a stream that is not open");
        }
        if let Some(entry) = self.streams.get_mut(&stream) {
            arrival.broken = entry.data(length, content).or(arrival.broken);
            arrival.of_stream = entry.due(self.first_receive);
            if entry.credit == Credit::Nothing {
                self.owed -= length;
            }
        }
        if self.owed > 0 && self.owed * 4 >= self.own_window {
            arrival.of_link = std::mem::take(&mut self.owed);
            self.receive += arrival.of_link;
        }
        arrival
    }
}

impl Entry {
    /// Returns the rule that is broken.
    fn data(&mut self, length: i64, content: &[u8]) -> Option<&'static str> {
        self.receive -= length;
        self.owed += length;
        self.length += content.len() as u64;
        self.sum = content.iter().fold(self.sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        if let Some(body) = &mut self.body {
            body.extend_from_slice(content);
        }
        if self.is_request_over {
            return Some("DATA after END_STREAM");
        }
        (self.receive < 0).then_some("DATA beyond the stream's window")
    }

    /// What to credit now, if anything.
    fn due(&mut self, first: i64) -> i64 {
        if self.credit != Credit::Both || self.owed == 0 || self.owed * 4 < first {
            return 0;
        }
        self.receive += self.owed;
        std::mem::take(&mut self.owed)
    }
}

pub struct Link {
    pub serial: u64,
    pub listener: usize,
    pub script: Connection,
    pub stats: Arc<Stats>,
    pub site: Arc<Site>,
    pub is_silent: AtomicBool,
    pub is_deaf: AtomicBool,
    output: UnboundedSender<Output>,
    state: Mutex<State>,
}

impl Link {
    pub fn new(
        serial: u64,
        listener: usize,
        script: Connection,
        stats: Arc<Stats>,
        site: Arc<Site>,
        output: UnboundedSender<Output>,
    ) -> Self {
        let state = State {
            streams: HashMap::new(),
            last: 0,
            served: 0,
            send: FIRST_WINDOW,
            first_send: FIRST_WINDOW,
            max_frame: 16_384,
            receive: FIRST_WINDOW,
            owed: 0,
            first_receive: FIRST_WINDOW,
            own_window: FIRST_WINDOW,
            max_streams: None,
            announced: VecDeque::new(),
            goaway: None,
            ends_when_empty: false,
            idle_since: Instant::now(),
        };
        Self {
            serial,
            listener,
            script,
            stats,
            site,
            is_silent: AtomicBool::new(false),
            is_deaf: AtomicBool::new(false),
            output,
            state: Mutex::new(state),
        }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no holder panics"))
    }

    pub fn violation(&self, stream: u32, rule: &str) {
        self.stats.http2.violation(self.serial, stream, rule);
    }

    /// Writes, unless the connection has fallen silent.
    pub fn send(&self, bytes: Vec<u8>) {
        if !self.is_silent.load(Relaxed) {
            let _ = self.output.send(Output::Bytes(bytes));
        }
    }

    pub fn end(&self, farewell: Farewell) {
        let _ = self.output.send(Output::End(farewell));
    }

    /// Announces settings; they hold once the client acknowledges them.
    pub fn announce(&self, values: &[(u16, u32)]) {
        self.with(|state| state.announced.push_back(values.to_vec()));
        self.send(frame::settings(values));
    }

    /// The client has acknowledged the oldest settings.
    pub fn acknowledged(&self) {
        let is_expected = self.with(|state| {
            let Some(values) = state.announced.pop_front() else { return false };
            for (id, value) in values {
                match id {
                    setting::MAX_CONCURRENT_STREAMS => state.max_streams = Some(value.into()),
                    setting::INITIAL_WINDOW_SIZE => {
                        let change = i64::from(value) - state.first_receive;
                        state.first_receive = value.into();
                        state.streams.values_mut().for_each(|entry| entry.receive += change);
                    }
                    _ => {}
                }
            }
            true
        });
        if !is_expected && self.script.first.is_none() {
            self.violation(0, "an acknowledgement of no settings");
        }
    }

    /// Grants this much to the connection's own window.
    pub fn widen(&self, increment: u32) {
        self.with(|state| {
            state.receive += i64::from(increment);
            state.own_window += i64::from(increment);
        });
        self.send(frame::window_update(0, increment));
    }

    /// Takes what can be sent as DATA now; 0 if it has to wait.
    pub fn take_window(&self, stream: u32, wanted: usize, overhead: usize) -> Result<usize, Gone> {
        self.with(|state| {
            let entry = state.streams.get_mut(&stream).ok_or(Gone)?;
            let room = state.send.min(entry.send).min(state.max_frame as i64) - overhead as i64;
            let now = room.max(0).min(wanted as i64);
            if now > 0 || wanted == 0 && room >= 0 {
                state.send -= now + overhead as i64;
                entry.send -= now + overhead as i64;
            }
            Ok(now as usize)
        })
    }

    pub fn changed(&self, stream: u32) -> Result<Arc<Notify>, Gone> {
        self.with(|state| state.streams.get(&stream).map(|entry| entry.changed.clone()).ok_or(Gone))
    }

    /// Whether the whole request has come.
    pub fn is_request_over(&self, stream: u32) -> Result<bool, Gone> {
        self.with(|state| state.streams.get(&stream).map(|entry| entry.is_request_over).ok_or(Gone))
    }

    /// This side of the stream has ended.
    pub fn answered(&self, stream: u32) {
        let is_over = self.with(|state| {
            let Some(entry) = state.streams.get_mut(&stream) else { return false };
            entry.is_answer_over = true;
            entry.is_request_over
        });
        if is_over {
            self.remove(stream);
        }
    }

    /// The stream is closed.
    pub fn remove(&self, stream: u32) {
        let removed = self.with(|state| state.streams.remove(&stream));
        if let Some(entry) = removed {
            entry.changed.notify_one();
            self.stats.http2.ended(self.serial, 1);
        }
        self.end_if_empty();
    }

    fn end_if_empty(&self) {
        let ends = self.with(|state| {
            if state.streams.is_empty() {
                state.idle_since = Instant::now();
            }
            state.streams.is_empty() && state.ends_when_empty
        });
        if ends {
            self.end(Farewell::Close);
        }
    }

    /// Says goodbye; streams above the last one are forgotten.
    pub fn goaway(&self, last: u32, code: u32, ends_when_empty: bool) {
        self.send(frame::goaway(last, code));
        let forgotten = self.with(|state| {
            state.goaway = Some(last);
            state.ends_when_empty |= ends_when_empty;
            state.streams.keys().copied().filter(|stream| *stream > last).collect::<Vec<_>>()
        });
        for stream in forgotten {
            self.stats.http2.refused();
            self.remove(stream);
        }
        self.end_if_empty();
    }

    /// The connection has ended.
    pub fn over(&self) {
        let streams = self.with(|state| std::mem::take(&mut state.streams));
        self.stats.http2.ended(self.serial, streams.len() as u64);
        streams.values().for_each(|entry| entry.changed.notify_one());
        self.end(Farewell::Close);
    }
}
