//! Debug lines, in nginx's words: they vanish when nginx is built without `--with-debug`, and
//! cost one test of a bit when they are not asked for.

use std::ffi::CStr;

use nginx_sys::{ngx_log_t, NGX_LOG_DEBUG_HTTP};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::handle::Handle as _;

/// Writes `line` at the level `debug_http`.
#[inline]
pub(crate) fn debug(log: *mut ngx_log_t, line: &'static CStr) {
    if wanted(log) {
        write(log, line, None);
    }
}

/// Writes `line`, whose only format is one `%p`, with the address of a connection.
#[inline]
pub(crate) fn debug_conn(log: *mut ngx_log_t, line: &'static CStr, conn: Conn) {
    if wanted(log) {
        write(log, line, Some(conn));
    }
}

#[inline]
fn wanted(log: *mut ngx_log_t) -> bool {
    // SAFETY: logs come from a live connection, event or peer; nginx gives each of them one.
    ngx::log::DEBUG && unsafe { (*log).log_level } & NGX_LOG_DEBUG_HTTP as usize != 0
}

#[cold]
#[inline(never)]
fn write(log: *mut ngx_log_t, line: &'static CStr, conn: Option<Conn>) {
    let conn = conn.map_or(std::ptr::null_mut(), Conn::as_ptr);
    // SAFETY: `line` ends with a null byte and has no format but the `%p` that `conn` is for; a
    // surplus argument is ignored.
    unsafe {
        nginx_sys::ngx_log_error_core(nginx_sys::NGX_LOG_DEBUG as usize, log, 0, line.as_ptr(), conn);
    }
}
