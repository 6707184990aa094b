//! The directives. All of them are allowed in `http`, `server` and `location`.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::mem::{offset_of, zeroed};
use std::ptr;

use nginx_sys::{
    ngx_command_t, ngx_conf_set_flag_slot, ngx_conf_t, ngx_hash_key, ngx_http_add_variable,
    ngx_http_compile_complex_value, ngx_http_compile_complex_value_t, ngx_http_complex_value_t,
    ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, ngx_str_t, ngx_uint_t, NGX_CONF_1MORE,
    NGX_CONF_FLAG, NGX_CONF_TAKE1, NGX_CONF_TAKE2, NGX_ERROR, NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET,
    NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF, NGX_HTTP_VAR_CHANGEABLE, NGX_LOG_EMERG, NGX_OK,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::{ngx_conf_log_error, ngx_string};

use crate::auth::{is_same_header, parse_header, parse_status, parse_uri, OnError};
use crate::directive::Invalid;

use super::conf::{CopiedHeader, LocConf, MainConf, SetVariable, Uri, Written};
use super::reading::{ConfReader, Slice};
use crate::ffi::nginx::conf_words::{
    no_memory, place_of, report, set_size, set_time, words, Setter, IS_DUPLICATE,
};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{get_field, Handle as _};
use crate::ffi::nginx::memory::or_fail;

/// The command table; an empty command ends it.
pub(super) static mut COMMANDS: [ngx_command_t; 11] = [
    // auth_subrequest uri | off;
    command(ngx_string!("auth_subrequest"), NGX_CONF_TAKE1, auth_subrequest, 0),
    // auth_subrequest_set $variable value;
    command(ngx_string!("auth_subrequest_set"), NGX_CONF_TAKE2, auth_subrequest_set, 0),
    // auth_subrequest_pass_status code ...;
    command(ngx_string!("auth_subrequest_pass_status"), NGX_CONF_1MORE, auth_subrequest_pass_status, 0),
    // auth_subrequest_pass_header name ...;
    command(ngx_string!("auth_subrequest_pass_header"), NGX_CONF_1MORE, auth_subrequest_pass_header, 0),
    // auth_subrequest_pass_body size;
    command(
        ngx_string!("auth_subrequest_pass_body"),
        NGX_CONF_TAKE1,
        set_size,
        offset_of!(LocConf, pass_body),
    ),
    // auth_subrequest_pass_cookies on | off;
    command(
        ngx_string!("auth_subrequest_pass_cookies"),
        NGX_CONF_FLAG,
        ngx_conf_set_flag_slot,
        offset_of!(LocConf, pass_cookies),
    ),
    // auth_subrequest_timeout time;
    command(ngx_string!("auth_subrequest_timeout"), NGX_CONF_TAKE1, set_time, offset_of!(LocConf, timeout)),
    // auth_subrequest_error 500 | 503 | pass | allow;
    command(ngx_string!("auth_subrequest_error"), NGX_CONF_TAKE1, auth_subrequest_error, 0),
    // auth_subrequest_body size;
    command(ngx_string!("auth_subrequest_body"), NGX_CONF_TAKE1, set_size, offset_of!(LocConf, body)),
    // auth_subrequest_copy_header name ...;
    command(ngx_string!("auth_subrequest_copy_header"), NGX_CONF_1MORE, auth_subrequest_copy_header, 0),
    ngx_command_t::empty(),
];

const fn command(name: ngx_str_t, words: u32, set: Setter, offset: usize) -> ngx_command_t {
    ngx_command_t {
        name,
        type_: (NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | words) as ngx_uint_t,
        set: Some(set),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset,
        post: ptr::null_mut(),
    }
}

/// The words of a directive, in the pool of the cycle.
type Words = &'static [ngx_str_t];

/// Why a directive is refused.
enum SetError {
    Invalid(Invalid<'static>),
    IsDuplicate,
    NoMemory,
    /// The reason is in the error log already.
    Logged,
}

impl From<Invalid<'static>> for SetError {
    fn from(invalid: Invalid<'static>) -> Self {
        Self::Invalid(invalid)
    }
}

/// Calls `write` with the location configuration and the words behind the directive's name, and reports its error.
///
/// # Safety
/// `cf` and `conf` are what nginx passes to the setter that calls this.
unsafe fn set(
    cf: *mut ngx_conf_t,
    conf: *mut c_void,
    write: fn(&mut LocConf, Words, ConfReader) -> Result<(), SetError>,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: `LocConf::create` has made it, and nginx has no reference to it while it calls a setter.
        let conf = unsafe { &mut *conf.cast::<LocConf>() };
        // SAFETY: nginx has passed `cf` to the setter, says the caller.
        let words = unsafe { words(cf) };
        // SAFETY: nginx has passed `cf` to the setter, says the caller.
        let reader = unsafe { ConfReader::from_ptr(cf) };
        match write(conf, words.get(1..).unwrap_or(&[]), reader) {
            Ok(()) => NGX_CONF_OK,
            Err(SetError::Invalid(invalid)) => report(cf, Err(invalid)),
            Err(SetError::IsDuplicate) => IS_DUPLICATE.as_ptr().cast_mut(),
            Err(SetError::Logged) => NGX_CONF_ERROR,
            Err(SetError::NoMemory) => {
                no_memory(cf);
                NGX_CONF_ERROR
            }
        }
    })
}

/// `setter!(directive, write)`: the function that nginx calls for a directive.
macro_rules! setter {
    ($name:ident, $write:path) => {
        unsafe extern "C" fn $name(
            cf: *mut ngx_conf_t,
            _: *mut ngx_command_t,
            conf: *mut c_void,
        ) -> *mut c_char {
            // SAFETY: nginx calls a setter with the configuration being read, and with the configuration of the location.
            unsafe { set(cf, conf, $write) }
        }
    };
}

setter!(auth_subrequest, set_uri);
setter!(auth_subrequest_set, add_set_variable);
setter!(auth_subrequest_pass_status, add_pass_status);
setter!(auth_subrequest_pass_header, add_pass_header);
setter!(auth_subrequest_error, set_on_error);
setter!(auth_subrequest_copy_header, add_copy_header);

/// Sets a value that may be set only once on each level.
fn set_once<T>(value: &mut Option<T>, new: Result<T, Invalid<'static>>) -> Result<(), SetError> {
    if value.is_some() {
        return Err(SetError::IsDuplicate);
    }
    *value = Some(new?);
    Ok(())
}

/// Adds a value to a list of the same level.
fn add<T: Copy>(list: &mut Option<Slice<T>>, cf: ConfReader, value: T) -> Result<(), SetError> {
    let slice = list.unwrap_or(Slice::EMPTY).with(cf, value);
    *list = Some(slice.ok_or(SetError::NoMemory)?);
    Ok(())
}

fn set_uri(conf: &mut LocConf, words: Words, cf: ConfReader) -> Result<(), SetError> {
    let word = words[0].as_bytes();
    if word == b"off" {
        return set_once(&mut conf.uri, Ok(None));
    }
    let main = MainConf::read_by(cf).ok_or(SetError::NoMemory)?;
    let (path, args) = parse_uri(word)?;
    let index = main.uri_index(path).ok_or(SetError::NoMemory)?;
    let written = Written {
        // SAFETY: nginx has passed the configuration being read to the setter.
        place: unsafe { place_of(cf.as_ptr()) },
        conf,
        in_http: get_field!(cf.cmd_type) & NGX_HTTP_MAIN_CONF as ngx_uint_t != 0,
        is_doubled: Cell::new(false),
    };
    // SAFETY: just placed in the pool of the cycle; there are only shared references to it.
    let written = unsafe { cf.place(written).ok_or(SetError::NoMemory)?.as_ref() };
    let uri = Uri { path: text(path), args: text(args.unwrap_or(&[])), index, written };
    set_once(&mut conf.uri, Ok(Some(uri)))
}

fn set_on_error(conf: &mut LocConf, words: Words, _: ConfReader) -> Result<(), SetError> {
    set_once(&mut conf.on_error, OnError::parse(words[0].as_bytes()))
}

fn add_pass_status(conf: &mut LocConf, words: Words, cf: ConfReader) -> Result<(), SetError> {
    words.iter().try_for_each(|word| {
        let status = parse_status(word.as_bytes())?;
        if conf.pass_status.is_some_and(|before| before.as_slice().contains(&status)) {
            return Err(Invalid::Repeated("auth_subrequest_pass_status", word.as_bytes()).into());
        }
        add(&mut conf.pass_status, cf, status)
    })
}

fn add_pass_header(conf: &mut LocConf, words: Words, cf: ConfReader) -> Result<(), SetError> {
    const DIRECTIVE: &str = "auth_subrequest_pass_header";
    words.iter().try_for_each(|word| {
        let name = parse_header(DIRECTIVE, word.as_bytes())?;
        let is_same = |before: &ngx_str_t| before.as_bytes().eq_ignore_ascii_case(name);
        if conf.pass_header().iter().any(is_same) {
            return Err(Invalid::Repeated(DIRECTIVE, name).into());
        }
        add(&mut conf.pass_header, cf, *word)
    })
}

fn add_copy_header(conf: &mut LocConf, words: Words, cf: ConfReader) -> Result<(), SetError> {
    const DIRECTIVE: &str = "auth_subrequest_copy_header";
    words.iter().try_for_each(|word| {
        let name = parse_header(DIRECTIVE, word.as_bytes())?;
        if conf.copy_header().iter().any(|before| is_same_header(before.name.as_bytes(), name)) {
            return Err(Invalid::Repeated(DIRECTIVE, name).into());
        }
        let header = copied_header(cf, *word).ok_or(SetError::NoMemory)?;
        add(&mut conf.copy_header, cf, header)
    })
}

/// Looks up everything that a request needs to know of a header that is copied. `None` if there is no memory.
fn copied_header(cf: ConfReader, name: ngx_str_t) -> Option<CopiedHeader> {
    let main = MainConf::read_by(cf)?;
    if let Some(known) = main.find_header(name.as_bytes()) {
        return Some(known);
    }
    let lowercase = map_name(cf, name, b"", |byte| byte.to_ascii_lowercase())?;
    let variable = map_name(cf, name, b"http_", |byte| match byte {
        b'-' => b'_',
        byte => byte.to_ascii_lowercase(),
    })?;
    let variable = cf.variable_index(variable);
    // SAFETY: `map_name` has written `lowercase.len` bytes at `lowercase.data`.
    let hash = unsafe { ngx_hash_key(lowercase.data, lowercase.len) };
    main.add_header(CopiedHeader { name, lowercase, hash, variable: variable? })
}

/// `prefix`, followed by the name with each byte mapped. `None` if there is no memory.
fn map_name(cf: ConfReader, name: ngx_str_t, prefix: &[u8], map: impl Fn(&u8) -> u8) -> Option<ngx_str_t> {
    let len = prefix.len() + name.len;
    let data = cf.allocate::<u8>(len)?;
    for (at, byte) in prefix.iter().copied().chain(name.as_bytes().iter().map(map)).enumerate() {
        // SAFETY: `at` is below `len`, for which the memory was just allocated.
        let place = unsafe { data.add(at) };
        // SAFETY: inside the memory just allocated, which nobody else uses.
        unsafe { place.write(byte) };
    }
    Some(ngx_str_t { len, data: data.as_ptr() })
}

/// Mirrors `ngx_http_auth_request_set()`.
fn add_set_variable(conf: &mut LocConf, words: Words, cf: ConfReader) -> Result<(), SetError> {
    let Some(name) = words[0].as_bytes().strip_prefix(b"$").filter(|name| !name.is_empty()) else {
        let name = words[0];
        ngx_conf_log_error!(NGX_LOG_EMERG, cf.as_ptr(), "invalid variable name \"{name}\"");
        return Err(SetError::Logged);
    };
    let variable = set_variable(cf, text(name), words[1]).ok_or(SetError::Logged)?;
    if let Some(main) = MainConf::read_by(cf) {
        main.sets.set(true);
    }
    add(&mut conf.set, cf, variable)
}

/// Adds the variable to the configuration, and compiles its value. `None` if nginx has logged why that is impossible.
fn set_variable(cf: ConfReader, mut name: ngx_str_t, value: ngx_str_t) -> Option<SetVariable> {
    // SAFETY: nginx is reading this configuration; it copies the name.
    let variable = or_fail(ptr::null_mut(), || unsafe {
        ngx_http_add_variable(cf.as_ptr(), &raw mut name, NGX_HTTP_VAR_CHANGEABLE as ngx_uint_t)
    });
    let index = cf.variable_index(name);
    // SAFETY: nginx has returned a variable, or null if there is no memory or the name belongs to another module.
    let variable = unsafe { variable.as_mut() }?;
    if variable.get_handler.is_none() {
        variable.get_handler = Some(not_found);
    }
    let value = compile(cf, value)?;
    Some(SetVariable { index: index?, value, set_handler: variable.set_handler })
}

/// Compiles a value with variables, as `ngx_http_compile_complex_value()`. `None` if nginx has logged why it is invalid.
fn compile(cf: ConfReader, mut text: ngx_str_t) -> Option<ngx_http_complex_value_t> {
    // SAFETY: for a C structure of numbers, pointers and bit-fields zero is a valid value.
    let mut value: ngx_http_complex_value_t = unsafe { zeroed() };
    // SAFETY: for a C structure of numbers, pointers and bit-fields zero is a valid value.
    let mut compile: ngx_http_compile_complex_value_t = unsafe { zeroed() };
    compile.cf = cf.as_ptr();
    compile.value = &raw mut text;
    compile.complex_value = &raw mut value;
    // SAFETY: the configuration, the text and the place of the result are set, and live until this function returns.
    let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe { ngx_http_compile_complex_value(&raw mut compile) });
    (rc == NGX_OK as ngx_int_t).then_some(value)
}

/// The value of a variable that is not set yet.
unsafe extern "C" fn not_found(
    _: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes the value that this handler is to set; writes one bit.
    unsafe { ngx_http_variable_value_t::set_not_found_raw(value, 1) };
    NGX_OK as ngx_int_t
}

/// A string that refers to bytes in the cycle's pool.
fn text(bytes: &[u8]) -> ngx_str_t {
    ngx_str_t { len: bytes.len(), data: bytes.as_ptr().cast_mut() }
}
