//! The panic boundary: no unwinding crosses a hook.

use std::cell::{Cell, UnsafeCell};
use std::panic::{catch_unwind, set_hook, AssertUnwindSafe, PanicHookInfo};

use nginx_sys::{ngx_log_error_core, NGX_LOG_ALERT};

use super::process::cycle_log;

/// Runs the body of a hook. A panic is logged once, and the hook returns `failure`.
///
/// State that a panic leaves half changed must not be used again: see [`Guarded`].
#[inline]
pub(crate) fn guard<T>(failure: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(failure)
}

/// State that hooks share and change. If a panic interrupts a change, the state cannot be used any more.
pub(crate) struct Guarded<T> {
    state: UnsafeCell<T>,
    busy: Cell<bool>,
}

impl<T> Guarded<T> {
    pub(crate) fn new(state: T) -> Self {
        Self { state: UnsafeCell::new(state), busy: Cell::new(false) }
    }

    /// Calls `work` with the state; `None` if a panic has left it half changed. `work` calls neither nginx nor this
    /// function.
    #[inline]
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.busy.replace(true) {
            return None;
        }
        // SAFETY: the only place that uses the state; `busy` keeps it from being borrowed twice at a time.
        let state = unsafe { &mut *self.state.get() };
        let result = work(state);
        self.busy.set(false);
        Some(result)
    }
}

impl<T: Default> Default for Guarded<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Panics go to nginx's error log, at `alert`, instead of to standard error.
pub(crate) fn log_panics() {
    set_hook(Box::new(log_panic));
}

#[cold]
fn log_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.to_string().replace('\n', " ");
    let line = format!("panic in ngx_http_upstream_keepalive_rs_module, please report it: {what}");
    // SAFETY: the log of the present cycle is live; `%*s` takes a length and a pointer, both of one string.
    unsafe {
        ngx_log_error_core(NGX_LOG_ALERT as usize, cycle_log(), 0, c"%*s".as_ptr(), line.len(), line.as_ptr())
    };
}
