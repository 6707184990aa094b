//! What a few sightings of one server say about its limit: the idle age at which it closes connections, or the number of
//! requests after which it does.
//!
//! ```text
//!   newest                                              oldest
//!   [ 5.002 | 5.001 | 0.310 | 5.004 | 5.001 ]| 5.003 | 5.002 | 4.999      seconds: a sharp limit
//!         four of the newest five agree       others that agree
//!
//!   [ 2.310 | 2.972 | 2.065 | 2.540 | 0.310 | 2.711 | 2.408 | 2.633 ]     a blurred one
//!         seven of all eight agree
//!
//!   the limit   =  the lowest of those that agree
//!   less spread =  2 x (highest - lowest) / number
//! ```
//!
//! The constants:
//! - *Four of the newest five, within a sixteenth of the lowest.* Of four ages that are spread evenly between zero and any bound, the
//!   highest is within a sixteenth of the lowest by chance once in 4,913 times (`(1 - 16/17)^3`). One that does not agree is forgiven,
//!   so that neither a restart nor a network fault makes the pool forget. After a change, four closes suffice, because the fifth
//!   is forgiven.
//! - *Seven of eight, within half of the lowest.* Servers that look once per second at a limit of two seconds close anywhere from
//!   two to three seconds. That takes more closes, as four would agree by chance once in 27 times; seven do once in 729 times.
//!   What is spread wider is not a limit. So clearly more than a single close is what is outside of this band: half as much again.
//! - *Twice the range by the number.* Of `n` values that are spread evenly over a range, the lowest is on average
//!   `range / (n + 1)` above the bound. Twice that leaves an error of less than one in ten with four, and shrinks with more.
//! - *Eight.* Enough that the spread becomes small, and few enough that an old limit is gone soon.
#![forbid(unsafe_code)]

/// How many sightings are remembered.
pub const REMEMBERED: usize = 8;

/// How a limit shows.
struct Shape {
    /// How many of the newest sightings decide.
    deciding: usize,
    /// The highest of those that agree exceeds the lowest by this part of it at most.
    band: u32,
}

/// The band of a sharp limit as a part of its lowest value.
pub const SHARP_BAND: u32 = 16;
/// That of a blurred one.
pub const BLURRED_BAND: u32 = 2;

const SHARP: Shape = Shape { deciding: 5, band: SHARP_BAND };
const BLURRED: Shape = Shape { deciding: REMEMBERED, band: BLURRED_BAND };

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The idle time, in milliseconds.
    Age,
    /// The number of requests on a connection.
    Requests,
}

impl Unit {
    /// How much more than a value is another value. Numbers are exact. Ages are measured, and closes come late if a server is
    /// busy: by a sixteenth, or 50 milliseconds.
    fn slack(self, value: u32) -> u32 {
        match self {
            Self::Age => (value / 16).max(50),
            Self::Requests => 1,
        }
    }

    /// What is clearly more than the value of a single close.
    pub fn clearly_more(self, value: u32) -> u32 {
        value.saturating_add((value / BLURRED.band).max(self.slack(value))).min(Sighting::MAX)
    }
}

/// What was seen of a connection: the server has closed it at a value (an age in milliseconds, or a number of requests), or it
/// had not at that value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sighting(u32);

impl Sighting {
    /// The largest value.
    pub const MAX: u32 = u32::MAX >> 1;

    /// The server has closed the connection at a value, which is at least 1 here.
    pub fn closed(value: u32) -> Self {
        Self(value.clamp(1, Self::MAX) << 1)
    }

    /// The connection was open at a value.
    pub fn lived(value: u32) -> Self {
        Self((value.clamp(1, Self::MAX) << 1) | 1)
    }

    /// From the word that [`Self::to_bits`] returned; 0 is no sighting.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits > 1).then_some(Self(bits))
    }

    /// A word other than 0.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The value.
    pub fn value(self) -> u32 {
        self.0 >> 1
    }

    /// Whether the server has closed the connection.
    pub fn is_close(self) -> bool {
        self.0 & 1 == 0
    }
}

/// The limit of a server, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// Nothing is known, and there is nothing to watch: the server has closed nothing, or something has lived longer since.
    Nothing,
    /// It has closed connections, but that is no limit yet. A connection that lives to `watch` contradicts them.
    Unsure {
        /// Clearly more than each value so far.
        watch: u32,
    },
    /// There is a limit.
    Believed(Belief),
}

/// A limit that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// The lowest value at which the server has closed a connection.
    pub lowest: u32,
    /// The highest one.
    pub highest: u32,
    /// How many closes agree, of those that are remembered.
    pub closes: u32,
}

impl Belief {
    /// How much lower than `lowest` the limit may be.
    pub fn spread(&self) -> u32 {
        (self.highest - self.lowest).saturating_mul(2).div_ceil(self.closes.max(1))
    }

    /// A value that the server does not let a connection reach.
    pub fn beyond(&self, unit: Unit) -> u32 {
        let range = self.highest - self.lowest;
        self.highest.saturating_add(range.max(unit.slack(self.highest))).min(Sighting::MAX)
    }

    /// The belief with one more close. `None` if that does not agree.
    fn with(self, value: u32, band: u32) -> Option<Self> {
        let (lowest, highest) = (self.lowest.min(value), self.highest.max(value));
        (highest - lowest <= lowest / band).then_some(Self { lowest, highest, closes: self.closes + 1 })
    }

    /// The belief of these closes. `None` if they do not agree.
    fn of(mut values: impl Iterator<Item = u32>, band: u32) -> Option<Self> {
        let first = values.next()?;
        let first = Self { lowest: first, highest: first, closes: 1 };
        values.try_fold(first, |belief, value| belief.with(value, band))
    }
}

/// The opinion that the sightings lead to, the newest first.
pub fn opinion(sightings: &[Sighting], unit: Unit) -> Opinion {
    if let Some(belief) = believe(sightings, unit) {
        return Opinion::Believed(belief);
    }
    match standing(sightings, unit).min() {
        Some(lowest) => Opinion::Unsure { watch: unit.clearly_more(lowest) },
        None => Opinion::Nothing,
    }
}

/// The values of the newest closes that no connection has outlived since.
fn standing(sightings: &[Sighting], unit: Unit) -> impl Iterator<Item = u32> + '_ {
    let mut lived = 0;
    let standing = move |it: &Sighting| {
        if !it.is_close() {
            lived = lived.max(it.value());
        }
        (it.is_close() && unit.clearly_more(it.value()) > lived).then_some(it.value())
    };
    sightings.iter().take(SHARP.deciding).filter_map(standing)
}

/// The lowest value of the newest closes, with their spread taken off: less than that is safe as far as anything is. `None` if
/// there was no close, or connections have outlived them.
pub fn cautious(sightings: &[Sighting], unit: Unit) -> Option<u32> {
    let closes = || standing(sightings, unit);
    let (lowest, highest) = (closes().min()?, closes().max()?);
    let belief = Belief { lowest, highest, closes: closes().count() as u32 };
    // A range that is no limit says nothing about how much lower the next one may be.
    Some(if belief.highest - lowest <= lowest / 2 { lowest.saturating_sub(belief.spread()) } else { lowest })
}

fn believe(sightings: &[Sighting], unit: Unit) -> Option<Belief> {
    let sharp = SHARP.belief(sightings, unit);
    // Some of a blurred limit can look like a sharp one, but not nearly all of them.
    let is_sharp = sharp.is_some_and(|sharp| sharp.closes as usize + 1 >= BLURRED.deciding);
    let blurred = if is_sharp { None } else { BLURRED.belief(sightings, unit) };
    blurred.or(sharp)
}

impl Shape {
    fn belief(&self, sightings: &[Sighting], unit: Unit) -> Option<Belief> {
        let (deciding, others) = sightings.split_at(sightings.len().min(self.deciding));
        let forgiven = || {
            let each = (0..deciding.len()).filter_map(|skip| self.agreement(deciding, Some(skip), unit));
            each.min_by_key(|belief| belief.highest - belief.lowest)
        };
        let belief = self.agreement(deciding, None, unit).or_else(forgiven)?;
        let closes = others.iter().filter(|it| it.is_close());
        Some(closes.fold(belief, |belief, older| belief.with(older.value(), self.band).unwrap_or(belief)))
    }

    /// The belief of the deciding sightings without one, if the others agree.
    fn agreement(&self, deciding: &[Sighting], skip: Option<usize>, unit: Unit) -> Option<Belief> {
        let kept = || deciding.iter().enumerate().filter(move |(at, _)| Some(*at) != skip).map(|(_, it)| *it);
        let closes = kept().filter(|it| it.is_close()).map(Sighting::value);
        let belief = Belief::of(closes, self.band).filter(|it| it.closes as usize + 1 >= self.deciding)?;
        let beyond = belief.beyond(unit);
        let is_contradicted = kept().any(|it| !it.is_close() && it.value() >= beyond);
        // A connection that has lived longer just now is the first sign of a higher limit.
        let is_outdated =
            skip == Some(0) && deciding.first().is_some_and(|newest| newest.value() > belief.highest);
        (!is_contradicted && !is_outdated).then_some(belief)
    }
}
