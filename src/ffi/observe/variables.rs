//! Variables about the attempts of a request: `$upstream_connection_reused`, `$upstream_connection_requests`,
//! `$upstream_keepalive_status`, `$upstream_http2_stream`, `$upstream_queue_time`.

use std::fmt::{self, Write};

use nginx_sys::{
    ngx_conf_t, ngx_http_request_t, ngx_http_upstream_state_t, ngx_http_variable_value_t, ngx_int_t,
    NGX_ERROR, NGX_OK,
};
use ngx::ngx_string;

use crate::base::times::{self, LoggedAttempt};

use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::get_field;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::variable::{add_one, VariableText};
use crate::ffi::peer::hooks::get_keepalive_peer;
use crate::ffi::state::notes::{self, kept_note_of, Note, Status};
use crate::ffi::state::peer_data::PeerData;

/// Adds the variables to the configuration being read; `None` if there is no memory.
pub(crate) fn add(cf: *mut ngx_conf_t) -> Option<()> {
    add_one(cf, ngx_string!("upstream_connection_reused"), Some(upstream_connection_reused))?;
    add_one(cf, ngx_string!("upstream_connection_requests"), Some(upstream_connection_requests))?;
    add_one(cf, ngx_string!("upstream_keepalive_status"), Some(upstream_keepalive_status))?;
    add_one(cf, ngx_string!("upstream_http2_stream"), Some(upstream_http2_stream))?;
    add_one(cf, ngx_string!("upstream_queue_time"), Some(upstream_queue_time))
}

/// Whether the connection came from the pool: 1 or 0.
unsafe extern "C" fn upstream_connection_reused(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    let reused = |note: Note| match note.requests {
        0 => None,
        requests => Some(u32::from(requests > 1)),
    };
    // SAFETY: nginx passes a live request, and the value to set.
    unsafe { write_attempts(r, value, |to, _, note| write_or_none(to, note.and_then(reused))) }
}

/// The number of the request on its connection.
unsafe extern "C" fn upstream_connection_requests(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    let requests = |note: Note| Some(note.requests).filter(|requests| *requests > 0);
    // SAFETY: nginx passes a live request, and the value to set.
    unsafe { write_attempts(r, value, |to, _, note| write_or_none(to, note.and_then(requests))) }
}

/// How the request got its connection.
unsafe extern "C" fn upstream_keepalive_status(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // Without a note there is no pool.
    let status = |note: Option<Note>| note.map_or(Status::Bypass, |note| note.status);
    // SAFETY: nginx passes a live request, and the value to set.
    unsafe { write_attempts(r, value, |to, _, note| to.write_str(status(note).name())) }
}

/// The number of the stream that the request has, or had (RFC 9113, section 5.1.1).
unsafe extern "C" fn upstream_http2_stream(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    let stream = |note: Note| Some(note.stream).filter(|stream| *stream > 0);
    // SAFETY: nginx passes a live request, and the value to set.
    unsafe { write_attempts(r, value, |to, _, note| write_or_none(to, note.and_then(stream))) }
}

/// How long the request has waited for its connection, in seconds with milliseconds.
unsafe extern "C" fn upstream_queue_time(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a live request, and the value to set.
    unsafe { write_attempts(r, value, |to, state, _| times::write_time(to, state.queue_time)) }
}

fn write_or_none(to: &mut VariableText, what: Option<impl fmt::Display>) -> fmt::Result {
    match what {
        Some(what) => write!(to, "{what}"),
        None => to.write_char('-'),
    }
}

/// Sets the value to what `one` writes about each attempt, with nginx's separators.
///
/// # Safety
/// `r` is a live request, and `value` to be set.
unsafe fn write_attempts(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    one: impl Fn(&mut VariableText, &ngx_http_upstream_state_t, Option<Note>) -> fmt::Result,
) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: the request is live, as the caller promises.
        let Some(request) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let states = get_field!(request.upstream_states);
        // SAFETY: null, or an array in the request's pool.
        let states: &[ngx_http_upstream_state_t] = unsafe { states.as_ref() }.map_or(&[], |states| {
            // SAFETY: nginx makes it as an array of such elements.
            unsafe { states.as_slice() }
        });
        // SAFETY: the caller has it set here, and nobody else uses it meanwhile.
        let value = unsafe { &mut *value };
        let attempts = states.iter().enumerate();
        let attempts =
            attempts.map(|(at, state)| LoggedAttempt { peer: !state.peer.is_null(), what: (at, state) });
        // For each attempt, as nginx does: the longest text, and a separator.
        // SAFETY: the pool of a live request.
        let text = unsafe { VariableText::new(request.pool(), states.len() * (times::MAX_TIME + 3)) };
        let Some(mut text) = text else { return NGX_ERROR as ngx_int_t };
        let written =
            times::write(&mut text, attempts, |to, (at, state)| one(to, state, note_of(request, at)));
        if written.is_err() {
            return NGX_ERROR as ngx_int_t;
        }
        text.give(value);
        value.set_not_found(states.is_empty().into());
        NGX_OK as ngx_int_t
    })
}

/// The note about an attempt of a request, by its place in `r->upstream_states`.
fn note_of(r: Request, attempt: usize) -> Option<Note> {
    let attempt = u16::try_from(attempt).ok()?;
    let note = |kp: &PeerData| {
        // The request may still have the stream of its last attempt.
        kp.extra().stream().and_then(|stream| stream.number()).inspect(|number| kp.notes.had_stream(*number));
        notes::note_of(kp, attempt)
    };
    peer_data(r).and_then(note).or_else(|| kept_note_of(r, attempt))
}

/// The data of the request's present upstream part, if its hooks are ours.
fn peer_data<'a>(r: Request) -> Option<&'a PeerData> {
    let hooks = r.upstream()?.peer().hooks();
    let is_ours = hooks.get.map(|get| get as usize) == Some(get_keepalive_peer as *const () as usize);
    // SAFETY: `init_keepalive_peer` has set it with this hook; it is in the pool of the live request.
    is_ours.then(|| unsafe { PeerData::from_ptr(hooks.data) })
}
