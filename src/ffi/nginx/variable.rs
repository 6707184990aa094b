//! Variables: how one is added to nginx, and how its value is written.

use std::fmt;

use nginx_sys::{
    ngx_conf_t, ngx_http_add_variable, ngx_http_get_variable_pt, ngx_http_variable_value_t, ngx_pool_t,
    ngx_str_t, NGX_HTTP_VAR_NOCACHEABLE,
};

use super::handle::{set_field, Live};
use super::memory::{or_fail, Pool};

/// Adds a variable to the configuration being read; `None` if there is no memory.
pub(crate) fn add_one(
    cf: *mut ngx_conf_t,
    mut name: ngx_str_t,
    handler: ngx_http_get_variable_pt,
) -> Option<()> {
    // SAFETY: `cf` is the configuration being read; nginx copies the name.
    let variable = or_fail(std::ptr::null_mut(), || unsafe {
        ngx_http_add_variable(cf, &raw mut name, NGX_HTTP_VAR_NOCACHEABLE as usize)
    });
    // SAFETY: null, or a variable in the configuration being read.
    let variable = unsafe { Live::from_ptr(variable) }?;
    set_field!(variable.get_handler = handler);
    Some(())
}

/// Memory of a fixed size, to which the value of a variable is written.
pub(crate) struct VariableText {
    start: *mut u8,
    length: usize,
    room: usize,
}

impl VariableText {
    /// Allocates `room` bytes; `None` if there is no memory.
    ///
    /// # Safety
    /// `pool` is live.
    pub(crate) unsafe fn new(pool: *mut ngx_pool_t, room: usize) -> Option<Self> {
        // SAFETY: the caller says that the pool is live.
        let memory = unsafe { Pool::from_ptr(pool) }?.allocate::<u8>(room.max(1))?;
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

impl fmt::Write for VariableText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let length = self.length.checked_add(text.len()).filter(|length| *length <= self.room);
        // SAFETY: `length` is at most `room`, so this is within the memory or at its end.
        let to = unsafe { self.start.add(self.length) };
        self.length = length.ok_or(fmt::Error)?;
        // SAFETY: the text ends within the memory, as was checked, and does not lie in it.
        unsafe { to.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        Ok(())
    }
}
