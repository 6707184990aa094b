//! This module, as a part of nginx: what tells it from all others.

use nginx_sys::ngx_module_t;

extern "C" {
    /// Defined where the module's callbacks are, in [`crate::ffi::setup::module`], which is above this room.
    static ngx_http_upstream_keepalive_rs_module: ngx_module_t;
}

/// The module's static; nginx writes to it only before it creates any configuration.
pub(crate) fn module() -> &'static ngx_module_t {
    let module = &raw const ngx_http_upstream_keepalive_rs_module;
    // SAFETY: a static of this library; from here on nobody writes to it.
    unsafe { &*module }
}
