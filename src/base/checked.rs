//! Words and fences that loom sees, for the models in `orders.rs` of each room. A model can run with weaker orderings than the
//! code has, to show that it would notice.
//!
//! loom runs the threads of a model in all orders. A load that no ordering forbids to return an older value returns that too.
//! An ordering that does nothing on x86, whose processors order nearly everything by themselves, counts here as it does on ARM.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::OnceLock;

use loom::sync::atomic;

/// What threads of a model do at the same time, and what they must not do without.
pub struct Model {
    /// The rule that holds.
    pub name: &'static str,
    /// One run.
    pub run: fn(),
    /// How often a thread is interrupted at most. The number of orders grows fast with it.
    pub interruptions: usize,
    /// Without any one of these the rule does not hold.
    pub needs: &'static [Strength],
}

/// What an ordering does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Strength {
    /// A load sees what came before the store that it reads.
    Acquire = 1,
    /// A store shows what came before it.
    Release,
    /// All sequentially consistent operations have one order.
    Total,
}

/// The number of the [`Strength`] that is left out; 0 if none is.
static LEFT_OUT: AtomicU8 = AtomicU8::new(0);

/// Leaves a strength out of all orderings from now on.
pub fn leave_out(strength: Option<Strength>) {
    LEFT_OUT.store(strength.map_or(0, |it| it as u8), SeqCst);
}

fn has(strength: Strength) -> bool {
    LEFT_OUT.load(SeqCst) != strength as u8
}

loom::lazy_static! {
    /// Is written before each operation, and never read. For loom, operations of two threads on the same word are a reason to try
    /// both orders, but it only looks at the last one on each word, and so overlooks orders if a thread reads a word before it
    /// writes it. Now each operation of another thread is a reason.
    static ref TURN: atomic::AtomicU64 = atomic::AtomicU64::new(0);
}

/// A word. loom gets to know it when it is first used.
pub struct AtomicU64 {
    value: u64,
    word: OnceLock<atomic::AtomicU64>,
}

#[expect(missing_docs, reason = "as in the standard library")]
impl AtomicU64 {
    pub const fn new(value: u64) -> Self {
        Self { value, word: OnceLock::new() }
    }

    fn word(&self) -> &atomic::AtomicU64 {
        TURN.store(0, Relaxed);
        self.word.get_or_init(|| {
            let word = atomic::AtomicU64::new(self.value);
            // loom's own first value is not sequentially consistent.
            word.store(self.value, SeqCst);
            word
        })
    }

    pub fn load(&self, order: Ordering) -> u64 {
        self.word().load(loading(order))
    }

    pub fn store(&self, value: u64, order: Ordering) {
        self.word().store(value, storing(order));
    }

    pub fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.word().swap(value, both(order))
    }

    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.word().fetch_add(value, both(order))
    }

    pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.word().fetch_sub(value, both(order))
    }

    pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.word().fetch_and(value, both(order))
    }

    pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.word().fetch_or(value, both(order))
    }

    pub fn compare_exchange(&self, from: u64, to: u64, done: Ordering, not: Ordering) -> Result<u64, u64> {
        self.word().compare_exchange(from, to, both(done), loading(not))
    }

    pub fn fetch_update(
        &self,
        done: Ordering,
        not: Ordering,
        change: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        self.word().fetch_update(both(done), loading(not), change)
    }
}

impl fmt::Debug for AtomicU64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicU64").finish_non_exhaustive()
    }
}

/// A fence.
pub fn fence(order: Ordering) {
    match both(order) {
        Relaxed => {}
        order => {
            TURN.store(0, Relaxed);
            atomic::fence(order);
        }
    }
}

fn loading(order: Ordering) -> Ordering {
    match order {
        Relaxed => Relaxed,
        _ if !has(Strength::Acquire) => Relaxed,
        SeqCst if has(Strength::Total) => SeqCst,
        _ => Acquire,
    }
}

fn storing(order: Ordering) -> Ordering {
    match order {
        Relaxed => Relaxed,
        _ if !has(Strength::Release) => Relaxed,
        SeqCst if has(Strength::Total) => SeqCst,
        _ => Release,
    }
}

fn both(order: Ordering) -> Ordering {
    let acquires = matches!(order, Acquire | AcqRel | SeqCst) && has(Strength::Acquire);
    let releases = matches!(order, Release | AcqRel | SeqCst) && has(Strength::Release);
    match (acquires, releases) {
        (true, true) if order == SeqCst && has(Strength::Total) => SeqCst,
        (true, true) => AcqRel,
        (true, false) => Acquire,
        (false, true) => Release,
        (false, false) => Relaxed,
    }
}

/// Words that are zero, for one run.
pub fn zeros(number: usize) -> &'static [AtomicU64] {
    let words = Vec::leak((0..number).map(|_| AtomicU64::new(0)).collect());
    words.iter().for_each(|word| {
        word.word();
    });
    words
}
