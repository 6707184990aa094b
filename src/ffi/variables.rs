//! `$upstream_queue_time`: how long each attempt of the request has waited.

use std::fmt;

use nginx_sys::{
    ngx_conf_t, ngx_http_add_variable, ngx_http_request_t, ngx_http_upstream_state_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_pool_t, NGX_ERROR, NGX_HTTP_VAR_NOCACHEABLE, NGX_OK,
};
use ngx::ngx_string;

use crate::times::{self, Attempt};

use super::conf::allocate;
use super::guard::guard;

/// Adds the variable to the configuration being read; `None` if there is no memory.
pub(super) fn add(cf: *mut ngx_conf_t) -> Option<()> {
    let mut name = ngx_string!("upstream_queue_time");
    // SAFETY: the configuration being read; nginx copies the name.
    let variable = unsafe { ngx_http_add_variable(cf, &raw mut name, NGX_HTTP_VAR_NOCACHEABLE as usize) };
    // SAFETY: nginx's answer, null if there is no memory.
    unsafe { variable.as_mut() }?.get_handler = Some(upstream_queue_time);
    Some(())
}

unsafe extern "C" fn upstream_queue_time(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _data: usize,
) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes a live request.
        let states = unsafe { (*r).upstream_states };
        // SAFETY: null, or an array in the request's pool.
        let states: &[ngx_http_upstream_state_t] = unsafe { states.as_ref() }.map_or(&[], |states| {
            // SAFETY: what the array holds.
            unsafe { states.as_slice() }
        });
        // SAFETY: nginx passes a value to be set, and nobody else has it now.
        let value = unsafe { &mut *value };
        // SAFETY: a live request has its pool.
        let pool = unsafe { (*r).pool };
        let attempts =
            states.iter().map(|state| Attempt { peer: !state.peer.is_null(), time: state.queue_time });
        // What nginx reserves for such a value: the time, and a separator.
        // SAFETY: as above.
        let Some(mut text) = (unsafe { Text::new(pool, states.len() * (times::MAX_TIME + 3)) }) else {
            return NGX_ERROR as ngx_int_t;
        };
        if times::write(&mut text, attempts).is_err() {
            return NGX_ERROR as ngx_int_t;
        }
        text.give(value);
        value.set_not_found(states.is_empty().into());
        NGX_OK as ngx_int_t
    })
}

/// Memory to write the value of a variable to.
pub(super) struct Text {
    start: *mut u8,
    length: usize,
    room: usize,
}

impl Text {
    /// # Safety
    /// `pool` is live.
    pub(super) unsafe fn new(pool: *mut ngx_pool_t, room: usize) -> Option<Self> {
        // SAFETY: live, says the caller.
        let memory = unsafe { allocate::<u8>(pool, room.max(1)) }?;
        Some(Self { start: memory.as_ptr().cast(), length: 0, room })
    }

    /// Makes it the value of a variable.
    pub(super) fn give(self, value: &mut ngx_http_variable_value_t) {
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
