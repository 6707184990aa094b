//! A lack of memory, on request.
#![forbid(unsafe_code)]

use std::cell::Cell;

thread_local! {
    static IS_OUT: Cell<bool> = const { Cell::new(false) };
}

/// From now on pools of this thread find memory, or none.
pub(in crate::pool) fn set(is_there: bool) {
    IS_OUT.set(!is_there);
}

/// Whether there is no memory.
pub(in crate::pool) fn is_out() -> bool {
    IS_OUT.get()
}
