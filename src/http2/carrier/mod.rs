//! A carrier: the client's side of one HTTP/2 connection to a server (RFC 9113), which carries many requests. It does no I/O:
//! bytes come in by [`Carrier::receive`] and [`Carrier::send`], and go out by [`Carrier::output`] and [`Carrier::read`].
//!
//! ```text
//!   open() --> send() .. --------------> output() --> the server
//!              read() .. <-- receive() <------------- the server
//!   next_woken() says whose send() or read() can go on; close() ends a stream; tick() watches the time
//! ```
//!
//! The files, in reading order: `frame.rs`, `fault.rs`, `limits.rs`; the parts `settings.rs`, `window.rs`, `liveness.rs`,
//! `buffer.rs`, `output.rs`, `stream.rs`, `slots.rs`; what the owner of a stream does: `sending.rs`, `passage.rs`, `leftover.rs`, `reading.rs`; what the server
//! does: `input.rs`, `response.rs`, `control.rs`; and the end: `ending.rs`.
//!
//! Memory, at most: 72 KB of output, 64 KB for Huffman strings, 64 KB for a header block in several frames; for each stream what may
//! be unread (64 KB, and 1 MB for one that was read quickly so far, but all together 16 MB above 64 KB each), its header blocks, and
//! up to 6 bytes of framing for each DATA frame. A vector that grows may be twice as large. A place without a stream keeps 64 KB.
#![forbid(unsafe_code)]

mod buffer;
mod control;
mod ending;
mod fault;
mod frame;
mod input;
mod leftover;
mod limits;
mod liveness;
#[cfg(any(test, fuzzing))]
pub mod model;
mod output;
mod passage;
mod reading;
mod response;
mod sending;
mod settings;
mod slots;
mod stream;
#[cfg(test)]
mod tests;
mod window;

pub use ending::Close;
pub use fault::{Failure, Fault};
pub use reading::Read;
pub use stream::{Kind, StreamKey, Wake};

use crate::base::clock::Msec;
use crate::base::list::NONE;
use frame::{LARGEST, PING};
use input::Input;
use limits::Budget;
use liveness::{elapsed, Liveness, Verdict};
use output::{Output, FOR_ANSWERS};
use settings::Settings;
use slots::Slots;
use window::Shared;

/// How a carrier is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many streams it has at most at a time, at least 1.
    pub streams: u32,
    /// Whether the connection is encrypted: `:scheme` is `https`.
    pub secure: bool,
}

/// What has happened on a carrier so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams that were opened.
    pub opened: u64,
    /// Streams that the server has provably not processed.
    pub refused: u64,
    /// Streams that ended with our RST_STREAM.
    pub reset_by_us: u64,
    /// Streams that failed by the server's RST_STREAM, without those that it has refused.
    pub reset_by_server: u64,
    /// GOAWAY frames of the server.
    pub goaways: u64,
    /// PING frames that we have sent.
    pub pings_sent: u64,
    /// PING frames of ours that the server has answered.
    pub pings_answered: u64,
    /// How often a stream had bytes to send, and no window.
    pub stalls: u64,
    /// Payload of DATA from the server, in bytes.
    pub data_in: u64,
    /// Payload of DATA to the server, in bytes.
    pub data_out: u64,
}

/// What time has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing. [`Carrier::tick`] is to be called at this point in time, if any, and after each use of the carrier.
    Wait(Option<Msec>),
    /// The carrier has ended, and its streams have failed.
    Dead(Fault),
}

/// How long the connection's window may be 0 with bytes to send before no more streams are opened, in milliseconds.
const STALL: Msec = 2_000;

/// How long after that the carrier ends, if no frame of a stream has come in the meantime.
const STALLED: Msec = 60_000;

/// An HTTP/2 connection to a server. `T` is what belongs to a stream: its owner.
#[derive(Debug)]
pub struct Carrier<T> {
    config: Config,
    slots: Slots<T>,
    output: Output,
    input: Input,
    settings: Settings,
    shared: Shared,
    budget: Budget,
    liveness: Liveness,
    counters: Counters,
    /// For the Huffman strings of a header block; empty before the first.
    scratch: Vec<u8>,
    /// The number of the next stream.
    next_id: u32,
    /// How many streams were woken to send DATA and have not done so yet.
    promised: u32,
    /// How much DATA may still come for streams that we have reset, as it was on its way, in bytes.
    on_its_way: u64,
    /// The last stream that the server may process, once GOAWAY has come.
    last: Option<u32>,
    /// No stream is opened any more.
    is_draining: bool,
    /// GOAWAY is to be sent, once all streams have a number.
    owes_goaway: bool,
    /// GOAWAY was sent, or is to be.
    said_goaway: bool,
    /// Since when the connection's window is 0.
    stalled: Option<Msec>,
    fault: Option<Fault>,
    /// The connection is gone.
    is_over: bool,
}

impl<T: Copy> Carrier<T> {
    /// A carrier on a new connection. The preface, our settings and the connection's window are in its output. `None` if there is
    /// no memory.
    pub fn new(config: Config) -> Option<Self> {
        Some(Self {
            config,
            slots: Slots::new(config.streams)?,
            output: Output::new()?,
            input: Input::default(),
            settings: Settings::default(),
            shared: Shared::new(),
            budget: Budget::new(),
            liveness: Liveness::default(),
            counters: Counters::default(),
            scratch: Vec::new(),
            next_id: 1,
            promised: 0,
            on_its_way: 0,
            last: None,
            is_draining: false,
            owes_goaway: false,
            said_goaway: false,
            stalled: None,
            fault: None,
            is_over: false,
        })
    }

    /// How many streams can be opened now: the least of the configured number, less those that have owners, and of the server's
    /// SETTINGS_MAX_CONCURRENT_STREAMS (1 before it is known), less those that the server has. 0 while draining.
    #[inline]
    pub fn room(&self) -> usize {
        if self.is_draining() {
            return 0;
        }
        let ours = self.config.streams.saturating_sub(self.slots.used);
        let theirs = self.settings.streams.saturating_sub(self.slots.used - self.slots.closed);
        ours.min(theirs) as usize
    }

    /// Whether no stream will ever be opened again: GOAWAY came or was sent, the numbers are used up, the connection's window was 0 for
    /// too long, or the carrier has ended.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.is_draining || self.next_id > LARGEST
    }

    /// How many streams have an owner.
    #[inline]
    pub fn streams(&self) -> usize {
        self.slots.owned as usize
    }

    /// How many streams were opened so far.
    #[inline]
    pub fn served(&self) -> u64 {
        self.counters.opened
    }

    /// Whether the server's SETTINGS have come: it speaks HTTP/2.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.settings.is_known
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What ended the carrier, if it was not the connection.
    #[cfg(any(test, fuzzing))]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Opens a stream. Its number is given when its header block is written. `None` if there is no [`Carrier::room`], or no memory.
    pub fn open(&mut self, kind: Kind, owner: T, now: Msec) -> Option<StreamKey> {
        if self.room() == 0 {
            return None;
        }
        let is_first = !self.slots.in_flight();
        let key = self.slots.take(kind, owner)?;
        self.counters.opened += 1;
        if is_first && self.liveness.begin(now) {
            self.ping();
        }
        Some(key)
    }

    /// Sends PING. Without room the server reads nothing, and the missing answer shows it.
    #[cold]
    fn ping(&mut self) {
        self.counters.pings_sent += 1;
        let _ = self.output.control(FOR_ANSWERS, PING, 0, 0, &self.counters.pings_sent.to_be_bytes());
    }

    /// The number of a stream. `None` if it was closed, or its header block was not sent yet.
    pub fn number(&self, key: StreamKey) -> Option<u32> {
        let at = self.slots.at(key)?;
        Some(self.slots.all[at as usize].id).filter(|id| *id > 0)
    }

    /// Who a stream belongs to. `None` if it was closed.
    #[cfg(any(test, fuzzing))]
    pub fn owner(&self, key: StreamKey) -> Option<T> {
        let at = self.slots.at(key)?;
        self.slots.all[at as usize].owner
    }

    /// The next stream whose owner can go on, its owner, and with what. Each is returned once until something new happens. It is to
    /// be called until it returns `None`, after any other function.
    #[inline]
    pub fn next_woken(&mut self) -> Option<(StreamKey, T, Wake)> {
        let at = self.slots.woken.oldest();
        if at == NONE {
            return None;
        }
        let wake = self.slots.let_sleep(at);
        let owner = self.slots.all[at as usize].owner?;
        Some((self.slots.key(at), owner, wake))
    }

    /// What is to be written to the connection. It stays at its address until all of it was written.
    #[inline]
    pub fn output(&self) -> &[u8] {
        self.output.unwritten()
    }

    /// The first `length` bytes of the output were written.
    #[inline]
    pub fn written(&mut self, length: usize) {
        if self.output.written(length) {
            self.go_on();
        }
    }

    /// What time has done: PING when the server is silent, and the end if it stays so.
    pub fn tick(&mut self, now: Msec) -> Tick {
        if let Some(fault) = self.fault {
            return Tick::Dead(fault);
        }
        if self.is_over {
            return Tick::Wait(None);
        }
        let answer = match self.liveness.check(now, self.slots.in_flight()) {
            Verdict::Dead => return self.die(Fault::NoAnswer),
            Verdict::Wait(left) => left,
            Verdict::Ping => {
                self.ping();
                Some(liveness::ANSWER)
            }
        };
        let stall = match self.watch_window(now) {
            Err(fault) => return self.die(fault),
            Ok(left) => left,
        };
        let left = [answer, stall].into_iter().flatten().min();
        Tick::Wait(left.map(|left| now.wrapping_add(left)))
    }

    fn die(&mut self, fault: Fault) -> Tick {
        self.fault = Some(fault);
        self.end();
        Tick::Dead(fault)
    }

    /// A server that takes no DATA at all gets no more streams, and those that it has not got yet are for others. It is given up only if it sends nothing of any stream either: others
    /// than uploads may go on, and an upload has its own timeout. Returns how long to wait.
    fn watch_window(&mut self, now: Msec) -> Result<Option<Msec>, Fault> {
        let is_waited_for = self.slots.senders.oldest() != NONE;
        if self.shared.send > 0 || (!is_waited_for && self.stalled.is_none()) {
            self.stalled = None;
            return Ok(None);
        }
        let passed = elapsed(now, *self.stalled.get_or_insert(now));
        if passed < STALL {
            return Ok(Some(STALL - passed));
        }
        self.is_draining = true;
        self.refuse_unsent();
        if self.slots.senders.oldest() == NONE {
            return Ok(None);
        }
        let left = (STALL + STALLED).saturating_sub(passed);
        match left.max(STALLED.saturating_sub(self.liveness.still(now))) {
            0 => Err(Fault::Stalled),
            left => Ok(Some(left)),
        }
    }
}
