//! The values of variables on which a decision depends: those that `set` and the names in regular expressions have given. The
//! auth subrequest may use them, so a location that sets others needs another decision.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_variable_t, ngx_http_variable_value_t, NGX_HTTP_VAR_CHANGEABLE, NGX_HTTP_VAR_NOCACHEABLE,
    NGX_HTTP_VAR_WEAK,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use super::memory::allocate_for;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

/// A copy of a request's indexed variables, in its pool; `None` if nothing was recorded.
pub(super) struct Settings(Cell<Option<NonNull<ngx_http_variable_value_t>>>);

impl Settings {
    pub(super) const fn new() -> Self {
        Self(Cell::new(None))
    }

    /// Records the present values. `None` if there is no memory.
    pub(super) fn record(&self, r: Request) -> Option<()> {
        let all = indexed_variables(r);
        if settable(all).next().is_none() {
            return Some(());
        }
        let copy = match self.0.get() {
            Some(copy) => copy,
            None => allocate_for::<ngx_http_variable_value_t>(r, all.len())?,
        };
        let values = NonNull::new(r.variable(0))?;
        // SAFETY: a request has a value for each indexed variable, and the copy was allocated for as many.
        unsafe { copy.copy_from_nonoverlapping(values, all.len()) };
        self.0.set(Some(copy));
        Some(())
    }

    /// Whether the present values are the recorded ones. True if nothing was recorded.
    pub(super) fn are_as_in(&self, r: Request) -> bool {
        let Some(copy) = self.0.get() else { return true };
        settable(indexed_variables(r)).all(|index| {
            // SAFETY: the copy has an element for each indexed variable.
            let recorded = unsafe { copy.add(index) };
            // SAFETY: `record` has written the element, and nobody writes it while this runs.
            let recorded = unsafe { recorded.as_ref() };
            // SAFETY: a value of the live request, and nobody writes it while this runs.
            let present = unsafe { &*r.variable(index) };
            text(recorded) == text(present)
        })
    }
}

/// The variables of the configuration that have an index.
fn indexed_variables<'a>(r: Request) -> &'a [ngx_http_variable_t] {
    // SAFETY: a handle points at a live request.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*r.as_ptr() });
    // SAFETY: an array of such variables, which does not change once the configuration is read.
    main.map_or(&[], |main| unsafe { main.variables.as_slice() })
}

/// The indices of the variables that have the value last written to them. nginx computes the others (`map`) when they are
/// used, from their `data`: the address of a structure, which is neither 0 nor the index of the variable.
fn settable(all: &[ngx_http_variable_t]) -> impl Iterator<Item = usize> + '_ {
    let is_settable = |index: usize, variable: &ngx_http_variable_t| {
        let has = |flag: u32| variable.flags & flag as usize != 0;
        let is_weak = has(NGX_HTTP_VAR_WEAK);
        has(NGX_HTTP_VAR_CHANGEABLE)
            && !has(NGX_HTTP_VAR_NOCACHEABLE)
            && (is_weak || variable.data == 0 || variable.data == index)
    };
    all.iter()
        .enumerate()
        .filter(move |(index, variable)| is_settable(*index, variable))
        .map(|(index, _)| index)
}

/// The bytes of a value; empty if it has none.
fn text(value: &ngx_http_variable_value_t) -> &[u8] {
    if value.valid() == 0 || value.not_found() != 0 || value.len() == 0 {
        return &[];
    }
    // SAFETY: a valid value points at `len` bytes, which live as long as the request.
    unsafe { std::slice::from_raw_parts(value.data, value.len() as usize) }
}
