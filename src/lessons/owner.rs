//! Whose record it is, in one word of its head that all workers change at any time.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::words::{Head, OWNER};
use crate::base::clock::Msec;

/// Whose record it is: the key of the server (47 bits), whether the body was ever touched (1 bit), and when a connection was last
/// opened, in units of 65.5 seconds (16 bits). So it wraps around together with nginx's clock, where that has 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(u64);

/// A bit of [`Owner`].
const HAS_BODY: u64 = 1 << 16;

impl Owner {
    /// In milliseconds.
    pub(super) const UNIT: Msec = 1 << 16;

    /// `key` is below 2^47 and not 0.
    pub(super) fn new(key: u64, now: Msec) -> Self {
        Self((key << 17) | u64::from((now / Self::UNIT) as u16))
    }

    pub(super) fn of(head: &Head) -> Self {
        Self(head[OWNER].load(Relaxed))
    }

    /// 0 if there is none.
    pub(super) fn key(self) -> u64 {
        self.0 >> 17
    }

    pub(super) fn has_body(self) -> bool {
        self.0 & HAS_BODY != 0
    }

    /// For how many units no connection was opened.
    pub(super) fn unused(self, now: Msec) -> i16 {
        ((now / Self::UNIT) as u16).wrapping_sub(self.0 as u16) as i16
    }

    /// The same server, to which no connection was opened for so many units.
    pub(super) fn unused_for(self, units: i16, now: Msec) -> Self {
        Self(Self::new(self.key(), now.wrapping_sub(units as Msec * Self::UNIT)).0 | self.0 & HAS_BODY)
    }

    /// Takes a free record, which is all zeros.
    pub(super) fn take(self, head: &Head) -> bool {
        head[OWNER].compare_exchange(0, self.0, Relaxed, Relaxed).is_ok()
    }

    /// Takes a record from another owner.
    pub(super) fn replace(self, head: &Head) {
        let replaced = |before: u64| Some(self.0 | before & HAS_BODY);
        let _ = head[OWNER].fetch_update(AcqRel, Relaxed, replaced);
    }

    /// Notes the time of this owner in its record. `false` if the record belongs to another one.
    pub(super) fn renew(self, head: &Head) -> bool {
        let is_same = |before: &u64| Self(*before).key() == self.key();
        let renewed = |before: u64| is_same(&before).then_some(self.0 | before & HAS_BODY);
        // What the former owner had is not seen any more: see `words::give`.
        let before = head[OWNER].load(Acquire);
        // It is the same for a minute.
        renewed(before) == Some(before) || head[OWNER].fetch_update(Acquire, Relaxed, renewed).is_ok()
    }

    /// Notes that the body is touched from now on.
    pub(super) fn note_body(head: &Head) {
        if !Self::of(head).has_body() {
            head[OWNER].fetch_or(HAS_BODY, Relaxed);
        }
    }
}
