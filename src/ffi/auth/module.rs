//! The module as nginx sees it.

use nginx_sys::{
    ngx_conf_t, ngx_cycle_t, ngx_http_handler_pt, ngx_http_module_t,
    ngx_http_phases_NGX_HTTP_ACCESS_PHASE as ACCESS_PHASE, ngx_http_phases_NGX_HTTP_LOG_PHASE as LOG_PHASE,
    ngx_http_phases_NGX_HTTP_PREACCESS_PHASE as PREACCESS_PHASE,
    ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE as PRECONTENT_PHASE,
    ngx_http_phases_NGX_HTTP_REWRITE_PHASE as REWRITE_PHASE, ngx_int_t, ngx_module_t, NGX_ERROR,
    NGX_HTTP_MODULE, NGX_OK,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use super::access::auth_subrequest_handler;
pub(in super::super) use super::answers::Refused;
use super::answers::{self, entry_handler};
use super::client_headers::{log_handler, note_location_handler};
use super::conf::{LocConf, MainConf};
use super::copy::copy_headers_handler;
use super::directives::COMMANDS;
use super::indexed::find_set_variables;
use super::reading::ConfReader;
use super::server::AuthSrvConf;
use super::variables;
use super::{discard, filters};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::push_to_array;
use crate::ffi::nginx::process::Cycle;

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(MainConf::create),
    init_main_conf: None,
    create_srv_conf: Some(AuthSrvConf::create),
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
    // SAFETY: a static of this library, and nginx has written its index before any caller can run.
    unsafe { &*module }
}

unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || status(variables::add(cf)))
}

/// Adds the handlers of the access and precontent phases, each only if some location needs it: a handler costs time in every
/// request.
unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx calls this with the configuration being read.
        let cf = unsafe { ConfReader::from_ptr(cf) };
        let Some(main) = MainConf::read_by(cf) else { return NGX_ERROR as ngx_int_t };
        if main.authorises.get() {
            let Some(found) = find_set_variables(cf) else { return NGX_ERROR as ngx_int_t };
            main.set_variables.get_or_init(|| found);
        }
        let add = |is_needed: bool, phase: u32, handler| {
            if is_needed {
                add_handler(cf, phase, handler)
            } else {
                Some(())
            }
        };
        let access = add(main.authorises.get(), ACCESS_PHASE, Some(auth_subrequest_handler));
        status(access.and_then(|()| add(main.copies.get(), PRECONTENT_PHASE, Some(copy_headers_handler))))
    })
}

/// Adds the handlers that must run before nginx's own handlers of their phases. A phase runs its handlers in reverse order,
/// and nginx's modules add theirs after this module; so the upstream module, which comes after them all, calls this.
///
/// # Errors
/// If there is no memory, or who answers an auth subrequest cannot be.
pub(in super::super) fn add_first_handlers(cf: *mut ngx_conf_t) -> Result<(), Refused> {
    // SAFETY: the caller is the postconfiguration of the upstream module, which nginx calls with the configuration.
    let cf = unsafe { ConfReader::from_ptr(cf) };
    let main = MainConf::read_by(cf).ok_or(Refused::NoMemory)?;
    if main.authorises.get() && answers::check(cf)? {
        add_handler(cf, PREACCESS_PHASE, Some(entry_handler)).ok_or(Refused::NoMemory)?;
    }
    if !main.copies.get() {
        return Ok(());
    }
    add_copying_handlers(cf).ok_or(Refused::NoMemory)
}

/// Adds the handlers of `auth_subrequest_copy_header`.
fn add_copying_handlers(cf: ConfReader) -> Option<()> {
    add_handler(cf, REWRITE_PHASE, Some(note_location_handler))?;
    add_handler(cf, LOG_PHASE, Some(log_handler))?;
    // SAFETY: a handle points at the live `ngx_conf_t`; nothing else refers to the core's configuration meanwhile.
    let main = unsafe { NgxHttpCoreModule::main_conf_mut(&*cf.as_ptr()) }?;
    // The log phase is the only one that runs its handlers in the order of the array.
    let handlers = &main.phases[LOG_PHASE as usize].handlers;
    // SAFETY: the array holds `nelts` handlers, and nginx does not use it before it has read the configuration.
    let handlers = unsafe {
        std::slice::from_raw_parts_mut(handlers.elts.cast::<ngx_http_handler_pt>(), handlers.nelts)
    };
    handlers.rotate_right(1);
    Some(())
}

fn add_handler(cf: ConfReader, phase: u32, handler: ngx_http_handler_pt) -> Option<()> {
    // SAFETY: a handle points at the live `ngx_conf_t`; nothing else refers to the core's configuration meanwhile.
    let main = unsafe { NgxHttpCoreModule::main_conf_mut(&*cf.as_ptr()) }?;
    let handlers = &raw mut main.phases[phase as usize].handlers;
    // SAFETY: nginx has created the array, of such elements, before it calls any `postconfiguration`.
    let place = unsafe { push_to_array::<ngx_http_handler_pt>(handlers) }?;
    // SAFETY: the new element of the array, which nobody else uses.
    unsafe { place.write(handler) };
    Some(())
}

/// Puts our filters before all others. nginx chains its filters anew with each configuration, so each worker does this.
unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx calls this with the cycle of the worker, which is live.
        if let Some(main) = unsafe { MainConf::of_cycle(cycle) }.filter(|main| main.authorises.get()) {
            discard::install();
            // SAFETY: nginx calls this with the cycle of the worker, which is live.
            filters::install(unsafe { Cycle::from_ptr(cycle) }, main.captures.get(), main.sets.get());
        }
        NGX_OK as ngx_int_t
    })
}

fn status(done: Option<()>) -> ngx_int_t {
    done.map_or(NGX_ERROR as ngx_int_t, |()| NGX_OK as ngx_int_t)
}
