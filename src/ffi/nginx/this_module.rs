//! The static by which nginx knows this module.

use nginx_sys::ngx_module_t;

extern "C" {
    /// Defined where the module's callbacks are, in [`crate::ffi::setup::module`], which is above this room.
    static mut ngx_http_upstream_keepalive_rs_module: ngx_module_t;
}

/// The module's static.
pub(crate) fn module() -> &'static ngx_module_t {
    let module = &raw const ngx_http_upstream_keepalive_rs_module;
    // SAFETY: a static of this library. nginx writes its name and indexes only while it handles `load_module` and `http {`,
    // when none of our code runs.
    unsafe { &*module }
}
