//! The directives, each in one place. All of them belong into `http`, `server` and `location`.

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, zeroed};
use std::ptr;

use nginx_sys::{
    ngx_command_t, ngx_conf_set_msec_slot, ngx_conf_set_size_slot, ngx_conf_t, ngx_hash_key,
    ngx_http_add_variable, ngx_http_compile_complex_value, ngx_http_compile_complex_value_t,
    ngx_http_get_variable_index, ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, ngx_pool_t,
    ngx_str_t, ngx_uint_t, NGX_CONF_1MORE, NGX_CONF_TAKE1, NGX_CONF_TAKE2, NGX_ERROR, NGX_HTTP_LOC_CONF,
    NGX_HTTP_LOC_CONF_OFFSET, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF, NGX_HTTP_VAR_CHANGEABLE, NGX_LOG_EMERG,
    NGX_OK,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::{ngx_conf_log_error, ngx_string};

use crate::auth::{is_same_header, parse_header, parse_status, parse_uri, OnError};
use crate::directive::Invalid;

use super::conf::{Copied, LocConf, MainConf, SetVariable, Slice, Uri};
use crate::ffi::nginx::conf_words::{no_memory, report, words, Setter, IS_DUPLICATE};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::memory::{allocate, or_fail};

/// The command table; an empty name ends it.
pub(super) static mut COMMANDS: [ngx_command_t; 10] = [
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
        ngx_conf_set_size_slot,
        offset_of!(LocConf, pass_body),
    ),
    // auth_subrequest_timeout time;
    command(
        ngx_string!("auth_subrequest_timeout"),
        NGX_CONF_TAKE1,
        ngx_conf_set_msec_slot,
        offset_of!(LocConf, timeout),
    ),
    // auth_subrequest_error 500 | 503 | allow;
    command(ngx_string!("auth_subrequest_error"), NGX_CONF_TAKE1, auth_subrequest_error, 0),
    // auth_subrequest_body size;
    command(
        ngx_string!("auth_subrequest_body"),
        NGX_CONF_TAKE1,
        ngx_conf_set_size_slot,
        offset_of!(LocConf, body),
    ),
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

/// Why a directive is refused.
enum SetError<'a> {
    Invalid(Invalid<'a>),
    IsDuplicate,
    NoMemory,
    /// nginx has said why.
    Told,
}

impl<'a> From<Invalid<'a>> for SetError<'a> {
    fn from(invalid: Invalid<'a>) -> Self {
        Self::Invalid(invalid)
    }
}

/// Gives the directive its words, behind its name, the location configuration, and the cycle's pool.
///
/// # Safety
/// nginx passes `cf` and `conf` to the setter that calls this.
unsafe fn set<'a>(
    cf: *mut ngx_conf_t,
    conf: *mut c_void,
    write: impl FnOnce(&mut LocConf, &'a [ngx_str_t], *mut ngx_pool_t) -> Result<(), SetError<'a>>,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: what `LocConf::create` has made, and nobody else has it now.
        let conf = unsafe { &mut *conf.cast::<LocConf>() };
        // SAFETY: the configuration being read.
        let words = unsafe { words(cf) };
        // SAFETY: as above.
        let pool = unsafe { (*cf).pool };
        match write(conf, words.get(1..).unwrap_or(&[]), pool) {
            Ok(()) => NGX_CONF_OK,
            Err(SetError::Invalid(invalid)) => report(cf, Err(invalid)),
            Err(SetError::IsDuplicate) => IS_DUPLICATE.as_ptr().cast_mut(),
            Err(SetError::Told) => NGX_CONF_ERROR,
            Err(SetError::NoMemory) => {
                no_memory(cf);
                NGX_CONF_ERROR
            }
        }
    })
}

/// Writes a value that may be written once.
fn once<'a, T>(place: &mut Option<T>, value: Result<T, Invalid<'a>>) -> Result<(), SetError<'a>> {
    if place.is_some() {
        return Err(SetError::IsDuplicate);
    }
    *place = Some(value?);
    Ok(())
}

/// Adds a value to those of the same level.
fn add<'a, T: Copy>(
    place: &mut Option<Slice<T>>,
    pool: *mut ngx_pool_t,
    value: T,
) -> Result<(), SetError<'a>> {
    // SAFETY: the pool of the new cycle.
    let slice = unsafe { place.unwrap_or(Slice::EMPTY).with(pool, value) };
    *place = Some(slice.ok_or(SetError::NoMemory)?);
    Ok(())
}

unsafe extern "C" fn auth_subrequest(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    let write = |conf: &mut LocConf, words: &'static [ngx_str_t], _| {
        let word = words[0].as_bytes();
        if word == b"off" {
            return once(&mut conf.uri, Ok(None));
        }
        // SAFETY: the configuration being read.
        let main = unsafe { MainConf::of_conf(cf) }.ok_or(SetError::NoMemory)?;
        let (path, args) = parse_uri(word)?;
        let number = main.number(path).ok_or(SetError::NoMemory)?;
        once(&mut conf.uri, Ok(Some(Uri { path: text(path), args: text(args.unwrap_or(&[])), number })))?;
        // SAFETY: the configuration being read.
        unsafe { MainConf::note_variables(cf) }.ok_or(SetError::NoMemory)
    };
    // SAFETY: as nginx passed them.
    unsafe { set(cf, conf, write) }
}

unsafe extern "C" fn auth_subrequest_error(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: as nginx passed them.
    unsafe { set(cf, conf, |conf, words, _| once(&mut conf.on_error, OnError::parse(words[0].as_bytes()))) }
}

unsafe extern "C" fn auth_subrequest_pass_status(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    let write = |conf: &mut LocConf, words: &'static [ngx_str_t], pool| {
        words.iter().try_for_each(|word| {
            let status = parse_status(word.as_bytes())?;
            if conf.pass_status.is_some_and(|before| before.as_slice().contains(&status)) {
                return Err(Invalid::Repeated("auth_subrequest_pass_status", word.as_bytes()).into());
            }
            add(&mut conf.pass_status, pool, status)
        })
    };
    // SAFETY: as nginx passed them.
    unsafe { set(cf, conf, write) }
}

unsafe extern "C" fn auth_subrequest_pass_header(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    const DIRECTIVE: &str = "auth_subrequest_pass_header";
    let write = |conf: &mut LocConf, words: &'static [ngx_str_t], pool| {
        words.iter().try_for_each(|word| {
            let name = parse_header(DIRECTIVE, word.as_bytes())?;
            let is_same = |before: &ngx_str_t| before.as_bytes().eq_ignore_ascii_case(name);
            if conf.pass_header().iter().any(is_same) {
                return Err(Invalid::Repeated(DIRECTIVE, name).into());
            }
            add(&mut conf.pass_header, pool, *word)
        })
    };
    // SAFETY: as nginx passed them.
    unsafe { set(cf, conf, write) }
}

unsafe extern "C" fn auth_subrequest_copy_header(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    const DIRECTIVE: &str = "auth_subrequest_copy_header";
    let write = |conf: &mut LocConf, words: &'static [ngx_str_t], pool| {
        words.iter().try_for_each(|word| {
            let name = parse_header(DIRECTIVE, word.as_bytes())?;
            if conf.copy_header().iter().any(|before| is_same_header(before.name.as_bytes(), name)) {
                return Err(Invalid::Repeated(DIRECTIVE, name).into());
            }
            let copied = copied(cf, pool, *word).ok_or(SetError::NoMemory)?;
            add(&mut conf.copy_header, pool, copied)
        })
    };
    // SAFETY: as nginx passed them.
    unsafe { set(cf, conf, write) }
}

/// All that is to be known of a header that is copied.
fn copied(cf: *mut ngx_conf_t, pool: *mut ngx_pool_t, name: ngx_str_t) -> Option<Copied> {
    // SAFETY: the configuration being read.
    let main = unsafe { MainConf::of_conf(cf) }?;
    if let Some(known) = main.known(name.as_bytes()) {
        return Some(known);
    }
    // SAFETY: the configuration being read.
    unsafe { MainConf::note_variables(cf) }?;
    let lowercase = spelt(pool, name, b"", |byte| byte.to_ascii_lowercase())?;
    let mut variable = spelt(pool, name, b"http_", |byte| match byte {
        b'-' => b'_',
        byte => byte.to_ascii_lowercase(),
    })?;
    // SAFETY: the configuration being read, and a name in its pool.
    let index =
        or_fail(NGX_ERROR as ngx_int_t, || unsafe { ngx_http_get_variable_index(cf, &raw mut variable) });
    // SAFETY: so many bytes.
    let hash = unsafe { ngx_hash_key(lowercase.data, lowercase.len) };
    main.note(Copied { name, lowercase, hash, variable: usize::try_from(index).ok()? })
}

/// A name in another spelling, behind a prefix.
fn spelt(
    pool: *mut ngx_pool_t,
    name: ngx_str_t,
    prefix: &[u8],
    byte: impl Fn(&u8) -> u8,
) -> Option<ngx_str_t> {
    let len = prefix.len() + name.len;
    // SAFETY: the pool of the new cycle.
    let data = unsafe { allocate::<u8>(pool, len) }?.cast::<u8>();
    for (at, byte) in prefix.iter().copied().chain(name.as_bytes().iter().map(byte)).enumerate() {
        // SAFETY: there is room for so many.
        let place = unsafe { data.add(at) };
        // SAFETY: as above.
        unsafe { place.write(byte) };
    }
    Some(ngx_str_t { len, data: data.as_ptr() })
}

/// As `ngx_http_auth_request_set()`.
unsafe extern "C" fn auth_subrequest_set(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    let write = |conf: &mut LocConf, words: &'static [ngx_str_t], pool| {
        let Some(name) = words[0].as_bytes().strip_prefix(b"$").filter(|name| !name.is_empty()) else {
            let name = words[0];
            ngx_conf_log_error!(NGX_LOG_EMERG, cf, "invalid variable name \"{name}\"");
            return Err(SetError::Told);
        };
        let variable = set_variable(cf, text(name), words[1]).ok_or(SetError::Told)?;
        add(&mut conf.set, pool, variable)
    };
    // SAFETY: as nginx passed them.
    unsafe { set(cf, conf, write) }
}

fn set_variable(cf: *mut ngx_conf_t, mut name: ngx_str_t, mut text: ngx_str_t) -> Option<SetVariable> {
    // SAFETY: the configuration being read; nginx copies the name.
    let variable = or_fail(std::ptr::null_mut(), || unsafe {
        ngx_http_add_variable(cf, &raw mut name, NGX_HTTP_VAR_CHANGEABLE as ngx_uint_t)
    });
    // SAFETY: as above.
    let index = or_fail(NGX_ERROR as ngx_int_t, || unsafe { ngx_http_get_variable_index(cf, &raw mut name) });
    // SAFETY: nginx's answer, null if there is no memory or the name is another module's.
    let variable = unsafe { variable.as_mut() }?;
    if variable.get_handler.is_none() {
        variable.get_handler = Some(not_found);
    }
    // SAFETY: for a C structure of numbers, pointers and bit-fields zero is a valid value.
    let mut value = unsafe { zeroed() };
    // SAFETY: as above.
    let mut compile: ngx_http_compile_complex_value_t = unsafe { zeroed() };
    compile.cf = cf;
    compile.value = &raw mut text;
    compile.complex_value = &raw mut value;
    // SAFETY: all it takes is set.
    let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe { ngx_http_compile_complex_value(&raw mut compile) });
    if rc != NGX_OK as ngx_int_t {
        return None;
    }
    Some(SetVariable { index: usize::try_from(index).ok()?, value, set_handler: variable.set_handler })
}

/// Before it is set.
unsafe extern "C" fn not_found(
    _: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a value to be set.
    unsafe { ngx_http_variable_value_t::set_not_found_raw(value, 1) };
    NGX_OK as ngx_int_t
}

/// A part of a word, which stays in the cycle's pool.
fn text(bytes: &[u8]) -> ngx_str_t {
    ngx_str_t { len: bytes.len(), data: bytes.as_ptr().cast_mut() }
}
