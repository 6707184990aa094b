//! The main configuration, with what the workers of one configuration share.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::{ngx_conf_t, ngx_cycle_t, ngx_http_core_loc_conf_t};
use ngx::http::HttpModuleConfExt;

use crate::ffi::nginx::conf_words::Place;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::Pool;
use crate::ffi::nginx::recycler::Recycler;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::this_module::module;
use crate::ffi::state::peer_data::PeerData;

use super::counters::Zone;
use super::inboxes::Mail;
use super::lessons::Learning;
use super::workers::Workers;

/// The main configuration of this module; one for each cycle.
#[derive(Default)]
pub(crate) struct MainConf {
    pub(crate) workers: Workers,
    pub(crate) zone: Zone,
    pub(crate) learning: Learning,
    pub(crate) mail: Mail,
    /// The data of the requests of all upstreams.
    pub(crate) requests: Recycler<PeerData>,
    /// The locations with `keepalive_status`, while the configuration is read.
    pub(crate) status_locations: RefCell<Vec<(NonNull<ngx_http_core_loc_conf_t>, Place)>>,
}

impl MainConf {
    /// nginx's `create_main_conf` of this module.
    pub(crate) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        guard(ptr::null_mut(), || {
            // SAFETY: nginx passes the configuration being read.
            let pool = unsafe { (*cf).pool };
            // SAFETY: the pool of the new cycle.
            let pool = unsafe { Pool::from_ptr(pool) };
            let main = pool.and_then(|pool| pool.place(Self::default()));
            main.map_or(ptr::null_mut(), |main| main.as_ptr().cast())
        })
    }

    /// The main configuration of the configuration being read.
    ///
    /// # Safety
    /// `cf` is the configuration being read.
    pub(crate) unsafe fn of_conf<'a>(cf: *mut ngx_conf_t) -> Option<&'a Self> {
        // SAFETY: the caller says that it is the configuration being read; nothing writes it meanwhile.
        let cf = unsafe { &*cf };
        // SAFETY: `create` has made the configuration at the index of this module.
        let main: Option<NonNull<Self>> = unsafe { cf.http_main_conf_unchecked(module()) };
        // SAFETY: lies in the pool of the new cycle, and is only ever shared.
        main.map(|main| unsafe { main.as_ref() })
    }

    /// The main configuration of a request.
    pub(crate) fn of<'a>(r: Request) -> Option<&'a Self> {
        // SAFETY: live by the invariant of the handle; the reference ends with the next line.
        let r = unsafe { &*r.as_ptr() };
        // SAFETY: `create` has made the configuration at the index of this module.
        let main: Option<NonNull<Self>> = unsafe { r.http_main_conf_unchecked(module()) };
        // SAFETY: lies in the pool of the cycle, which outlives the request, and is only ever shared.
        main.map(|main| unsafe { main.as_ref() })
    }

    /// The main configuration of a cycle; `None` if it has no `http {}`.
    ///
    /// # Safety
    /// `cycle` is live and its configuration has been read.
    pub(crate) unsafe fn of_cycle<'a>(cycle: *mut ngx_cycle_t) -> Option<&'a Self> {
        // SAFETY: the caller says that the cycle is live; the reference ends with the next line.
        let cycle = unsafe { &*cycle };
        // SAFETY: `create` has made the configuration at the index of this module.
        let main: Option<NonNull<Self>> = unsafe { cycle.http_main_conf_unchecked(module()) };
        // SAFETY: lies in the pool of the cycle, which is live, and is only ever shared.
        main.map(|main| unsafe { main.as_ref() })
    }
}
