//! `$auth_subrequest_status` and `$auth_subrequest_time`.

use std::fmt::Write;

use nginx_sys::{ngx_conf_t, ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, NGX_ERROR, NGX_OK};
use ngx::ngx_string;

use crate::base::times;

use super::context::{Auth, AuthStage};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::variable::{add_one, VariableText};

/// Adds the variables to the configuration being read; `None` if there is no memory.
pub(super) fn add(cf: *mut ngx_conf_t) -> Option<()> {
    add_one(cf, ngx_string!("auth_subrequest_status"), Some(auth_subrequest_status))?;
    add_one(cf, ngx_string!("auth_subrequest_time"), Some(auth_subrequest_time))
}

/// The status of the answer; there is none before it.
unsafe extern "C" fn auth_subrequest_status(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    write(r, value, |auth, text| match auth.stage.get() {
        AuthStage::Done if auth.timed_out.get() => Some(write!(text, "504")),
        AuthStage::Done => Some(write!(text, "{:03}", auth.status.get())),
        _ => None,
    })
}

/// How long it took, in seconds with milliseconds.
unsafe extern "C" fn auth_subrequest_time(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    write(r, value, |auth, text| Some(times::write_time(text, auth.took()?)))
}

fn write(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    text: impl FnOnce(&Auth, &mut VariableText) -> Option<std::fmt::Result>,
) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        // SAFETY: nginx passes a value to be set, and nobody else has it now.
        let value = unsafe { &mut *value };
        value.set_not_found(1);
        let Some(auth) = Auth::of(r) else { return NGX_OK as ngx_int_t };
        // SAFETY: the pool of a live request.
        let Some(mut out) = (unsafe { VariableText::new(r.pool(), times::MAX_TIME) }) else {
            return NGX_ERROR as ngx_int_t;
        };
        match text(auth, &mut out) {
            Some(Ok(())) => out.give(value),
            Some(Err(_)) => return NGX_ERROR as ngx_int_t,
            None => {}
        }
        NGX_OK as ngx_int_t
    })
}
