//! The memory of a pool grows in steps: pools of which little is used need little.
//!
//! ```text
//!   elements     4    8    16    32    64    all
//! ```
//!
//! Memory that was never touched costs nothing, but what is moved leaves a hole. So the last step is a large one.
#![forbid(unsafe_code)]

/// The first step.
const FIRST: usize = 4;

/// The last step but one. All elements up to here need a page or two.
const LAST: usize = 64;

/// Makes room for one more element. `None` if there are `limit` of them, or there is no memory.
pub(super) fn make_room<T>(to: &mut Vec<T>, limit: usize) -> Option<()> {
    let number = to.len();
    if number >= limit {
        return None;
    }
    if number < to.capacity() {
        return Some(());
    }
    let next = if number < LAST { (2 * number).max(FIRST).min(limit) } else { limit };
    reserve(to, next)
}

/// Makes room for so many elements in all. `None` if there is no memory: then nothing has changed.
#[cold]
pub(super) fn reserve<T>(to: &mut Vec<T>, number: usize) -> Option<()> {
    #[cfg(any(test, fuzzing))]
    if super::model::memory::is_out() {
        return None;
    }
    to.try_reserve_exact(number.saturating_sub(to.len())).ok()
}
