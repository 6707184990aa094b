//! What can be logged of the attempts of a request: `$upstream_connection_reused`, `$upstream_connection_requests`,
//! `$upstream_keepalive_status`, `$upstream_queue_time`.

use std::fmt::{self, Write};

use nginx_sys::{
    ngx_conf_t, ngx_http_add_variable, ngx_http_get_variable_pt, ngx_http_request_t,
    ngx_http_upstream_state_t, ngx_http_variable_value_t, ngx_int_t, ngx_pool_t, ngx_str_t, NGX_ERROR,
    NGX_HTTP_VAR_NOCACHEABLE, NGX_OK,
};
use ngx::ngx_string;

use crate::base::times::{self, Attempt};

use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::memory::{allocate, or_fail};
use crate::ffi::nginx::request::Request;
use crate::ffi::state::notes::{note_of, Note, Status};

/// Adds the variables to the configuration being read; `None` if there is no memory.
pub(crate) fn add(cf: *mut ngx_conf_t) -> Option<()> {
    add_one(cf, ngx_string!("upstream_connection_reused"), Some(upstream_connection_reused))?;
    add_one(cf, ngx_string!("upstream_connection_requests"), Some(upstream_connection_requests))?;
    add_one(cf, ngx_string!("upstream_keepalive_status"), Some(upstream_keepalive_status))?;
    add_one(cf, ngx_string!("upstream_queue_time"), Some(upstream_queue_time))
}

/// Adds a variable to the configuration being read; `None` if there is no memory.
pub(crate) fn add_one(
    cf: *mut ngx_conf_t,
    mut name: ngx_str_t,
    handler: ngx_http_get_variable_pt,
) -> Option<()> {
    // SAFETY: the configuration being read; nginx copies the name.
    let variable = or_fail(std::ptr::null_mut(), || unsafe {
        ngx_http_add_variable(cf, &raw mut name, NGX_HTTP_VAR_NOCACHEABLE as usize)
    });
    // SAFETY: nginx's answer, null if there is no memory.
    unsafe { variable.as_mut() }?.get_handler = handler;
    Some(())
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
    // SAFETY: as nginx passed them.
    unsafe { list(r, value, |to, _, note| write_or_none(to, note.and_then(reused))) }
}

/// The number of the request on its connection.
unsafe extern "C" fn upstream_connection_requests(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    let requests = |note: Note| Some(note.requests).filter(|requests| *requests > 0);
    // SAFETY: as nginx passed them.
    unsafe { list(r, value, |to, _, note| write_or_none(to, note.and_then(requests))) }
}

/// How the request got its connection.
unsafe extern "C" fn upstream_keepalive_status(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // Without a note there is no pool.
    let status = |note: Option<Note>| note.map_or(Status::Bypass, |note| note.status);
    // SAFETY: as nginx passed them.
    unsafe { list(r, value, |to, _, note| to.write_str(status(note).name())) }
}

/// How long the request has waited for its connection, in seconds with milliseconds.
unsafe extern "C" fn upstream_queue_time(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: as nginx passed them.
    unsafe { list(r, value, |to, state, _| times::write_time(to, state.queue_time)) }
}

fn write_or_none(to: &mut Text, what: Option<impl fmt::Display>) -> fmt::Result {
    match what {
        Some(what) => write!(to, "{what}"),
        None => to.write_char('-'),
    }
}

/// Writes what `one` has to say about each attempt.
///
/// # Safety
/// `r` is a live request, and `value` to be set.
unsafe fn list(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    one: impl Fn(&mut Text, &ngx_http_upstream_state_t, Option<Note>) -> fmt::Result,
) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: live, says the caller.
        let Some(request) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        // SAFETY: live, says the caller.
        let states = unsafe { (*r).upstream_states };
        // SAFETY: null, or an array in the request's pool.
        let states: &[ngx_http_upstream_state_t] = unsafe { states.as_ref() }.map_or(&[], |states| {
            // SAFETY: what the array holds.
            unsafe { states.as_slice() }
        });
        // SAFETY: to be set, says the caller, and nobody else has it now.
        let value = unsafe { &mut *value };
        let attempts = states.iter().enumerate();
        let attempts = attempts.map(|(at, state)| Attempt { peer: !state.peer.is_null(), what: (at, state) });
        // As nginx reserves it for such a value: the longest, and a separator.
        // SAFETY: the pool of a live request.
        let text = unsafe { Text::new(request.pool(), states.len() * (times::MAX_TIME + 3)) };
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

/// Memory to write the value of a variable to.
pub(crate) struct Text {
    start: *mut u8,
    length: usize,
    room: usize,
}

impl Text {
    /// # Safety
    /// `pool` is live.
    pub(crate) unsafe fn new(pool: *mut ngx_pool_t, room: usize) -> Option<Self> {
        // SAFETY: live, says the caller.
        let memory = unsafe { allocate::<u8>(pool, room.max(1)) }?;
        Some(Self { start: memory.as_ptr().cast(), length: 0, room })
    }

    /// Makes it the value of a variable.
    pub(crate) fn give(self, value: &mut ngx_http_variable_value_t) {
        value.set_valid(1);
        value.set_no_cacheable(0);
        value.set_not_found(0);
        value.data = self.start;
        value.set_len(self.length as u32);
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let length = self.length.checked_add(text.len()).filter(|length| *length <= self.room);
        // SAFETY: at most the end of the memory.
        let to = unsafe { self.start.add(self.length) };
        self.length = length.ok_or(fmt::Error)?;
        // SAFETY: there is room, as was just checked.
        unsafe { to.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        Ok(())
    }
}
