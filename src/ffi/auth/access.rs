//! The access phase: the client's request goes on, waits for the answer to the auth subrequest, or is denied.

use std::ffi::CStr;

use nginx_sys::{
    ngx_http_complex_value, ngx_http_core_run_phases, ngx_http_event_handler_pt, ngx_http_finalize_request,
    ngx_http_read_client_request_body, ngx_http_request_t, ngx_http_variable_t, ngx_int_t,
    ngx_log_error_core, ngx_str_t, ngx_uint_t, off_t, NGX_AGAIN, NGX_DECLINED, NGX_DONE, NGX_ERROR,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_LOG_ERR, NGX_OK,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use crate::auth::{BodyPlan, OnError, Verdict};
use crate::metrics::Decision;

use super::body::{plan, preserve_body};
use super::conf::{LocConf, SetVariable};
use super::context::{AuthContext, AuthStage};
use super::copy::copy;
use super::deny::{deny, pass_cookies};
use super::subrequest::{send, send_with_body};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{get_field, set_field, Handle as _};
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::memory::or_fail;
use crate::ffi::nginx::request::Request;

/// There is no memory.
const FAILED: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// The client's body cannot be read.
const BAD_REQUEST: ngx_int_t = 400;

const TOO_LARGE: ngx_int_t = 413;

const TIMED_OUT: &CStr = c"auth subrequest timed out";
const UNEXPECTED: &CStr = c"auth subrequest unexpected status: %ui";

/// Mirrors `ngx_http_auth_request_handler()`: nginx calls it for main requests only, again and again until the decision is
/// made.
pub(super) unsafe extern "C" fn auth_subrequest_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx calls the handlers of a phase with a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let conf = LocConf::of(r);
        let Some(uri) = conf.uri() else { return NGX_DECLINED as ngx_int_t };
        debug(r.log(), c"auth subrequest handler");
        let ctx = AuthContext::of_location(r, conf, uri).or_else(|| AuthContext::create(r, conf, uri));
        ctx.map_or(FAILED, |ctx| advance(r, ctx, conf))
    })
}

/// Does what the stage of the decision asks for. Returns what nginx does with the request.
fn advance(r: Request, ctx: &AuthContext, conf: &'static LocConf) -> ngx_int_t {
    match ctx.stage.get() {
        AuthStage::New | AuthStage::BodyRead => match plan(r, conf) {
            BodyPlan::WithoutBody => send(r, ctx, conf, None),
            BodyPlan::ReadFirst if ctx.stage.get() == AuthStage::New => read_body(r, ctx),
            BodyPlan::WithBody(size) => {
                preserve_body(r);
                send_with_body(r, ctx, conf, size)
            }
            BodyPlan::TooLarge(size) => refuse_large_body(r, size),
            BodyPlan::ReadFirst | BodyPlan::Gone => {
                r.log_error(c"client request body is not there to be authorised");
                error_status(r, FAILED)
            }
        },
        // Reading has failed, and this is the location of nginx's error page: without a body nothing can be authorised.
        AuthStage::ReadingBody => error_status(r, BAD_REQUEST),
        AuthStage::Pending => NGX_AGAIN as ngx_int_t,
        AuthStage::Done => apply_verdict(r, ctx, conf),
    }
}

/// The status of the error whose `error_page` has brought the request to this location; `otherwise` if there is none.
fn error_status(r: Request, otherwise: ngx_int_t) -> ngx_int_t {
    let status = get_field!(r.err_status);
    ngx_int_t::try_from(status).ok().filter(|status| (300..600).contains(status)).unwrap_or(otherwise)
}

/// Refuses a body larger than `auth_subrequest_body`. The message is similar to the one for `client_max_body_size`.
fn refuse_large_body(r: Request, size: u64) -> ngx_int_t {
    let format = c"client intended to send too large body to be authorised: %O bytes";
    let size = off_t::try_from(size).unwrap_or(off_t::MAX);
    // SAFETY: the log of a live request; the format has one `%O`, which takes an `off_t`.
    unsafe { ngx_log_error_core(NGX_LOG_ERR as usize, r.log(), 0, format.as_ptr(), size) };
    TOO_LARGE
}

/// Reads the client's body before the auth subrequest is sent, as `ngx_http_mirror_handler()`.
fn read_body(r: Request, ctx: &AuthContext) -> ngx_int_t {
    ctx.stage.set(AuthStage::ReadingBody);
    // SAFETY: a handle points at a live request; nginx may call the handler at once.
    let rc = or_fail(FAILED, || unsafe { ngx_http_read_client_request_body(r.as_ptr(), Some(body_handler)) });
    if rc >= 300 {
        return rc;
    }
    // SAFETY: reading the body has taken a reference to the request, so it is still live.
    unsafe { ngx_http_finalize_request(r.as_ptr(), NGX_DONE as ngx_int_t) };
    NGX_DONE as ngx_int_t
}

/// nginx has read the client's body.
unsafe extern "C" fn body_handler(r: *mut ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx calls this with the live request whose body it has read.
        let Some(request) = (unsafe { Request::from_raw(r) }) else { return };
        if let Some(ctx) = AuthContext::of(request) {
            ctx.stage.set(AuthStage::BodyRead);
        }
        // The location itself reads the body after the auth subrequest.
        preserve_body(request);
        let run_phases: ngx_http_event_handler_pt = Some(ngx_http_core_run_phases);
        set_field!(request.write_event_handler = run_phases);
        // SAFETY: nginx has called this with the live request, which is in the access phase.
        unsafe { ngx_http_core_run_phases(r) };
    });
}

/// The answer has arrived: applies its verdict to the request.
fn apply_verdict(r: Request, ctx: &AuthContext, conf: &'static LocConf) -> ngx_int_t {
    for variable in conf.set() {
        if set_variable(r, ctx, variable).is_none() {
            return FAILED;
        }
    }
    if ctx.settings.record(r, conf).is_none() {
        return FAILED;
    }
    let verdict = ctx.answer().verdict(conf.pass_status());
    if verdict == Verdict::Allow {
        if conf.pass_cookies != 0 && pass_cookies(r, ctx).is_none() {
            return FAILED;
        }
        ctx.count(Decision::Allowed);
        return NGX_OK as ngx_int_t;
    }
    refuse(r, ctx, conf, verdict)
}

/// The answer is no permission.
#[cold]
#[inline(never)]
fn refuse(r: Request, ctx: &AuthContext, conf: &'static LocConf, verdict: Verdict) -> ngx_int_t {
    // The error page and the log must not see headers of `auth_subrequest_copy_header` that the client has sent.
    if copy(r, conf.copy_header()).is_none() {
        return FAILED;
    }
    ctx.count(match (&verdict, conf.on_error()) {
        (Verdict::Allow, _) => Decision::Allowed,
        (Verdict::Deny(_), _) => Decision::Denied,
        (Verdict::Failure(_), OnError::Allow) => Decision::FailedOpen,
        (_, _) if ctx.timed_out.get() => Decision::TimedOut,
        (Verdict::Failure(_) | Verdict::Unexpected(_), _) => Decision::Failed,
    });
    match verdict {
        Verdict::Allow => NGX_OK as ngx_int_t,
        Verdict::Deny(status) => deny(r, ctx, conf, status),
        Verdict::Unexpected(status) => {
            let line = if ctx.timed_out.get() { TIMED_OUT } else { UNEXPECTED };
            log_failure(r, ctx, line, status);
            conf.on_error().status(0).unwrap_or(500) as ngx_int_t
        }
        Verdict::Failure(status) => apply_failure(r, ctx, conf, status),
    }
}

/// No server has given a usable answer: applies `auth_subrequest_error`.
fn apply_failure(r: Request, ctx: &AuthContext, conf: &'static LocConf, status: u16) -> ngx_int_t {
    let on_error = conf.on_error();
    let line = match (on_error, ctx.timed_out.get()) {
        (OnError::Status(_) | OnError::Pass, true) => TIMED_OUT,
        (OnError::Status(_) | OnError::Pass, false) => UNEXPECTED,
        (OnError::Allow, true) => c"auth subrequest timed out, request is allowed",
        (OnError::Allow, false) => c"auth subrequest unexpected status: %ui, request is allowed",
    };
    log_failure(r, ctx, line, status);
    match on_error.status(status) {
        // The response of the auth subrequest is passed like a denial, if it has ended.
        Some(status) if on_error == OnError::Pass && !ctx.timed_out.get() => deny(r, ctx, conf, status),
        Some(status) => status as ngx_int_t,
        None => NGX_OK as ngx_int_t,
    }
}

/// Logs a failure at `error`; once, even if the request is redirected. The line has no format but one `%ui`.
fn log_failure(r: Request, ctx: &AuthContext, line: &'static CStr, status: u16) {
    if ctx.logged.replace(true) {
        return;
    }
    // SAFETY: the log of a live request; the line takes the status as `%ui`, or ignores it.
    unsafe {
        ngx_log_error_core(NGX_LOG_ERR as usize, r.log(), 0, line.as_ptr(), ngx_uint_t::from(status));
    }
}

/// Sets a variable of `auth_subrequest_set`, as `ngx_http_auth_request_set_variables()`. The value stays after internal
/// redirects. `None` if there is no memory.
fn set_variable(r: Request, ctx: &AuthContext, variable: &SetVariable) -> Option<()> {
    let sub = ctx.sub.get()?;
    let mut value = variable.value;
    let mut text = ngx_str_t::empty();
    // SAFETY: the auth subrequest lives as long as the main request; nginx writes the text to its pool.
    let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
        ngx_http_complex_value(sub.as_ptr(), &raw mut value, &raw mut text)
    });
    if rc != NGX_OK as ngx_int_t {
        return None;
    }
    let place = r.variable(variable.index);
    // SAFETY: a live request has a value for each index; the reference is not used after the four writes below.
    let place_value = unsafe { &mut *place };
    place_value.set_valid(1);
    place_value.set_not_found(0);
    place_value.set_len(text.len as u32);
    place_value.data = text.data;
    if let Some(set_handler) = variable.set_handler {
        let data = variable_data(r, variable.index)?;
        // SAFETY: the set handler of this variable, called with its value and its data as `set` of the rewrite module does.
        unsafe { set_handler(r.as_ptr(), place, data) };
    }
    Some(())
}

/// The `data` of the definition of an indexed variable.
fn variable_data(r: Request, index: usize) -> Option<usize> {
    // SAFETY: a handle points at a live request; the reference is used in this statement only.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*r.as_ptr() })?;
    // SAFETY: nginx's array of the indexed variables, which does not change after the configuration was read.
    let variables: &[ngx_http_variable_t] = unsafe { main.variables.as_slice() };
    variables.get(index).map(|variable| variable.data)
}
