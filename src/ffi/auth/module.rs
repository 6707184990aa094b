//! The module as nginx sees it.

use nginx_sys::{
    ngx_conf_t, ngx_cycle_t, ngx_http_handler_pt, ngx_http_module_t,
    ngx_http_phases_NGX_HTTP_ACCESS_PHASE as ACCESS_PHASE, ngx_http_phases_NGX_HTTP_LOG_PHASE as LOG_PHASE,
    ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE as PRECONTENT_PHASE,
    ngx_http_phases_NGX_HTTP_REWRITE_PHASE as REWRITE_PHASE, ngx_int_t, ngx_module_t, NGX_ERROR,
    NGX_HTTP_MODULE, NGX_OK,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use super::access::auth_subrequest_handler;
use super::client_headers::{log_handler, note_location_handler};
use super::conf::{LocConf, MainConf};
use super::copy::copy_headers_handler;
use super::directives::COMMANDS;
use super::server::SrvConf;
use super::variables;
use super::{discard, filters};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::memory::push_to_array;

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(MainConf::create),
    init_main_conf: None,
    create_srv_conf: Some(SrvConf::create),
    merge_srv_conf: None,
    create_loc_conf: Some(LocConf::create),
    merge_loc_conf: Some(LocConf::merge),
};

/// nginx writes its index and its name.
#[no_mangle]
pub(crate) static mut ngx_http_auth_subrequest_module: ngx_module_t = ngx_module_t {
    ctx: (&raw const CONTEXT).cast_mut().cast(),
    commands: (&raw mut COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as _,
    init_process: Some(init_process),
    ..ngx_module_t::default()
};

/// The module's static; nginx writes to it only before it creates any configuration.
pub(super) fn module() -> &'static ngx_module_t {
    let module = &raw const ngx_http_auth_subrequest_module;
    // SAFETY: see above.
    unsafe { &*module }
}

unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || status(variables::add(cf)))
}

/// Takes its place among the handlers of two phases, where each of them costs every request something.
unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes the configuration being read.
        let Some(main) = (unsafe { MainConf::of_conf(cf) }) else { return NGX_ERROR as ngx_int_t };
        let add = |key: bool, phase: u32, handler| {
            if key {
                add_handler(cf, phase as usize, handler)
            } else {
                Some(())
            }
        };
        let access = add(main.asks.get(), ACCESS_PHASE, Some(auth_subrequest_handler));
        status(access.and_then(|()| add(main.copies.get(), PRECONTENT_PHASE, Some(copy_headers_handler))))
    })
}

/// The handlers that must come before nginx's own of their phases. Handlers run from the last one to the first, and this
/// module stands before nginx's: so the other one calls this, which stands behind them.
pub(in super::super) fn add_first_handlers(cf: *mut ngx_conf_t) -> Option<()> {
    // SAFETY: nginx passes the configuration being read to our caller.
    if !unsafe { MainConf::of_conf(cf) }?.copies.get() {
        return Some(());
    }
    add_handler(cf, REWRITE_PHASE as usize, Some(note_location_handler))?;
    add_handler(cf, LOG_PHASE as usize, Some(log_handler))?;
    // SAFETY: as above.
    let main = unsafe { NgxHttpCoreModule::main_conf_mut(&*cf) }?;
    // Only those of the last phase run in their order.
    let handlers = &main.phases[LOG_PHASE as usize].handlers;
    // SAFETY: what the array holds; nobody else has it now.
    let handlers = unsafe {
        std::slice::from_raw_parts_mut(handlers.elts.cast::<ngx_http_handler_pt>(), handlers.nelts)
    };
    handlers.rotate_right(1);
    Some(())
}

fn add_handler(cf: *mut ngx_conf_t, phase: usize, handler: ngx_http_handler_pt) -> Option<()> {
    // SAFETY: nginx passes the configuration being read to our callers.
    let main = unsafe { NgxHttpCoreModule::main_conf_mut(&*cf) }?;
    let handlers = &raw mut main.phases[phase].handlers;
    // SAFETY: nginx has made the array before it calls `postconfiguration`.
    let place = unsafe { push_to_array::<ngx_http_handler_pt>(handlers) }?;
    // SAFETY: a new element of the array.
    unsafe { place.write(handler) };
    Some(())
}

/// Filters are chained anew for each configuration, so that each worker puts ours before them.
unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes the worker's cycle.
        if let Some(main) = unsafe { MainConf::of_cycle(cycle) }.filter(|main| main.asks.get()) {
            discard::install();
            filters::install(main.captures.get());
        }
        NGX_OK as ngx_int_t
    })
}

fn status(done: Option<()>) -> ngx_int_t {
    done.map_or(NGX_ERROR as ngx_int_t, |()| NGX_OK as ngx_int_t)
}
