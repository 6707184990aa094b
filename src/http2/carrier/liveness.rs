//! Whether the server is still there. PING is sent when it has been silent for some time with requests in flight, and before the
//! first request after a long idle time. Servers punish pings without reason (gRPC closes the connection after two without a
//! frame of a stream in between), so they become rare.
//!
//! ```text
//!   requests in flight, 10 s of silence: PING .. 20 s: PING .. 5 min: PING .. 5 min: PING ..
//!                                         `-- 5 s without a sign of life: dead
//!   first request after 10 s of idleness: PING, the header block is held
//!                                         `-- 2 s without a sign of life: dead
//! ```
#![forbid(unsafe_code)]

use crate::base::clock::Msec;

/// How long the server may be silent with requests in flight, in milliseconds.
pub(super) const SILENCE: Msec = 10_000;
/// How soon it must give a sign of life after PING.
pub(super) const ANSWER: Msec = 5_000;
/// The same after a PING before the first request.
pub(super) const HELD: Msec = 2_000;
/// How long after the first PING the second is sent.
pub(super) const SECOND: Msec = 20_000;
/// How long after the second PING and each later one the next is sent.
pub(super) const LATER: Msec = 300_000;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Liveness {
    /// When anything has come from the server, if ever.
    heard: Option<Msec>,
    /// When a frame of a stream has come.
    moved: Msec,
    /// When requests came to be in flight, or when they did so for the first time since the server was heard.
    since: Option<Msec>,
    /// When a PING was sent that nothing has followed yet, and how long may pass after it.
    unanswered: Option<(Msec, Msec)>,
    /// When the last PING was sent.
    pinged: Msec,
    /// How many PINGs were sent since the last frame of a stream.
    pings: u32,
    /// Header blocks wait for a sign of life.
    is_holding: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing for so many milliseconds, or until something happens.
    Wait(Option<Msec>),
    Ping,
    Dead,
}

/// How much time has passed. The clock wraps around, and may be a bit behind.
pub(super) fn elapsed(now: Msec, since: Msec) -> Msec {
    let elapsed = now.wrapping_sub(since);
    if elapsed as isize >= 0 {
        elapsed
    } else {
        0
    }
}

fn is_before(time: Msec, other: Msec) -> bool {
    (time.wrapping_sub(other) as isize) < 0
}

impl Liveness {
    /// Something has come. Returns whether header blocks were held until now.
    #[inline]
    pub(super) fn heard(&mut self, now: Msec) -> bool {
        self.heard = Some(now);
        self.unanswered = None;
        std::mem::take(&mut self.is_holding)
    }

    /// A frame of a stream has come: pings are no longer without reason.
    #[inline]
    pub(super) fn heard_of_stream(&mut self) {
        self.pings = 0;
        self.moved = self.heard.unwrap_or(self.moved);
    }

    /// How long ago a frame of a stream has come.
    pub(super) fn still(&self, now: Msec) -> Msec {
        elapsed(now, self.moved)
    }

    /// The first request is put in flight. Returns whether PING must be sent first.
    #[inline]
    pub(super) fn begin(&mut self, now: Msec) -> bool {
        // Requests that fail one after the other are one silence.
        let is_silent = |since| self.heard.is_none_or(|heard| is_before(heard, since));
        self.since = self.since.filter(|since| is_silent(*since)).or(Some(now));
        let is_long = self.heard.is_some_and(|heard| elapsed(now, heard) > SILENCE);
        is_long && self.begin_after_idleness(now)
    }

    #[cold]
    fn begin_after_idleness(&mut self, now: Msec) -> bool {
        let is_allowed = self.unanswered.is_none() && elapsed(now, self.pinged) >= self.pause();
        if is_allowed {
            self.sent(now, HELD);
            self.is_holding = true;
        }
        is_allowed
    }

    /// Whether header blocks wait.
    #[inline]
    pub(super) fn is_holding(&self) -> bool {
        self.is_holding
    }

    /// How long after the last PING the next may be sent.
    fn pause(&self) -> Msec {
        match self.pings {
            0 => 0,
            1 => SECOND,
            _ => LATER,
        }
    }

    fn sent(&mut self, now: Msec, answer: Msec) {
        self.unanswered = Some((now, answer));
        self.pinged = now;
        self.pings = self.pings.saturating_add(1);
    }

    /// What is to be done now. PING is taken as sent.
    pub(super) fn check(&mut self, now: Msec, in_flight: bool) -> Verdict {
        if let Some((sent, answer)) = self.unanswered {
            let passed = elapsed(now, sent);
            return if passed >= answer { Verdict::Dead } else { Verdict::Wait(Some(answer - passed)) };
        }
        if !in_flight {
            return Verdict::Wait(None);
        }
        let since = |time: Option<Msec>| time.map_or(Msec::MAX, |time| elapsed(now, time));
        let silent = since(self.heard).min(since(self.since));
        let left = SILENCE.saturating_sub(silent);
        let pause = self.pause().saturating_sub(elapsed(now, self.pinged));
        match left.max(pause) {
            0 => {
                self.sent(now, ANSWER);
                Verdict::Ping
            }
            left => Verdict::Wait(Some(left)),
        }
    }
}
