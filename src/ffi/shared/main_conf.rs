//! The main configuration: what the workers of one configuration share, and when it is made.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_conf_t, ngx_core_conf_t, ngx_core_module, ngx_cycle_t, ngx_int_t, ngx_process, ngx_worker, NGX_OK,
    NGX_PROCESS_SINGLE, NGX_PROCESS_WORKER,
};
use ngx::http::HttpModuleConfExt;

use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::memory::place_in_pool;
use crate::ffi::nginx::request::Request;
use crate::ffi::setup::module::module;
use crate::ffi::shared::counters::Zone;
use crate::ffi::shared::workers::Workers;

/// One for each configuration.
#[derive(Default)]
pub(crate) struct MainConf {
    pub(crate) workers: Workers,
    pub(crate) zone: Zone,
}

impl MainConf {
    /// nginx's `create_main_conf`.
    pub(crate) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        guard(ptr::null_mut(), || {
            // SAFETY: nginx passes the configuration being read.
            let pool = unsafe { (*cf).pool };
            // SAFETY: the new cycle's pool.
            let main = unsafe { place_in_pool(pool, Self::default()) };
            main.map_or(ptr::null_mut(), |main| main.as_ptr().cast())
        })
    }

    /// That of the configuration being read.
    ///
    /// # Safety
    /// `cf` is it.
    pub(crate) unsafe fn of_conf<'a>(cf: *mut ngx_conf_t) -> Option<&'a Self> {
        // SAFETY: live, says the caller.
        let cf = unsafe { &*cf };
        // SAFETY: what `create` has made.
        let main: Option<NonNull<Self>> = unsafe { cf.http_main_conf_unchecked(module()) };
        // SAFETY: only ever shared.
        main.map(|main| unsafe { main.as_ref() })
    }

    /// That of a request.
    pub(crate) fn of<'a>(r: Request) -> Option<&'a Self> {
        // SAFETY: a live request.
        let r = unsafe { &*r.as_ptr() };
        // SAFETY: what `create` has made.
        let main: Option<NonNull<Self>> = unsafe { r.http_main_conf_unchecked(module()) };
        // SAFETY: only ever shared; its cycle outlives the request.
        main.map(|main| unsafe { main.as_ref() })
    }

    /// That of a cycle; `None` if it has no `http {}`.
    ///
    /// # Safety
    /// `cycle` is live and its configuration has been read.
    pub(crate) unsafe fn of_cycle<'a>(cycle: *mut ngx_cycle_t) -> Option<&'a Self> {
        // SAFETY: live, says the caller.
        let cycle = unsafe { &*cycle };
        // SAFETY: what `create` has made.
        let main: Option<NonNull<Self>> = unsafe { cycle.http_main_conf_unchecked(module()) };
        // SAFETY: only ever shared.
        main.map(|main| unsafe { main.as_ref() })
    }
}

/// In the master, when the configuration has been read: an error here would end it, and with it the workers of the
/// configuration before.
pub(crate) unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        // SAFETY: nginx passes the new cycle.
        let Some(main) = (unsafe { MainConf::of_cycle(cycle) }) else { return NGX_OK as ngx_int_t };
        // SAFETY: as above; the core module has its configuration at its index.
        let number = unsafe { worker_processes(cycle) };
        // SAFETY: as above.
        unsafe { main.workers.open(cycle, number) };
        // SAFETY: as above.
        unsafe { main.zone.open(cycle, number) };
        NGX_OK as ngx_int_t
    })
}

/// How many workers there will be; 1 if it is not known yet.
///
/// # Safety
/// `cycle` is live, and the core module has its configuration.
pub(crate) unsafe fn worker_processes(cycle: *mut ngx_cycle_t) -> usize {
    // SAFETY: live, says the caller.
    let confs = unsafe { (*cycle).conf_ctx };
    // SAFETY: nginx sets it before it reads any configuration.
    let index = unsafe { ngx_core_module.index };
    // SAFETY: a cycle has an element for each module.
    let conf = unsafe { confs.add(index) };
    // SAFETY: as above.
    let core: *mut ngx_core_conf_t = unsafe { *conf }.cast();
    // SAFETY: what the core module has put there.
    let number = unsafe { (*core).worker_processes };
    usize::try_from(number).unwrap_or(1).max(1)
}

/// In each process that nginx starts.
pub(crate) unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        // SAFETY: set by this thread.
        let process = unsafe { ngx_process };
        if process != NGX_PROCESS_WORKER as usize && process != NGX_PROCESS_SINGLE as usize {
            return NGX_OK as ngx_int_t;
        }
        // SAFETY: set by this thread.
        let me = unsafe { ngx_worker };
        // SAFETY: nginx passes the worker's cycle.
        let Some(main) = (unsafe { MainConf::of_cycle(cycle) }) else { return NGX_OK as ngx_int_t };
        // SAFETY: as above.
        unsafe { main.workers.enter(cycle, me) };
        // SAFETY: as above.
        unsafe { main.zone.enter(cycle, me) };
        NGX_OK as ngx_int_t
    })
}
