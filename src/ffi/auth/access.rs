//! The access phase: a request of the client goes on, waits, or is refused.

use std::ffi::CStr;

use nginx_sys::{
    ngx_http_complex_value, ngx_http_core_run_phases, ngx_http_finalize_request,
    ngx_http_read_client_request_body, ngx_http_request_t, ngx_http_variable_t, ngx_int_t,
    ngx_log_error_core, ngx_str_t, ngx_uint_t, off_t, NGX_AGAIN, NGX_DECLINED, NGX_DONE, NGX_ERROR,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_LOG_ERR, NGX_OK,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use crate::auth::{How, OnError, Verdict};
use crate::metrics::Decision;

use super::ask::ask;
use super::body::{body_of, preserve_body};
use super::conf::{LocConf, SetVariable};
use super::context::{Auth, AuthStage};
use super::copy::copy;
use super::deny::deny;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::log::debug;
use crate::ffi::nginx::memory::or_fail;
use crate::ffi::nginx::request::Request;

/// There is no memory.
const FAILED: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// The body of the client cannot be read.
const BAD_REQUEST: ngx_int_t = 400;

const TOO_LARGE: ngx_int_t = 413;

const TIMED_OUT: &CStr = c"auth subrequest timed out";
const UNEXPECTED: &CStr = c"auth subrequest unexpected status: %ui";

/// As `ngx_http_auth_request_handler()`, nginx calls it for requests of clients only, again and again until it is
/// decided.
pub(super) unsafe extern "C" fn auth_subrequest_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let conf = LocConf::of(r);
        let Some(uri) = conf.uri() else { return NGX_DECLINED as ngx_int_t };
        debug(r.log(), c"auth subrequest handler");
        let auth = Auth::of_location(r, conf, uri).or_else(|| Auth::begin(r, conf, uri));
        auth.map_or(FAILED, |auth| step(r, auth, conf))
    })
}

fn step(r: Request, auth: &Auth, conf: &'static LocConf) -> ngx_int_t {
    match auth.stage.get() {
        AuthStage::New | AuthStage::Read => match body_of(r).how_to_ask(conf.body as u64) {
            How::Bare => ask(r, auth, conf, None),
            How::ReadFirst if auth.stage.get() == AuthStage::New => read_body(r, auth),
            How::WithBody(size) => {
                preserve_body(r);
                ask(r, auth, conf, Some(size))
            }
            How::TooLarge(size) => refuse(r, size),
            How::ReadFirst | How::BodyIsGone => {
                r.log_error(c"client request body is not there to be authorised");
                error_of(r, FAILED)
            }
        },
        // nginx has given up, and this is the location of its error page: what nobody can be asked about is refused.
        AuthStage::Reading => error_of(r, BAD_REQUEST),
        AuthStage::Asking => NGX_AGAIN as ngx_int_t,
        AuthStage::Done => conclude(r, auth, conf),
    }
}

/// The error for which the request is in this location, by an `error_page`; another one if there is none.
fn error_of(r: Request, otherwise: ngx_int_t) -> ngx_int_t {
    // SAFETY: a live request; reads one field.
    let status = unsafe { (*r.as_ptr()).err_status };
    ngx_int_t::try_from(status).ok().filter(|status| (300..600).contains(status)).unwrap_or(otherwise)
}

/// As nginx says it of `client_max_body_size`.
fn refuse(r: Request, size: u64) -> ngx_int_t {
    let format = c"client intended to send too large body to be authorised: %O bytes";
    let size = off_t::try_from(size).unwrap_or(off_t::MAX);
    // SAFETY: a live log; `%O` takes an `off_t`.
    unsafe { ngx_log_error_core(NGX_LOG_ERR as usize, r.log(), 0, format.as_ptr(), size) };
    TOO_LARGE
}

/// Reads the client's body before anybody is asked, as `ngx_http_mirror_handler()`.
fn read_body(r: Request, auth: &Auth) -> ngx_int_t {
    auth.stage.set(AuthStage::Reading);
    // SAFETY: a live request; it may call the handler at once.
    let rc = or_fail(FAILED, || unsafe { ngx_http_read_client_request_body(r.as_ptr(), Some(body_handler)) });
    if rc >= 300 {
        return rc;
    }
    // SAFETY: reading has counted the request once more, so that it is alive.
    unsafe { ngx_http_finalize_request(r.as_ptr(), NGX_DONE as ngx_int_t) };
    NGX_DONE as ngx_int_t
}

/// The client's body is there.
unsafe extern "C" fn body_handler(r: *mut ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx passes the request that it has read for.
        let Some(request) = (unsafe { Request::from_raw(r) }) else { return };
        if let Some(auth) = Auth::of(request) {
            auth.stage.set(AuthStage::Read);
        }
        // What the location itself does with the body comes later.
        preserve_body(request);
        // SAFETY: a live request; writes one field.
        unsafe { (*r).write_event_handler = Some(ngx_http_core_run_phases) };
        // SAFETY: a live request in the access phase.
        unsafe { ngx_http_core_run_phases(r) };
    });
}

/// The answer is there: what it means for the request.
fn conclude(r: Request, auth: &Auth, conf: &'static LocConf) -> ngx_int_t {
    for variable in conf.set() {
        if set_variable(r, auth, variable).is_none() {
            return FAILED;
        }
    }
    let verdict = auth.answer().verdict(conf.pass_status());
    // An error page and the log do not see what the client has made up.
    if verdict != Verdict::Allow && copy(r, conf.copy_header()).is_none() {
        return FAILED;
    }
    auth.count(match (&verdict, conf.on_error()) {
        (Verdict::Allow, _) => Decision::Allowed,
        (Verdict::Deny(_), _) => Decision::Denied,
        (Verdict::Failure(_), OnError::Allow) => Decision::FailedOpen,
        (_, _) if auth.timed_out.get() => Decision::TimedOut,
        (Verdict::Failure(_) | Verdict::Unexpected(_), _) => Decision::Failed,
    });
    match verdict {
        Verdict::Allow => NGX_OK as ngx_int_t,
        Verdict::Deny(status) => deny(r, auth, conf, status),
        Verdict::Unexpected(status) => {
            let line = if auth.timed_out.get() { TIMED_OUT } else { UNEXPECTED };
            log(r, auth, line, status);
            match conf.on_error() {
                OnError::Status(status) => status as ngx_int_t,
                OnError::Allow => 500,
            }
        }
        Verdict::Failure(status) => fail(r, auth, conf.on_error(), status),
    }
}

/// Nobody has said whether the request may go on.
fn fail(r: Request, auth: &Auth, on_error: OnError, status: u16) -> ngx_int_t {
    let line = match (on_error, auth.timed_out.get()) {
        (OnError::Status(_), true) => TIMED_OUT,
        (OnError::Status(_), false) => UNEXPECTED,
        (OnError::Allow, true) => c"auth subrequest timed out, request is allowed",
        (OnError::Allow, false) => c"auth subrequest unexpected status: %ui, request is allowed",
    };
    log(r, auth, line, status);
    match on_error {
        OnError::Status(status) => status as ngx_int_t,
        OnError::Allow => NGX_OK as ngx_int_t,
    }
}

/// Writes a line, whose only format is one `%ui`, at `error`; once, though the request may be redirected.
fn log(r: Request, auth: &Auth, line: &'static CStr, status: u16) {
    if auth.logged.replace(true) {
        return;
    }
    // SAFETY: a live log; a surplus argument is ignored.
    unsafe {
        ngx_log_error_core(NGX_LOG_ERR as usize, r.log(), 0, line.as_ptr(), ngx_uint_t::from(status));
    }
}

/// As `ngx_http_auth_request_set_variables()`: set explicitly, so that it holds after internal redirects.
fn set_variable(r: Request, auth: &Auth, variable: &SetVariable) -> Option<()> {
    let sub = auth.sub.get()?;
    let mut value = variable.value;
    let mut text = ngx_str_t::empty();
    // SAFETY: the question lives as long as the main request.
    let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
        ngx_http_complex_value(sub.as_ptr(), &raw mut value, &raw mut text)
    });
    if rc != NGX_OK as ngx_int_t {
        return None;
    }
    let place = r.variable(variable.index);
    // SAFETY: of a live request, and nobody else has it now.
    let place_value = unsafe { &mut *place };
    place_value.set_valid(1);
    place_value.set_not_found(0);
    place_value.set_len(text.len as u32);
    place_value.data = text.data;
    if let Some(set_handler) = variable.set_handler {
        let data = variable_data(r, variable.index)?;
        // SAFETY: what nginx's own `set` does with such a variable.
        unsafe { set_handler(r.as_ptr(), place, data) };
    }
    Some(())
}

/// What the definition of an indexed variable has as its data.
fn variable_data(r: Request, index: usize) -> Option<usize> {
    // SAFETY: a live request.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*r.as_ptr() })?;
    // SAFETY: what the array holds.
    let variables: &[ngx_http_variable_t] = unsafe { main.variables.as_slice() };
    variables.get(index).map(|variable| variable.data)
}
