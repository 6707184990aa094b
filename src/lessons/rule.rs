//! What follows from a record: how long a connection may be idle, which one stays to watch the server, and what is published.
#![forbid(unsafe_code)]

use super::opinion::{cautious, opinion, Belief, Opinion, Sighting, Unit, REMEMBERED};
use super::record::{bound, packed, to_u32, Bound, Change, Expired, Limited, Verdict, BEHIND_WATCH};
use super::words::{
    halves, since, whole, Part, Record, AGE, AGES, CAUTIOUS, CAUTIOUS_UNTIL, EXPIRED, REQUESTS, SEEN, TRIP,
};
use crate::base::clock::Msec;
use crate::http1::keep_alive::Margin;

/// What nothing has confirmed for this time is no longer believed, in milliseconds.
const FADES: isize = 3_600_000;

/// Of connections that are closed because of the same announcement one after another, how many there are for one that stays to see
/// whether the server keeps to it.
const ANNOUNCED: u32 = 16;

/// The shortest time for which the newest closes make requests cautious that cannot be repeated, in milliseconds.
const CAUTION: u64 = 10_000;

impl Record {
    pub(super) fn judge(&self, now: u64, conn: &Expired) -> Verdict {
        let age = to_u32(conn.age);
        if conn.is_watching {
            // It has outlived the limit: others show how long the server keeps them.
            self.live(AGES, age);
            return Verdict::Close;
        }
        match self.opinion(AGES, now) {
            Opinion::Believed(belief) => {
                let limit = self.limit(&belief, conn.margin);
                if !conn.is_announced && age.saturating_add(1) < limit {
                    return Verdict::Keep(Some(limit as Msec));
                }
                let beyond = belief.beyond(Unit::Age).max(age.saturating_add(1));
                self.watch_or_close(now, conn, beyond, beyond - age)
            }
            // Without a watch nothing would ever be learned of a server that announces less than it keeps to.
            _ if conn.is_announced => {
                if !self.is_due(age) {
                    return Verdict::Close;
                }
                let beyond = age.saturating_add(age / 4).saturating_add(2000);
                self.watch_or_close(now, conn, beyond, (beyond - age).max(age))
            }
            Opinion::Unsure { watch } if age >= watch => {
                self.live(AGES, age);
                self.look_again(now, conn, age)
            }
            Opinion::Unsure { watch } => Verdict::Keep(Some(watch as Msec)),
            Opinion::Nothing => Verdict::Keep(None),
        }
    }

    /// A connection has outlived the lowest closes, so it is looked at again when it reaches the next ones.
    fn look_again(&self, now: u64, conn: &Expired, age: u32) -> Verdict {
        let next = match self.opinion(AGES, now) {
            Opinion::Believed(belief) => self.limit(&belief, conn.margin),
            Opinion::Unsure { watch } => watch,
            Opinion::Nothing => return Verdict::Keep(None),
        };
        Verdict::Keep(Some(next.max(age + 1) as Msec))
    }

    /// Whether enough connections have reached the same announced end, at an age, that one may stay.
    fn is_due(&self, age: u32) -> bool {
        let (number, before) = halves(self.get(EXPIRED));
        let number = if age.abs_diff(before) <= before / 16 { number + 1 } else { 1 };
        self.set(EXPIRED, whole(number % ANNOUNCED, age));
        number == ANNOUNCED
    }

    pub(super) fn judge_requests(&self, now: u64, requests: u32, can_watch: bool) -> Verdict {
        match self.opinion(REQUESTS, now) {
            Opinion::Believed(belief) if requests >= belief.lowest.saturating_sub(belief.spread()) => {
                if !can_watch {
                    return Verdict::Close;
                }
                self.use_further_or_close(now, requests, &belief)
            }
            Opinion::Unsure { watch } if requests >= watch => {
                self.live(REQUESTS, requests);
                Verdict::Keep(None)
            }
            _ => Verdict::Keep(None),
        }
    }

    /// A connection watches the server, if no other one does. The numbers of a blurred limit differ, so it is used further up to the
    /// last at which the server may close it. Then no request uses it: it stays to see whether the server closes it.
    fn use_further_or_close(&self, now: u64, requests: u32, belief: &Belief) -> Verdict {
        const PAUSE: u32 = BEHIND_WATCH as u32;
        let (trip, reached) = halves(self.get(TRIP));
        let goes_on = requests == reached + 1;
        if !self.watch(REQUESTS, now, PAUSE) && !goes_on {
            return Verdict::Close;
        }
        self.set(TRIP, whole(trip, requests));
        if requests + 1 < belief.beyond(Unit::Requests) {
            return Verdict::Keep(None);
        }
        Verdict::Watch(BEHIND_WATCH)
    }

    /// A connection stays to watch the server, and is looked at again at the age `beyond`. The next one watches after `pause` at
    /// the earliest.
    fn watch_or_close(&self, now: u64, conn: &Expired, beyond: u32, pause: u32) -> Verdict {
        if beyond as Msec <= conn.longest && self.watch(AGES, now, pause) {
            Verdict::Watch(beyond as Msec)
        } else {
            Verdict::Close
        }
    }

    /// How long a connection may be idle.
    fn limit(&self, belief: &Belief, margin: Margin) -> u32 {
        let margin = match margin {
            Margin::Share => self.margin(belief.lowest, belief.spread()),
            Margin::Fixed(margin) => to_u32(margin),
        };
        belief.lowest.saturating_sub(margin).max(1)
    }

    /// How much earlier than the server nginx closes a connection: the next request needs a round trip to arrive, and both
    /// clocks tick in milliseconds. The 512th part is for servers that are busy when their time has come.
    fn margin(&self, age: u32, spread: u32) -> u32 {
        let (trip, _) = halves(self.get(TRIP));
        trip.saturating_add(spread).saturating_add(2 + age / 512)
    }

    /// Publishes what is known. Returns what has changed.
    pub(super) fn publish(&self, now: u64) -> Option<Change> {
        let before = self.known();
        let age_before = halves(self.get(AGE)).0;
        let ages = self.opinion(AGES, now);
        let age = match ages {
            Opinion::Believed(belief) => {
                let margin = self.margin(belief.lowest, belief.spread());
                self.set(AGE, whole(belief.lowest, margin));
                Some(Bound::Limit(self.limit(&belief, Margin::Share)))
            }
            Opinion::Unsure { watch } => Some(Bound::Watch(watch)),
            Opinion::Nothing => None,
        };
        let numbers = self.opinion(REQUESTS, now);
        let requests = match numbers {
            Opinion::Believed(belief) => {
                Some(Bound::Limit(belief.lowest.saturating_sub(belief.spread()).max(1)))
            }
            Opinion::Unsure { watch } => Some(Bound::Watch(watch)),
            Opinion::Nothing => None,
        };
        self.publish_caution(matches!(ages, Opinion::Believed(_)));
        let known = u64::from(packed(age)) | (u64::from(packed(requests)) << 32);
        self.set_known(known);
        let was = |word: u32| matches!(bound(word), Some(Bound::Limit(_)));
        let limit = |bound| match bound {
            Some(Bound::Limit(limit)) => Some(limit),
            _ => None,
        };
        let lowest = limit(age).map(|_| halves(self.get(AGE)).0);
        let change = changed(Limited::Age, was(before as u32).then_some(age_before), lowest);
        let requests_before = (before >> 32) as u32;
        change.or_else(|| {
            let before = limit(bound(requests_before));
            changed(Limited::Requests, before, limit(requests))
        })
    }

    /// A request that cannot be repeated gets no connection that is older than the newest closes were, if there was a limit before
    /// the last sighting: it may have been lowered, or it may still be there. That holds for a while, or until a connection has
    /// outlived them.
    fn publish_caution(&self, is_believed: bool) {
        let mut memory = [Sighting::lived(1); REMEMBERED];
        let ages = self.list(AGES, &mut memory);
        let Some(lowest) = cautious(ages, Unit::Age) else { return self.set(CAUTIOUS, 0) };
        let age = u64::from(lowest.saturating_sub(self.margin(lowest, 0)).max(1));
        let before = ages.get(1..).unwrap_or(&[]);
        if !is_believed && !matches!(opinion(before, Unit::Age), Opinion::Believed(_)) {
            if self.get(CAUTIOUS) > 0 {
                self.set(CAUTIOUS, self.get(CAUTIOUS).max(age));
            }
            return;
        }
        let longest = ages.iter().map(|age| age.value()).max().unwrap_or(0);
        let time = (2 * u64::from(longest)).max(CAUTION);
        self.set(CAUTIOUS_UNTIL, self.get(SEEN).wrapping_add(time));
        self.set(CAUTIOUS, age);
    }

    /// Whether nothing has confirmed for long what is known.
    pub(super) fn has_faded(&self, now: u64) -> bool {
        since(now, self.get(SEEN)) > FADES
    }

    fn opinion(&self, part: Part, now: u64) -> Opinion {
        if self.has_faded(now) {
            return Opinion::Nothing;
        }
        let mut memory = [Sighting::lived(1); REMEMBERED];
        opinion(self.list(part, &mut memory), part.unit())
    }

    pub(super) fn believed(&self, part: Part, now: u64) -> Option<Belief> {
        match self.opinion(part, now) {
            Opinion::Believed(belief) => Some(belief),
            _ => None,
        }
    }
}

/// A limit changes for the log if it differs by more than an eighth.
fn changed(what: Limited, before: Option<u32>, now: Option<u32>) -> Option<Change> {
    let is_same = match (before, now) {
        (None, None) => true,
        (Some(before), Some(now)) => before.abs_diff(now) <= before / 8,
        _ => false,
    };
    (!is_same).then_some(Change { what, limit: now })
}
