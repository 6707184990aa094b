//! The words of a directive: how they are read, and how nginx is told what is wrong with them.

use std::ffi::{c_char, c_void, CStr};

use nginx_sys::{
    ngx_command_t, ngx_conf_t, ngx_int_t, ngx_parse_offset, ngx_parse_time, ngx_str_t, NGX_ERROR,
    NGX_LOG_EMERG,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::ngx_conf_log_error;

use crate::base::clock::Msec;
use crate::directive::Invalid;

/// What nginx calls for a directive.
pub(crate) type Setter =
    unsafe extern "C" fn(cf: *mut ngx_conf_t, cmd: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char;

/// The words of the directive being read.
///
/// # Safety
/// `cf` is the configuration being read.
pub(crate) unsafe fn words<'a>(cf: *mut ngx_conf_t) -> &'a [ngx_str_t] {
    // SAFETY: live, says the caller.
    let args = unsafe { (*cf).args };
    // SAFETY: nginx sets `args` to the words of the directive, and leaves them alone meanwhile.
    let args = unsafe { &*args };
    // SAFETY: the elements of `cf->args` are strings.
    unsafe { args.as_slice() }
}

/// A time as nginx writes it, in milliseconds.
pub(crate) fn time(word: &[u8]) -> Option<Msec> {
    let mut text = ngx_str_t { len: word.len(), data: word.as_ptr().cast_mut() };
    // SAFETY: only read.
    let time = unsafe { ngx_parse_time(&raw mut text, 0) };
    Msec::try_from(time).ok().filter(|_| !word.is_empty())
}

/// A size as nginx writes it, in bytes.
pub(crate) fn size(word: &[u8]) -> Option<u64> {
    let mut text = ngx_str_t { len: word.len(), data: word.as_ptr().cast_mut() };
    // SAFETY: only read.
    let size = unsafe { ngx_parse_offset(&raw mut text) };
    u64::try_from(size).ok().filter(|_| !word.is_empty())
}

/// nginx adds file and line to what is wrong.
pub(crate) fn report(cf: *mut ngx_conf_t, parsed: Result<(), Invalid<'_>>) -> *mut c_char {
    match parsed {
        Ok(()) => NGX_CONF_OK,
        Err(invalid) => {
            ngx_conf_log_error!(NGX_LOG_EMERG, cf, "{invalid}");
            NGX_CONF_ERROR
        }
    }
}

/// nginx puts the directive's name before it, file and line behind it.
pub(crate) const IS_DUPLICATE: &CStr = c"is duplicate";

/// Says why the configuration is refused.
pub(crate) fn no_memory(cf: *mut ngx_conf_t) -> ngx_int_t {
    ngx_conf_log_error!(NGX_LOG_EMERG, cf, "no memory for module \"ngx_http_upstream_keepalive_rs_module\"");
    NGX_ERROR as ngx_int_t
}
