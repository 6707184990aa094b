//! The values of variables on which a decision depends: those that `set` and the names in regular expressions have given. The
//! auth subrequest may use them, so a location that gives other ones needs another decision.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::ngx_http_variable_value_t;

use super::conf::LocConf;
use super::indexed::Indexed;
use super::memory::allocate_for;
use crate::ffi::nginx::request::Request;

/// The values of a request's writable variables at the moment of the decision.
pub(super) struct Settings {
    recorded: Cell<bool>,
    /// A copy in the request's pool; `None` if none of the variables had been used.
    copy: Cell<Option<NonNull<ngx_http_variable_value_t>>>,
}

impl Settings {
    pub(super) const fn new() -> Self {
        Self { recorded: Cell::new(false), copy: Cell::new(None) }
    }

    /// Records the present values. `None` if there is no memory.
    #[inline]
    pub(super) fn record(&self, r: Request, conf: &LocConf) -> Option<()> {
        let writable = &Indexed::in_location(r, conf)?.writable;
        self.recorded.set(true);
        if self.copy.get().is_none() && !writable.iter().any(|index| is_evaluated(value(r, *index))) {
            return Some(());
        }
        self.copy_values(r, writable)
    }

    /// Copies the present values. `None` if there is no memory.
    #[inline(never)]
    fn copy_values(&self, r: Request, writable: &[usize]) -> Option<()> {
        if self.copy.get().is_none() {
            self.copy.set(Some(allocate_for::<ngx_http_variable_value_t>(r, writable.len())?));
        }
        let copy = self.copy.get()?;
        for (at, index) in writable.iter().enumerate() {
            // SAFETY: the copy was allocated with an element for each writable variable.
            let place = unsafe { copy.add(at) };
            // SAFETY: a value of the live request, and nobody writes it while this runs.
            let value = unsafe { r.variable(*index).read() };
            // SAFETY: an element of the copy.
            unsafe { place.write(value) };
        }
        Some(())
    }

    /// Whether no variable has got a value that differs from the recorded one, or, without one, from the value that the auth
    /// subrequest `sub` has used. True if nothing was recorded.
    pub(super) fn are_as_in(&self, r: Request, sub: Option<Request>) -> bool {
        let Some(indexed) = Indexed::of(r).filter(|_| self.recorded.get()) else { return true };
        indexed.writable.iter().enumerate().all(|(at, index)| {
            // SAFETY: the copy has an element for each writable variable.
            let recorded = self.copy.get().map(|copy| unsafe { copy.add(at) });
            // SAFETY: `record` has written the element, and nobody writes it while this runs.
            let recorded = recorded.map(|recorded| unsafe { recorded.as_ref() });
            let used = sub.map(|sub| value(sub, *index));
            let before = [recorded, used].into_iter().flatten().find(|value| is_evaluated(value));
            let present = value(r, *index);
            // nginx marks a value that it computes anew for each use; a value that was written has no mark.
            let is_computed = present.valid() == 0 || present.no_cacheable() != 0;
            is_computed || before.is_none_or(|before| text(before) == text(present))
        })
    }
}

/// The value of an indexed variable. The reference is not used once nginx, or anything that writes variables, is called.
fn value<'a>(r: Request, index: usize) -> &'a ngx_http_variable_value_t {
    // SAFETY: a value of a live request (a subrequest lives as long as its main request); nobody writes it meanwhile.
    unsafe { &*r.variable(index) }
}

fn is_evaluated(value: &ngx_http_variable_value_t) -> bool {
    value.valid() != 0 || value.not_found() != 0
}

/// The bytes of a value; empty if it has none.
fn text(value: &ngx_http_variable_value_t) -> &[u8] {
    if value.valid() == 0 || value.not_found() != 0 || value.len() == 0 {
        return &[];
    }
    // SAFETY: a valid value points at `len` bytes, which live as long as the request.
    unsafe { std::slice::from_raw_parts(value.data, value.len() as usize) }
}
