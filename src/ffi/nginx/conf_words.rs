//! The words of a directive: how they are read, and how errors in them are reported.

use std::ffi::{c_char, c_void, CStr};

use nginx_sys::{
    ngx_command_t, ngx_conf_set_msec_slot, ngx_conf_set_num_slot, ngx_conf_set_size_slot, ngx_conf_t,
    ngx_int_t, ngx_parse_offset, ngx_parse_time, ngx_str_t, ngx_uint_t, NGX_ERROR, NGX_LOG_EMERG,
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

/// `slot!(setter, nginx's setter, allowed)`: a setter of nginx that says what is allowed if the value is not valid.
macro_rules! slot {
    ($(#[$doc:meta])* $name:ident, $set:path, $allowed:literal) => {
        $(#[$doc])*
        pub(crate) unsafe extern "C" fn $name(
            cf: *mut ngx_conf_t,
            cmd: *mut ngx_command_t,
            conf: *mut c_void,
        ) -> *mut c_char {
            // SAFETY: nginx has passed these to the setter of this directive, whose field is of the type that its setter writes.
            let said = unsafe { $set(cf, cmd, conf) };
            if said == NGX_CONF_OK {
                return said;
            }
            // SAFETY: anything but success is an error message of nginx, a constant.
            let is_duplicate = unsafe { CStr::from_ptr(said) } == IS_DUPLICATE;
            if is_duplicate { said } else { $allowed.as_ptr().cast_mut() }
        }
    };
}

slot!(
    /// Sets a time. Mirrors `ngx_conf_set_msec_slot()`.
    set_time, ngx_conf_set_msec_slot, c"invalid value, it must be a time, such as \"60s\""
);
slot!(
    /// Sets a size. Mirrors `ngx_conf_set_size_slot()`.
    set_size, ngx_conf_set_size_slot, c"invalid value, it must be a size, such as \"64k\""
);
slot!(
    /// Sets a number. Mirrors `ngx_conf_set_num_slot()`.
    set_number, ngx_conf_set_num_slot, c"invalid number, it must be 0 or more"
);

/// Where a directive is written.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The name of the file.
    pub(crate) file: ngx_str_t,
    /// The number of the line.
    pub(crate) line: ngx_uint_t,
}

/// Where the directive being read is written.
///
/// # Safety
/// `cf` is the configuration being read.
pub(crate) unsafe fn place_of(cf: *mut ngx_conf_t) -> Place {
    // SAFETY: the configuration being read, says the caller; reads one field.
    let conf_file = unsafe { (*cf).conf_file };
    // SAFETY: nginx reads every directive from a file, also the command line as if from one; reads one field.
    let file = unsafe { (*conf_file).file.name };
    // SAFETY: the file that nginx reads the directive from; reads one field.
    let line = unsafe { (*conf_file).line };
    Place { file, line }
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
