//! The module as nginx sees it: the table of its callbacks, and what `load_module` looks for.

use std::ptr;

use nginx_sys::{ngx_http_module_t, ngx_module_t, NGX_HTTP_MODULE};

use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::srv_conf::SrvConf;

use super::directives::COMMANDS;
use super::{enable, worker};

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(enable::preconfiguration),
    postconfiguration: Some(enable::postconfiguration),
    create_main_conf: Some(MainConf::create),
    init_main_conf: Some(enable::init_main_conf),
    create_srv_conf: Some(SrvConf::create),
    merge_srv_conf: None,
    create_loc_conf: None,
    merge_loc_conf: None,
};

/// The module. nginx writes its index and its name.
#[no_mangle]
pub(crate) static mut ngx_http_upstream_keepalive_rs_module: ngx_module_t = ngx_module_t {
    ctx: (&raw const CONTEXT).cast_mut().cast(),
    commands: (&raw mut COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as _,
    init_module: Some(worker::init_module),
    init_process: Some(worker::init_process),
    exit_process: Some(worker::exit_process),
    ..ngx_module_t::default()
};

/// The tables that nginx's own build generates for a dynamic module. `ngx_modules!` of the crate `ngx` cannot be used, as it
/// leaves the order empty: this module must come before the stock module to be given its directives.
#[cfg(feature = "export-modules")]
mod exports {
    use std::ffi::c_char;

    use super::*;
    use crate::ffi::auth::module::ngx_http_auth_subrequest_module;

    /// The first one is named when the file is loaded twice, so it has the name of the file.
    #[no_mangle]
    static mut ngx_modules: [*const ngx_module_t; 3] = [
        &raw const ngx_http_upstream_keepalive_rs_module,
        &raw const ngx_http_auth_subrequest_module,
        ptr::null(),
    ];

    #[no_mangle]
    static mut ngx_module_names: [*const c_char; 3] = [
        c"ngx_http_upstream_keepalive_rs_module".as_ptr(),
        c"ngx_http_auth_subrequest_module".as_ptr(),
        ptr::null(),
    ];

    /// nginx places each module before all that are named after it. Phase handlers run from the last module to the first, so a
    /// subrequest is sent only if nginx's own access modules have not decided.
    #[no_mangle]
    static mut ngx_module_order: [*const c_char; 7] = [
        c"ngx_http_auth_subrequest_module".as_ptr(),
        c"ngx_http_auth_request_module".as_ptr(),
        c"ngx_http_auth_basic_module".as_ptr(),
        c"ngx_http_access_module".as_ptr(),
        c"ngx_http_upstream_keepalive_rs_module".as_ptr(),
        c"ngx_http_upstream_keepalive_module".as_ptr(),
        ptr::null(),
    ];
}
