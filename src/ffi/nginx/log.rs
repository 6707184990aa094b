//! Lines in the error log. Debug lines are in nginx's words: they vanish when nginx is built without `--with-debug`, and
//! cost one test of a bit when they are not asked for.

use std::ffi::CStr;

use nginx_sys::{ngx_log_error_core, ngx_log_t, NGX_LOG_DEBUG, NGX_LOG_DEBUG_HTTP, NGX_LOG_ERR};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::handle::{get_field, Handle as _};

/// Writes `line` at the level `debug_http`.
#[inline]
pub(crate) fn debug(log: *mut ngx_log_t, line: &'static CStr) {
    if is_debugged(log) {
        write_debug(log, line, None);
    }
}

/// Writes `line`, whose only format is one `%p`, with the address of a connection.
#[inline]
pub(crate) fn debug_conn(log: *mut ngx_log_t, line: &'static CStr, conn: Conn) {
    if is_debugged(log) {
        write_debug(log, line, Some(conn));
    }
}

#[inline]
fn is_debugged(log: *mut ngx_log_t) -> bool {
    ngx::log::DEBUG && level_of(log) & NGX_LOG_DEBUG_HTTP as usize != 0
}

#[inline]
fn level_of(log: *mut ngx_log_t) -> usize {
    // SAFETY: the logs of this module are those of a live connection, event, peer or cycle; nginx gives each of them one.
    unsafe { (*log).log_level }
}

#[cold]
#[inline(never)]
fn write_debug(log: *mut ngx_log_t, line: &'static CStr, conn: Option<Conn>) {
    let conn = conn.map_or(std::ptr::null_mut(), Conn::as_ptr);
    // SAFETY: the log is live, as in `level_of`; `line` ends with a null byte and has no format but the `%p` that `conn` is
    // for; a surplus argument is ignored.
    unsafe { ngx_log_error_core(NGX_LOG_DEBUG as usize, log, 0, line.as_ptr(), conn) };
}

/// Whether a log takes lines of a level, as nginx's macro `ngx_log_error()` asks.
pub(crate) fn takes(log: *mut ngx_log_t, level: u32) -> bool {
    level_of(log) >= level as usize
}

/// Writes a line, with the text of `errno` unless that is 0. Mirrors `ngx_log_error_core()`.
pub(crate) fn write_line(log: *mut ngx_log_t, level: u32, errno: i32, line: &CStr) {
    // SAFETY: the log is live, as in `level_of`; `%s` takes a string that ends with a null byte.
    unsafe { ngx_log_error_core(level as usize, log, errno, c"%s".as_ptr(), line.as_ptr()) };
}

/// Writes an error about a connection, to the log of its request if it has one.
#[cold]
pub(crate) fn error_text(conn: Conn, text: std::fmt::Arguments<'_>) {
    let log = get_field!(conn.log);
    if takes(log, NGX_LOG_ERR) {
        if let Ok(line) = std::ffi::CString::new(text.to_string()) {
            write_line(log, NGX_LOG_ERR, 0, &line);
        }
    }
}
