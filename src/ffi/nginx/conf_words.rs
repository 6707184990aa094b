//! The words of a directive: how they are read, and how errors in them are reported.

use std::ffi::{c_char, c_void, CStr};

use nginx_sys::{
    ngx_command_t, ngx_conf_t, ngx_int_t, ngx_parse_offset, ngx_parse_time, ngx_str_t, NGX_ERROR,
    NGX_LOG_EMERG,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::ngx_conf_log_error;

use crate::base::clock::Msec;
use crate::directive::Invalid;

/// The function that nginx calls for a directive.
pub(crate) type Setter =
    unsafe extern "C" fn(cf: *mut ngx_conf_t, cmd: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char;

/// The words of the directive being read.
///
/// # Safety
/// `cf` is the configuration being read.
pub(crate) unsafe fn words<'a>(cf: *mut ngx_conf_t) -> &'a [ngx_str_t] {
    // SAFETY: the caller says that `cf` is the configuration being read.
    let args = unsafe { (*cf).args };
    // SAFETY: nginx sets `args` to the words of the directive before it calls the setter, and does not change them
    // meanwhile.
    let args = unsafe { &*args };
    // SAFETY: the elements of `cf->args` are strings.
    unsafe { args.as_slice() }
}

/// A time in nginx's notation, in milliseconds; `None` if it is invalid. Mirrors `ngx_parse_time()`.
pub(crate) fn time(word: &[u8]) -> Option<Msec> {
    let mut text = ngx_str_t { len: word.len(), data: word.as_ptr().cast_mut() };
    // SAFETY: the string has the bytes of the word, which the function only reads.
    let time = unsafe { ngx_parse_time(&raw mut text, 0) };
    Msec::try_from(time).ok().filter(|_| !word.is_empty())
}

/// A size in nginx's notation, in bytes; `None` if it is invalid. Mirrors `ngx_parse_offset()`.
pub(crate) fn size(word: &[u8]) -> Option<u64> {
    let mut text = ngx_str_t { len: word.len(), data: word.as_ptr().cast_mut() };
    // SAFETY: the string has the bytes of the word, which the function only reads.
    let size = unsafe { ngx_parse_offset(&raw mut text) };
    u64::try_from(size).ok().filter(|_| !word.is_empty())
}

/// Returns the result of a setter; logs an error, to which nginx adds file and line.
pub(crate) fn report(cf: *mut ngx_conf_t, parsed: Result<(), Invalid<'_>>) -> *mut c_char {
    match parsed {
        Ok(()) => NGX_CONF_OK,
        Err(invalid) => {
            ngx_conf_log_error!(NGX_LOG_EMERG, cf, "{invalid}");
            NGX_CONF_ERROR
        }
    }
}

/// An error to which nginx adds the name of the directive, file and line.
pub(crate) const IS_DUPLICATE: &CStr = c"is duplicate";

/// Logs that there is no memory, for which the configuration is refused.
pub(crate) fn no_memory(cf: *mut ngx_conf_t) -> ngx_int_t {
    ngx_conf_log_error!(NGX_LOG_EMERG, cf, "no memory for module \"ngx_http_upstream_keepalive_rs_module\"");
    NGX_ERROR as ngx_int_t
}
