//! The server configuration: which headers some location of the server copies from answers.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::ngx_conf_t;
use ngx::http::HttpModuleConfExt;

use super::conf::{Copied, Slice};
use super::module::module;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::request::Request;

pub(super) struct SrvConf {
    /// Each name once, as it is written; equal names are the same bytes (see [`super::conf::MainConf::known`]).
    copied: Cell<Slice<Copied>>,
}

impl SrvConf {
    /// nginx's `create_srv_conf`.
    pub(super) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        // SAFETY: nginx passes the configuration being read, whose pool is the new cycle's.
        let pool = unsafe { (*cf).pool };
        // SAFETY: `pool` is live, and `SrvConf` has no destructor to run.
        let Some(memory) = (unsafe { allocate::<SrvConf>(pool, 1) }) else { return ptr::null_mut() };
        // SAFETY: allocated above for a `SrvConf`.
        unsafe { memory.cast::<SrvConf>().write(SrvConf { copied: Cell::new(Slice::EMPTY) }) };
        memory.as_ptr().cast()
    }

    /// Adds the list of one of the server's locations. `None` if there is no memory.
    ///
    /// # Safety
    /// `cf` is the configuration being read, and nginx merges the location.
    pub(super) unsafe fn add(cf: *mut ngx_conf_t, list: &[Copied]) -> Option<()> {
        // SAFETY: live, says the caller.
        let conf = unsafe { &*cf };
        // SAFETY: while nginx merges a location, `cf` leads to the configuration of its server; `create` has made it.
        let server: Option<NonNull<Self>> = unsafe { conf.http_server_conf_unchecked(module()) };
        // SAFETY: only ever shared.
        let copied = unsafe { &server?.as_ref().copied };
        for header in list {
            if !copied.get().as_slice().iter().any(|known| known.is_named(header.name.data)) {
                // SAFETY: the pool of the new cycle.
                copied.set(unsafe { copied.get().with(conf.pool, *header) }?);
            }
        }
        Some(())
    }

    /// All that locations of the request's server copy.
    pub(super) fn copied<'a>(r: Request) -> &'a [Copied] {
        // SAFETY: a live request.
        let r = unsafe { &*r.as_ptr() };
        // SAFETY: `create` made what lies at this module's index.
        let conf: Option<NonNull<Self>> = unsafe { r.http_server_conf_unchecked(module()) };
        // SAFETY: nginx has one for each server; nobody changes it after the configuration was read.
        conf.map_or(&[], |conf| unsafe { conf.as_ref() }.copied.get().as_slice())
    }
}
