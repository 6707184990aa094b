//! The modules of a configuration, by their names.

use std::ffi::CStr;

use nginx_sys::ngx_module_t;

use super::handle::get_field;
use super::process::Cycle;

/// The modules of a cycle.
pub(crate) fn modules(cycle: Cycle) -> &'static [*mut ngx_module_t] {
    let (modules, number) = (get_field!(cycle.modules), get_field!(cycle.modules_n));
    // SAFETY: the cycle has `modules_n` modules at `modules`, and does not change them any more. The callers use the slice
    // while the cycle is alive.
    unsafe { std::slice::from_raw_parts(modules, number) }
}

/// The name of the module at an address, in the present configuration.
pub(crate) fn name_of(address: usize) -> Option<&'static [u8]> {
    let module = modules(Cycle::current()).iter().find(|module| module.addr() == address)?;
    Some(name(*module))
}

/// The address of the module with a name, in the present configuration.
pub(crate) fn address_of(wanted: &[u8]) -> Option<usize> {
    modules(Cycle::current()).iter().find(|module| name(**module) == wanted).map(|module| module.addr())
}

/// The name of a module of the present configuration.
pub(crate) fn name(module: *mut ngx_module_t) -> &'static [u8] {
    // SAFETY: a module of the current cycle, in the program or in a library that stays loaded as long as the cycle.
    let name = unsafe { (*module).name };
    if name.is_null() {
        return &[];
    }
    // SAFETY: nginx gives each module a name that ends with a null byte.
    unsafe { CStr::from_ptr(name) }.to_bytes()
}
