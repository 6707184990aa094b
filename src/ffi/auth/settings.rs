//! The values of variables on which a decision depends: those that `set` and the names in regular expressions have given. The
//! auth subrequest may use them, so a location that gives other ones needs another decision.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_hash_key_t, ngx_http_variable_t, ngx_http_variable_value_t, NGX_HTTP_VAR_CHANGEABLE,
    NGX_HTTP_VAR_WEAK,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use super::main_conf::MainConf;
use super::memory::allocate_for;
use super::reading::{ConfReader, Slice};
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
        if !any_writable(r, all) {
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

    /// Whether no variable has got a value that differs from the recorded one, or, without one, from the value that the auth
    /// subrequest `sub` has used. True if nothing was recorded.
    pub(super) fn are_as_in(&self, r: Request, sub: Option<Request>) -> bool {
        let Some(copy) = self.0.get() else { return true };
        let set_over_prefix = set_over_prefix(r);
        indexed_variables(r).iter().enumerate().all(|(index, variable)| {
            if !is_writable(index, variable, set_over_prefix) {
                return true;
            }
            // SAFETY: the copy has an element for each indexed variable.
            let recorded = unsafe { copy.add(index) };
            // SAFETY: `record` has written the element, and nobody writes it while this runs.
            let recorded = unsafe { recorded.as_ref() };
            // SAFETY: a value of the live request, and nobody writes it while this runs.
            let present = unsafe { &*r.variable(index) };
            // SAFETY: a value of the auth subrequest, which lives as long as its main request; nobody writes it meanwhile.
            let used = sub.map(|sub| unsafe { &*sub.variable(index) });
            let before = [Some(recorded), used].into_iter().flatten().find(|value| is_evaluated(value));
            // nginx marks a value that it computes anew for each use; a value that was written has no mark.
            let is_computed = present.valid() == 0 || present.no_cacheable() != 0;
            is_computed || before.is_none_or(|before| text(before) == text(present))
        })
    }
}

/// Whether something may write the value of a variable: `set`, a name in a regular expression, another module. nginx may compute
/// it too, if it is used before it is written. (A variable with a set handler, such as `$args`, has no value of its own.)
fn is_writable(index: usize, variable: &ngx_http_variable_t, set_over_prefix: &[usize]) -> bool {
    let is_changeable = variable.flags & NGX_HTTP_VAR_CHANGEABLE as usize != 0;
    variable.set_handler.is_none() && (is_changeable || set_over_prefix.contains(&index))
}

fn any_writable(r: Request, all: &[ngx_http_variable_t]) -> bool {
    let Some(main) = MainConf::of(r) else { return false };
    if let Some(known) = main.any_writable.get() {
        return known;
    }
    let set_over_prefix = set_over_prefix(r);
    let found = all.iter().enumerate().any(|(index, variable)| is_writable(index, variable, set_over_prefix));
    main.any_writable.set(Some(found));
    found
}

/// The variables that `set` writes although their names begin as those that nginx computes (`$http_...`, `$cookie_...`): nginx
/// forgets that they can be written.
fn set_over_prefix(r: Request) -> &'static [usize] {
    MainConf::of(r).map_or(&[], |main| main.set_variables.get().as_slice())
}

/// The indices of all variables that `set` writes and no other directive defines. `None` if there is no memory.
pub(super) fn find_set_variables(cf: ConfReader) -> Option<Slice<usize>> {
    // SAFETY: a handle points at the live `ngx_conf_t`; nothing changes the core's configuration meanwhile.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*cf.as_ptr() })?;
    // SAFETY: null, or the names of the variables, which nginx frees after it has called all `postconfiguration`.
    let Some(names) = (unsafe { main.variables_keys.as_ref() }) else { return Some(Slice::EMPTY) };
    // SAFETY: an array of such names, and nobody adds to it meanwhile.
    let keys: &[ngx_hash_key_t] = unsafe { names.keys.as_slice() };
    // SAFETY: an array of such variables, and nobody adds to it meanwhile.
    let indexed: &[ngx_http_variable_t] = unsafe { main.variables.as_slice() };
    let mut found = Slice::EMPTY;
    for key in keys {
        // SAFETY: the value of each name is its variable, in the pool of the cycle.
        let variable = unsafe { &*key.value.cast::<ngx_http_variable_t>() };
        // `set` notes the index as the data of a variable that has no other source.
        let is_set = variable.flags & NGX_HTTP_VAR_WEAK as usize != 0;
        let name = |index: &usize| indexed.get(*index).map(|variable| variable.name.as_bytes());
        if is_set && name(&variable.data) == Some(variable.name.as_bytes()) {
            found = found.with(cf, variable.data)?;
        }
    }
    Some(found)
}

/// The variables of the configuration that have an index.
fn indexed_variables<'a>(r: Request) -> &'a [ngx_http_variable_t] {
    // SAFETY: a handle points at a live request.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*r.as_ptr() });
    // SAFETY: an array of such variables, which does not change once the configuration is read.
    main.map_or(&[], |main| unsafe { main.variables.as_slice() })
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
