//! The rule of `ring.rs`, written naively.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::{Msec, TestKey, TIMEOUT};

/// The members, from the newest to the oldest, and the guest.
#[derive(Default)]
pub(super) struct ModelRing {
    pub(super) members: VecDeque<ModelEntry>,
    pub(super) guest: Option<ModelEntry>,
    newcomers: u32,
}

#[derive(Clone, Copy)]
pub(super) struct ModelEntry {
    pub(super) slot: u32,
    pub(super) number: u32,
    pub(super) key: TestKey,
    pub(super) stored_at: Msec,
    pub(super) order: u32,
    /// Set aside; the greater, the later.
    pub(super) aside: u32,
    /// The timer of the pool is for it.
    pub(super) is_usual: bool,
}

impl ModelRing {
    pub(super) fn len(&self) -> usize {
        self.members.len() + usize::from(self.guest.is_some())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ModelEntry> {
        self.members.iter().chain(&self.guest)
    }

    pub(super) fn leaves_usual(&mut self, number: u32) {
        let all = self.members.iter_mut().chain(&mut self.guest);
        all.filter(|entry| entry.number == number).for_each(|entry| entry.is_usual = false);
    }

    pub(super) fn take(&mut self, number: u32) -> Option<ModelEntry> {
        if self.guest.is_some_and(|g| g.number == number) {
            return self.guest.take();
        }
        let at = self.members.iter().position(|m| m.number == number)?;
        self.members.remove(at)
    }

    /// Returns the connection that is evicted, and whether the newcomer is the guest.
    pub(super) fn make_room(&mut self, reused: bool, now: Msec) -> (u32, bool) {
        let Some(oldest) = self.members.back().copied() else {
            return (self.guest.take().unwrap().number, true);
        };
        if oldest.aside > 0 || now - oldest.stored_at >= TIMEOUT - TIMEOUT / 8 {
            self.members.pop_back();
            return (oldest.number, false);
        }
        let newcomer_is_member = reused
            || (self.guest.is_some() && {
                self.newcomers += 1;
                self.newcomers % 8 == 0
            });
        match self.guest {
            Some(guest) if reused || !newcomer_is_member => {
                self.guest = None;
                (guest.number, !newcomer_is_member)
            }
            _ => {
                self.members.pop_back();
                (oldest.number, !newcomer_is_member)
            }
        }
    }
}
