//! The panic boundary: no unwinding crosses a hook.

use std::panic::{catch_unwind, set_hook, AssertUnwindSafe, PanicHookInfo};

use nginx_sys::{ngx_cycle, ngx_log_error_core, NGX_LOG_ALERT};

/// Runs the body of a hook. A panic is logged once, and the hook returns `failure`.
///
/// What a panic leaves half changed must not be used again: see `changing` in
/// [`super::upstream::Upstream`].
#[inline]
pub(super) fn guard<T>(failure: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(failure)
}

/// Panics go to nginx's error log, at `alert`, instead of to standard error.
pub(super) fn log_panics() {
    set_hook(Box::new(log_panic));
}

#[cold]
fn log_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.to_string().replace('\n', " ");
    let line = format!("panic in ngx_http_upstream_keepalive_rs_module, please report it: {what}");
    // SAFETY: set before a module is loaded, and only nginx's single thread runs here.
    let cycle = unsafe { ngx_cycle };
    // SAFETY: the global cycle is valid for as long as the process runs.
    let log = unsafe { (*cycle).log };
    // SAFETY: `%*s` takes a length and a pointer; both are of one string.
    unsafe { ngx_log_error_core(NGX_LOG_ALERT as usize, log, 0, c"%*s".as_ptr(), line.len(), line.as_ptr()) };
}
