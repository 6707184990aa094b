//! The static by which nginx knows this module.

use nginx_sys::ngx_module_t;

extern "C" {
    /// Defined where the module's callbacks are, in [`crate::ffi::setup::module`], which is above this room.
    static ngx_http_upstream_keepalive_rs_module: ngx_module_t;
}

/// The module's static. nginx writes to it only before it creates any configuration.
pub(crate) fn module() -> &'static ngx_module_t {
    let module = &raw const ngx_http_upstream_keepalive_rs_module;
    // SAFETY: a static of this library. nginx writes its indexes before it calls the module, and nothing writes it after
    // that.
    unsafe { &*module }
}
