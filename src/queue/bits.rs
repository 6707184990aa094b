//! A bit for each server of an upstream, and how many are set.
#![forbid(unsafe_code)]

use crate::base::memory::push;

/// A bit for each server.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<usize>,
    /// How many are set.
    pub(super) set: usize,
}

/// The bits of a word.
pub(super) const BITS: usize = usize::BITS as usize;

impl Bits {
    pub(super) fn clear(&mut self) {
        if self.set > 0 {
            self.words.fill(0);
            self.set = 0;
        }
    }

    /// Copies the same number of bits.
    pub(super) fn copy(&mut self, from: &Self) {
        self.words.iter_mut().zip(&from.words).for_each(|(to, from)| *to = *from);
        self.set = from.set;
    }

    /// A word of them.
    pub(super) fn word(&self, at: usize) -> usize {
        self.words.get(at).copied().unwrap_or(0)
    }

    /// Replaces a word, or adds one at the end. Returns what it was; `None` if there is no memory.
    pub(super) fn replace(&mut self, at: usize, word: usize) -> Option<usize> {
        if at == self.words.len() {
            push(&mut self.words, 0)?;
        }
        let before = std::mem::replace(self.words.get_mut(at)?, word);
        self.set = self.set + word.count_ones() as usize - before.count_ones() as usize;
        Some(before)
    }

    /// Clears all but the first ones.
    pub(super) fn truncate(&mut self, number: usize) {
        self.words.truncate(number.div_ceil(BITS));
        if let Some(last) = self.words.last_mut().filter(|_| number % BITS != 0) {
            *last &= (1 << (number % BITS)) - 1;
        }
        self.set = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    pub(super) fn has(&self, number: u32) -> bool {
        let (word, bit) = place(number);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Sets or clears one. Returns whether it was set.
    pub(super) fn set(&mut self, number: u32, is_set: bool) -> bool {
        let (at, bit) = place(number);
        let Some(word) = self.words.get_mut(at) else { return false };
        let was_set = *word & bit != 0;
        if is_set != was_set {
            *word ^= bit;
            self.set = if is_set { self.set + 1 } else { self.set - 1 };
        }
        was_set
    }
}

fn place(number: u32) -> (usize, usize) {
    let number = number as usize;
    (number / BITS, 1 << (number % BITS))
}
