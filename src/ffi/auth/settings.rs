//! The values of variables on which a decision depends: those that `set` and the names in regular expressions have given. The
//! auth subrequest may use them, so a location that gives other ones needs another decision.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_hash_key_t, ngx_http_variable_t, ngx_http_variable_value_t, NGX_HTTP_VAR_CHANGEABLE,
    NGX_HTTP_VAR_WEAK,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use crate::base::memory::push;

use super::main_conf::MainConf;
use super::memory::allocate_for;
use super::reading::ConfReader;
use crate::ffi::nginx::handle::Handle as _;
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
    pub(super) fn record(&self, r: Request) -> Option<()> {
        let writable = writable(r)?;
        self.recorded.set(true);
        if self.copy.get().is_none() {
            if !writable.iter().any(|index| is_evaluated(value(r, *index))) {
                return Some(());
            }
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
        let Some(writable) = writable(r).filter(|_| self.recorded.get()) else { return true };
        writable.iter().enumerate().all(|(at, index)| {
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

/// The indices of the variables whose values something may write: `set`, a name in a regular expression, another module. nginx
/// may compute them too, if they are used before they are written. (A variable with a set handler, such as `$args`, has no
/// value of its own.) The first request looks for them. `None` if there is no memory.
fn writable<'a>(r: Request) -> Option<&'a [usize]> {
    let main = MainConf::of(r)?;
    if let Some(known) = main.writable.get() {
        return Some(known);
    }
    let set = main.set_variables.get().map_or(&[][..], Vec::as_slice);
    let mut found = Vec::new();
    for (index, variable) in indexed_variables(r).iter().enumerate() {
        let is_changeable = variable.flags & NGX_HTTP_VAR_CHANGEABLE as usize != 0;
        if variable.set_handler.is_none() && (is_changeable || set.contains(&index)) {
            push(&mut found, index)?;
        }
    }
    Some(main.writable.get_or_init(|| found))
}

/// The indices of the variables that `set` writes and no other directive defines. nginx forgets that they can be written if
/// their names begin as those that it computes (`$http_...`, `$cookie_...`). `None` if there is no memory.
pub(super) fn find_set_variables(cf: ConfReader) -> Option<Vec<usize>> {
    // SAFETY: a handle points at the live `ngx_conf_t`; nothing changes the core's configuration meanwhile.
    let main = NgxHttpCoreModule::main_conf(unsafe { &*cf.as_ptr() })?;
    // SAFETY: null, or the names of the variables, which nginx frees after it has called all `postconfiguration`.
    let Some(names) = (unsafe { main.variables_keys.as_ref() }) else { return Some(Vec::new()) };
    // SAFETY: an array of such names, and nobody adds to it meanwhile.
    let keys: &[ngx_hash_key_t] = unsafe { names.keys.as_slice() };
    // SAFETY: an array of such variables, and nobody adds to it meanwhile.
    let indexed: &[ngx_http_variable_t] = unsafe { main.variables.as_slice() };
    let mut found = Vec::new();
    for key in keys {
        // SAFETY: the value of each name is its variable, in the pool of the cycle.
        let variable = unsafe { &*key.value.cast::<ngx_http_variable_t>() };
        // `set` notes the index as the data of a variable that has no other source.
        let is_set = variable.flags & NGX_HTTP_VAR_WEAK as usize != 0;
        let name = |index: &usize| indexed.get(*index).map(|variable| variable.name.as_bytes());
        if is_set && name(&variable.data) == Some(variable.name.as_bytes()) {
            push(&mut found, variable.data)?;
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
