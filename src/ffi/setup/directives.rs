//! The directives, each in one place: its name, where it is allowed, how many words it takes.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ptr;

use nginx_sys::{
    ngx_command_t, ngx_conf_set_flag_slot, ngx_conf_t, ngx_parse_size, ngx_str_t, ngx_uint_t, NGX_CONF_FLAG,
    NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_CONF_TAKE12, NGX_CONF_TAKE123, NGX_HTTP_LOC_CONF,
    NGX_HTTP_MAIN_CONF, NGX_HTTP_MAIN_CONF_OFFSET, NGX_HTTP_SRV_CONF_OFFSET, NGX_HTTP_UPS_CONF,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::ngx_string;

use crate::directive::{Allowed, Http2, Invalid, Keepalive, KeepaliveDrain, KeepaliveHint, Queue};
use crate::reuse::stale::StaleRetry;

use crate::ffi::nginx::conf_words::{
    place_of, report, set_number, set_time, size, time, words, Place, Setter, IS_DUPLICATE,
};
use crate::ffi::nginx::guard::guard;
use crate::ffi::observe::status_location::keepalive_status;
use crate::ffi::shared::counters::Directive;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::srv_conf::SrvConf;

/// The command table; an empty name ends it.
pub(crate) static mut COMMANDS: [ngx_command_t; 16] = [
    // keepalive connections [local] [per_server];
    command(ngx_string!("keepalive"), NGX_CONF_TAKE123, keepalive, 0),
    // queue number [timeout=time] [status=code];
    command(ngx_string!("queue"), NGX_CONF_TAKE123, queue, 0),
    // keepalive_drain size [timeout=time];
    command(ngx_string!("keepalive_drain"), NGX_CONF_TAKE123, keepalive_drain, 0),
    // keepalive_check on | off;
    command(
        ngx_string!("keepalive_check"),
        NGX_CONF_FLAG,
        ngx_conf_set_flag_slot,
        offset_of!(SrvConf, check),
    ),
    // keepalive_hint learn | on | off [margin=time];
    command(ngx_string!("keepalive_hint"), NGX_CONF_TAKE12, keepalive_hint, 0),
    // keepalive_stale_retry off | safe | always;
    command(ngx_string!("keepalive_stale_retry"), NGX_CONF_TAKE1, keepalive_stale_retry, 0),
    // keepalive_stale_fails on | off;
    command(
        ngx_string!("keepalive_stale_fails"),
        NGX_CONF_FLAG,
        ngx_conf_set_flag_slot,
        offset_of!(SrvConf, stale_fails),
    ),
    // keepalive_handover on | off;
    ngx_command_t {
        name: ngx_string!("keepalive_handover"),
        type_: (NGX_HTTP_MAIN_CONF | NGX_HTTP_UPS_CONF | NGX_CONF_FLAG) as ngx_uint_t,
        set: Some(ngx_conf_set_flag_slot),
        conf: NGX_HTTP_SRV_CONF_OFFSET,
        offset: offset_of!(SrvConf, handover),
        post: ptr::null_mut(),
    },
    // http2 on | off | auto [streams=number] [connections=number];
    command(ngx_string!("http2"), NGX_CONF_TAKE123, http2, 0),
    // ntlm;
    command(ngx_string!("ntlm"), NGX_CONF_NOARGS, ntlm, 0),
    // keepalive_time time;
    command(ngx_string!("keepalive_time"), NGX_CONF_TAKE1, set_time, offset_of!(SrvConf, time)),
    // keepalive_timeout time;
    command(ngx_string!("keepalive_timeout"), NGX_CONF_TAKE1, set_time, offset_of!(SrvConf, timeout)),
    // keepalive_requests number;
    command(ngx_string!("keepalive_requests"), NGX_CONF_TAKE1, set_number, offset_of!(SrvConf, requests)),
    // keepalive_status;
    ngx_command_t {
        name: ngx_string!("keepalive_status"),
        type_: (NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS) as ngx_uint_t,
        set: Some(keepalive_status),
        conf: NGX_HTTP_MAIN_CONF_OFFSET,
        offset: 0,
        post: ptr::null_mut(),
    },
    // keepalive_zone size;
    ngx_command_t {
        name: ngx_string!("keepalive_zone"),
        type_: (NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1) as ngx_uint_t,
        set: Some(keepalive_zone),
        conf: NGX_HTTP_MAIN_CONF_OFFSET,
        offset: 0,
        post: ptr::null_mut(),
    },
    ngx_command_t::empty(),
];

/// A directive of `upstream {}`.
const fn command(name: ngx_str_t, words: u32, set: Setter, offset: usize) -> ngx_command_t {
    ngx_command_t {
        name,
        type_: (NGX_HTTP_UPS_CONF | words) as ngx_uint_t,
        set: Some(set),
        conf: NGX_HTTP_SRV_CONF_OFFSET,
        offset,
        post: ptr::null_mut(),
    }
}

/// Sets `keepalive`.
unsafe extern "C" fn keepalive(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: nginx passes what `SrvConf::create` made for this upstream; nobody else has a reference to it.
        let conf = unsafe { &mut *conf.cast::<SrvConf>() };
        if conf.keepalive().is_some() {
            return IS_DUPLICATE.as_ptr().cast_mut();
        }
        // SAFETY: nginx passes the configuration being read.
        let words = unsafe { words(cf) };
        let parsed = Keepalive::parse(words[1].as_bytes(), words[2..].iter().map(ngx_str_t::as_bytes));
        report(cf, parsed.map(|value| conf.set_keepalive(value)))
    })
}

/// Sets `queue`.
unsafe extern "C" fn queue(cf: *mut ngx_conf_t, _cmd: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    // SAFETY: nginx passes both for a directive of `upstream {}`.
    unsafe { set(cf, conf, |conf| &mut conf.queue, |first, others| Queue::parse(first, others, time)) }
}

/// Sets `http2`. At the levels `http` and `server` the name belongs to nginx's own module, as nginx looks on if a directive is
/// not allowed where it stands.
unsafe extern "C" fn http2(cf: *mut ngx_conf_t, _cmd: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    // SAFETY: nginx passes both for a directive of `upstream {}`.
    let result = unsafe { set(cf, conf, |conf| &mut conf.http2, Http2::parse) };
    // SAFETY: nginx passes what `SrvConf::create` made for this upstream; nobody else has a reference to it.
    let conf = unsafe { &*conf.cast::<SrvConf>() };
    // Connections that authenticate a client cannot be shared.
    if result == NGX_CONF_OK && conf.ntlm && conf.http2().is_on() {
        return c"is incompatible with \"ntlm\"".as_ptr().cast_mut();
    }
    result
}

/// Sets `ntlm`.
unsafe extern "C" fn ntlm(_cf: *mut ngx_conf_t, _cmd: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    // SAFETY: nginx passes what `SrvConf::create` made for this upstream; nobody else has a reference to it.
    let conf = unsafe { &mut *conf.cast::<SrvConf>() };
    if std::mem::replace(&mut conf.ntlm, true) {
        IS_DUPLICATE.as_ptr().cast_mut()
    } else if conf.http2().is_on() {
        c"is incompatible with \"http2\"".as_ptr().cast_mut()
    } else {
        NGX_CONF_OK
    }
}

/// Sets `keepalive_drain`.
unsafe extern "C" fn keepalive_drain(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    let parse = |first, others: Others| KeepaliveDrain::parse(first, others, size, time);
    // SAFETY: nginx passes both for a directive of `upstream {}`.
    unsafe { set(cf, conf, |conf| &mut conf.drain, parse) }
}

/// Sets `keepalive_hint`.
unsafe extern "C" fn keepalive_hint(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    let parse = |first, others: Others| KeepaliveHint::parse(first, others, time);
    // SAFETY: nginx passes both for a directive of `upstream {}`.
    unsafe { set(cf, conf, |conf| &mut conf.hint, parse) }
}

/// Sets `keepalive_stale_retry`.
unsafe extern "C" fn keepalive_stale_retry(
    cf: *mut ngx_conf_t,
    _cmd: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    const ALLOWED: Allowed = Allowed::Words("it must be \"off\", \"safe\" or \"always\"");
    let parse = |word, _: Others| {
        StaleRetry::parse(word).ok_or(Invalid::Argument("keepalive_stale_retry", word, ALLOWED))
    };
    // SAFETY: nginx passes both for a directive of `upstream {}`.
    unsafe { set(cf, conf, |conf| &mut conf.stale_retry, parse) }
}

/// The words of a directive after the first argument.
type Others = std::iter::Map<std::slice::Iter<'static, ngx_str_t>, fn(&'static ngx_str_t) -> &'static [u8]>;

/// Sets a value that may be set once. `parse` reads it from the first word after the name, and the other words.
///
/// # Safety
/// `cf` and `conf` are what nginx passes to the setter of a directive of `upstream {}`.
unsafe fn set<T>(
    cf: *mut ngx_conf_t,
    conf: *mut c_void,
    place: impl FnOnce(&mut SrvConf) -> &mut Option<T>,
    parse: impl FnOnce(&'static [u8], Others) -> Result<T, Invalid<'static>>,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: what `SrvConf::create` made for this upstream, as the caller promises; nobody else has a reference to it.
        let place = place(unsafe { &mut *conf.cast::<SrvConf>() });
        if place.is_some() {
            return IS_DUPLICATE.as_ptr().cast_mut();
        }
        // SAFETY: the configuration being read, as the caller promises.
        let words = unsafe { words(cf) };
        let others: Others = words[2..].iter().map(ngx_str_t::as_bytes);
        report(cf, parse(words[1].as_bytes(), others).map(|value| *place = Some(value)))
    })
}

/// Sets `keepalive_zone`.
unsafe extern "C" fn keepalive_zone(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        // SAFETY: nginx passes what `MainConf::create` made; there are only shared references to it.
        let zone = unsafe { &(*conf.cast::<MainConf>()).zone };
        if zone.directive.get().is_some() {
            return IS_DUPLICATE.as_ptr().cast_mut();
        }
        // SAFETY: nginx passes the configuration being read.
        let mut word = unsafe { words(cf) }[1];
        const SIZE: Allowed = Allowed::Words("it must be a size, such as \"1m\"");
        // SAFETY: nginx only reads the word.
        let size = unsafe { ngx_parse_size(&raw mut word) };
        let Some(size) = usize::try_from(size).ok().filter(|_| word.len > 0) else {
            return report(cf, Err(Invalid::Argument("keepalive_zone", word.as_bytes(), SIZE)));
        };
        // SAFETY: nginx passes the configuration being read.
        let Place { file, line } = unsafe { place_of(cf) };
        zone.directive.set(Some(Directive { size, file, line }));
        NGX_CONF_OK
    })
}
