//! `$auth_subrequest_status` and `$auth_subrequest_time`, and how other variables are evaluated anew.

use std::fmt::Write;

use nginx_sys::{ngx_conf_t, ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, NGX_ERROR, NGX_OK};
use ngx::ngx_string;

use crate::base::times;

use super::context::{AuthContext, AuthStage};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::variable::{add_one, VariableText};

/// Adds the variables to the configuration being read; `None` if there is no memory.
pub(super) fn add(cf: *mut ngx_conf_t) -> Option<()> {
    add_one(cf, ngx_string!("auth_subrequest_status"), Some(auth_subrequest_status))?;
    add_one(cf, ngx_string!("auth_subrequest_time"), Some(auth_subrequest_time))
}

/// The status of the answer; not found before the answer has arrived.
unsafe extern "C" fn auth_subrequest_status(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    write(r, value, |ctx, text| match ctx.stage.get() {
        AuthStage::Done if ctx.timed_out.get() => Some(write!(text, "504")),
        AuthStage::Done => Some(write!(text, "{:03}", ctx.status.get())),
        _ => None,
    })
}

/// The duration of the auth subrequest, in seconds with milliseconds.
unsafe extern "C" fn auth_subrequest_time(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    write(r, value, |ctx, text| Some(times::write_time(text, ctx.duration()?)))
}

fn write(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    text: impl FnOnce(&AuthContext, &mut VariableText) -> Option<std::fmt::Result>,
) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx evaluates the variable for a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        // SAFETY: nginx passes the value that this handler is to set, and does not use it meanwhile.
        let value = unsafe { &mut *value };
        value.set_not_found(1);
        let Some(ctx) = AuthContext::of(r) else { return NGX_OK as ngx_int_t };
        // SAFETY: a handle points at a live request, whose pool is live too.
        let Some(mut out) = (unsafe { VariableText::new(r.pool(), times::MAX_TIME) }) else {
            return NGX_ERROR as ngx_int_t;
        };
        match text(ctx, &mut out) {
            Some(Ok(())) => out.give(value),
            Some(Err(_)) => return NGX_ERROR as ngx_int_t,
            None => {}
        }
        NGX_OK as ngx_int_t
    })
}

/// Lets nginx evaluate an indexed variable of a request anew.
pub(super) fn invalidate(r: Request, index: usize) {
    // SAFETY: a live request has a value for each index that nginx has given out; the reference ends with this function.
    let value = unsafe { &mut *r.variable(index) };
    value.set_valid(0);
    value.set_not_found(0);
}
