//! The main configuration: what the workers of one configuration share.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::{ngx_conf_t, ngx_cycle_t};
use ngx::http::HttpModuleConfExt;

use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::place_in_pool;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::this_module::module;

use super::counters::Zone;
use super::workers::Workers;

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
