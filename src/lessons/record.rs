//! What is known of one server. Its words lie in memory that workers share: the published ones are read without a lock, the
//! sightings change under one.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::opinion::{Belief, Sighting};
use super::owner::Owner;
use super::words::{
    halves, since, whole, Body, Head, Lock, Record, AGE, AGES, BODY_WORDS, CAUTIOUS, CAUTIOUS_UNTIL,
    HEAD_WORDS, KNOWN, LOCK, REQUESTS, SEEN, TRIP,
};
use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;
use crate::http1::keep_alive::Margin;

/// A connection that the server closes at this age or earlier was closed right behind an answer, in milliseconds.
pub const BEHIND: Msec = 20;

/// The lowest age that can be a limit, in milliseconds. No server keeps connections for less, but one that stops, or fails, may
/// close them at such an age.
const LOWEST: Msec = 100;

/// The lowest number of requests that can be a limit. Servers that stop or fail may close connections behind their first answers.
const FEWEST: usize = 5;

/// Connections that the server closes at the same moment became idle together if their ages differ by no more than this, in
/// milliseconds, and by a sixteenth. Those of a server that stops differ by more, unless they did become idle together.
const TOGETHER: u32 = 10;

/// For how long a connection is watched that the server may close behind its answer, in milliseconds.
pub const BEHIND_WATCH: Msec = 1000;

/// The process that sees something, and a way to tell whether another one is alive.
#[derive(Clone, Copy, Debug)]
pub struct Witness {
    /// Not 0.
    pub process: u64,
    /// Whether a process runs.
    pub is_alive: fn(u64) -> bool,
}

/// What is known of a server: the head of its record, and the body.
#[derive(Clone, Copy, Debug)]
pub struct Lesson(&'static Head, &'static Body);

/// What a connection has to observe, in a word that is quick to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known(u64);

impl Known {
    /// There is nothing to observe.
    pub const NOTHING: Self = Self(0);

    /// Whether there is nothing to observe.
    #[inline]
    pub fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Whether the server may close a connection that is idle for `age` before a request arrives; in milliseconds.
    #[inline]
    pub fn is_too_old(self, age: Msec) -> bool {
        // One less than the word of a limit is the limit; of any other word it is more than an age can be.
        age > (self.0 as u32).wrapping_sub(1) as Msec
    }

    /// Whether there is a limit of the idle age.
    pub fn limits_age(self) -> bool {
        matches!(bound(self.0 as u32), Some(Bound::Limit(_)))
    }

    /// The age at which an idle connection is looked at next, in milliseconds.
    #[inline]
    pub fn next_look(self) -> Msec {
        (self.0 as u32 & !WATCH).wrapping_sub(1) as Msec
    }

    /// Whether a connection that has served so many requests is to be looked at: see [`Lesson::reach`].
    #[inline(always)]
    pub fn is_reached(self, requests: usize) -> bool {
        requests >= ((self.0 >> 32) as u32 & !WATCH).wrapping_sub(1) as usize
    }
}

/// A limit to observe, or a value at which to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// No connection is used that is older, or has served more requests.
    Limit(u32),
    /// A connection that reaches this contradicts what was seen.
    Watch(u32),
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is limited.
    pub what: Limited,
    /// The limit that was learned; `None` if it was forgotten.
    pub limit: Option<u32>,
}

/// What a server limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// The idle time, in milliseconds.
    Age,
    /// The number of requests on a connection.
    Requests,
}

/// An idle connection whose timer has expired.
#[derive(Clone, Copy, Debug)]
pub struct Expired {
    /// How long it is idle, in milliseconds.
    pub age: Msec,
    /// The timer was set by what the server has announced.
    pub is_announced: bool,
    /// It watches the server: see [`Verdict::Watch`].
    pub is_watching: bool,
    /// `margin` of the directive.
    pub margin: Margin,
    /// How long it could stay to watch the server, in milliseconds since it is idle; 0 if it cannot.
    pub longest: Msec,
}

/// What becomes of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays in the pool; it is looked at again at this age, if the server has not closed it by then.
    Keep(Option<Msec>),
    /// No request uses it any more. It stays open to see when the server closes it, and is looked at again at this age.
    Watch(Msec),
    /// It is closed.
    Close,
}

/// What is known, to be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The lowest idle age at which the server closes connections, in milliseconds, and how many closes agree.
    pub age: Option<(u32, u32)>,
    /// The number of requests after which it closes connections, and how many closes agree.
    pub requests: Option<(u32, u32)>,
}

/// A record that belongs to no server. Nothing is written there.
static NOTHING: (Head, Body) =
    ([const { AtomicU64::new(0) }; HEAD_WORDS], [const { AtomicU64::new(0) }; BODY_WORDS]);

impl Default for Lesson {
    fn default() -> Self {
        Self::none()
    }
}

impl Lesson {
    /// Nothing is known, and nothing is learned. (No constant: before Rust 1.86 those cannot refer to atomic words.)
    #[inline]
    pub fn none() -> Self {
        Self(&NOTHING.0, &NOTHING.1)
    }

    /// The lesson in a record.
    #[inline]
    pub fn new(head: &'static Head, body: &'static Body) -> Self {
        Self(head, body)
    }

    /// The head and the body of its record. `None` if it has no record.
    pub fn parts(self) -> Option<(&'static Head, &'static Body)> {
        (Owner::of(self.0).key() != 0).then_some((self.0, self.1))
    }

    /// The body, unless it was never touched: to read it would touch it.
    fn body(self) -> Option<&'static Body> {
        Owner::of(self.0).has_body().then_some(self.1)
    }

    /// What a connection has to observe, if no margin is configured.
    #[inline]
    pub fn known(self) -> Known {
        Known(self.0[KNOWN].load(Relaxed))
    }

    /// What a connection has to observe.
    #[cold]
    pub fn known_with(self, margin: Margin) -> Known {
        let Known(word) = self.known();
        Known(u64::from(packed(self.age(margin))) | word & !u64::from(u32::MAX))
    }

    /// The greatest age of an idle connection, in milliseconds.
    pub fn age(self, margin: Margin) -> Option<Bound> {
        // With the limit, the words of it are seen that are read below.
        let bound = bound(self.0[KNOWN].load(Acquire) as u32);
        match (bound, margin) {
            (Some(Bound::Limit(_)), Margin::Fixed(margin)) => {
                let (lowest, _) = halves(self.1[AGE].load(Relaxed));
                Some(Bound::Limit(lowest.saturating_sub(to_u32(margin)).max(1)))
            }
            _ => bound,
        }
    }

    /// How many requests a connection may serve.
    pub fn requests(self) -> Option<Bound> {
        bound((self.0[KNOWN].load(Relaxed) >> 32) as u32)
    }

    /// How long a connection can be idle if its server has announced `announced`, in milliseconds. `None` if no limit is
    /// believed.
    #[cold]
    pub fn announced(self, announced: Msec, margin: Margin) -> Option<Msec> {
        let Some(Bound::Limit(limit)) = self.age(margin) else { return None };
        let (_, ours) = halves(self.1[AGE].load(Relaxed));
        let margin = match margin {
            Margin::Share => ours as Msec,
            Margin::Fixed(margin) => margin,
        };
        Some(announced.saturating_sub(margin).min(limit as Msec))
    }

    /// The greatest age of a connection for a request that cannot be repeated. `None` if any will do.
    #[cold]
    pub fn cautious_age(self, now: Msec) -> Option<Msec> {
        let body = self.body()?;
        // If one of the two words is seen and the other not yet, nothing is known yet, or an earlier age holds for longer.
        let age = body[CAUTIOUS].load(Relaxed);
        let over = since(now as u64, body[CAUTIOUS_UNTIL].load(Relaxed));
        (age > 0 && over < 0).then_some(age as Msec)
    }

    /// The server has closed a connection that was idle for `age` and has served `requests`; a round trip takes
    /// `round_trip`. Times are in milliseconds.
    #[cold]
    pub fn closed(
        self,
        who: &Witness,
        now: Msec,
        age: Msec,
        requests: usize,
        round_trip: Msec,
    ) -> Option<Change> {
        self.change(who, |record| {
            if record.has_faded(now as u64) {
                record.forget(AGES);
                record.forget(REQUESTS);
            }
            let value = to_u32(age);
            if age >= LOWEST {
                record.see_close(AGES, now as u64, value, Some(TOGETHER.min(value / 16)));
            } else if age > BEHIND {
                record.see_accident(AGES, now as u64);
            } else if requests >= FEWEST {
                record.see_close(REQUESTS, now as u64, to_u32(requests), None);
            }
            record.set(SEEN, now as u64);
            let (known, reached) = halves(record.get(TRIP));
            record.set(TRIP, whole(to_u32(round_trip).max(known - known.div_ceil(8)), reached));
            record.publish(now as u64)
        })
    }

    /// The timer of an idle connection has expired.
    #[cold]
    pub fn expire(self, who: &Witness, now: Msec, conn: &Expired) -> (Verdict, Option<Change>) {
        let mut verdict = self.without_record(conn);
        let change = self.change(who, |record| {
            verdict = record.judge(now as u64, conn);
            record.publish(now as u64)
        });
        (verdict, change)
    }

    /// What becomes of an idle connection if there is no record, or another process has it.
    fn without_record(self, conn: &Expired) -> Verdict {
        match self.age(conn.margin) {
            _ if conn.is_announced || conn.is_watching => Verdict::Close,
            Some(Bound::Limit(limit)) if conn.age.saturating_add(1) >= limit as Msec => Verdict::Close,
            Some(Bound::Limit(limit)) => Verdict::Keep(Some(limit as Msec)),
            _ => Verdict::Keep(None),
        }
    }

    /// A connection has served as many requests as the server may allow, or as contradict that. `can_watch` says whether it could
    /// stay to watch the server.
    #[cold]
    pub fn reach(
        self,
        who: &Witness,
        now: Msec,
        requests: usize,
        can_watch: bool,
    ) -> (Verdict, Option<Change>) {
        let mut verdict = Verdict::Keep(None);
        let change = self.change(who, |record| {
            verdict = record.judge_requests(now as u64, to_u32(requests), can_watch);
            record.publish(now as u64)
        });
        (verdict, change)
    }

    /// A connection that watched whether the server closes it behind the answer to its last request is still open.
    #[cold]
    pub fn serves_more(self, who: &Witness, now: Msec, requests: usize) -> Option<Change> {
        self.change(who, |record| {
            record.live(REQUESTS, to_u32(requests).saturating_add(1));
            record.publish(now as u64)
        })
    }

    /// What is known, to be shown.
    pub fn view(self, now: Msec) -> View {
        let Some(body) = self.body() else { return View::default() };
        let record = Record(self.0, body);
        let shown = |belief: Belief| (belief.lowest, belief.closes);
        View {
            age: record.believed(AGES, now as u64).map(shown),
            requests: record.believed(REQUESTS, now as u64).map(shown),
        }
    }

    /// Changes the record under its lock. What is seen while another process has it is not noted: it is one sighting of many.
    fn change(self, who: &Witness, change: impl FnOnce(&Record) -> Option<Change>) -> Option<Change> {
        let (head, body) = self.parts()?;
        Owner::note_body(head);
        let _lock = Lock::take(&body[LOCK], who)?;
        change(&Record(head, body))
    }
}

/// The flag of [`Bound::Watch`].
const WATCH: u32 = 1 << 31;

pub(super) fn packed(bound: Option<Bound>) -> u32 {
    let word = |value: u32| value.clamp(1, WATCH - 2) + 1;
    match bound {
        None => 0,
        Some(Bound::Limit(limit)) => word(limit),
        Some(Bound::Watch(watch)) => word(watch) | WATCH,
    }
}

pub(super) fn bound(word: u32) -> Option<Bound> {
    let value = (word & !WATCH).checked_sub(1)?;
    Some(if word & WATCH == 0 { Bound::Limit(value) } else { Bound::Watch(value) })
}

pub(super) fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX).min(Sighting::MAX)
}
