//! The server configuration: what the directives of one `upstream` wrote, and its pool.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_conf_t, ngx_flag_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_msec_t, ngx_palloc, ngx_pcalloc,
    ngx_pool_cleanup_add, ngx_pool_t, ngx_uint_t,
};
use ngx::http::HttpModuleConfExt;

use crate::directive::{Keepalive, KeepaliveDrain, KeepaliveHint, Queue};
use crate::lifetime::Limits;
use crate::stale::StaleRetry;

use super::constants;
use super::module::module;
use super::upstream::Upstream;

/// nginx's slot setters write the numbers by their offset, so the layout is C's.
#[repr(C)]
pub(crate) struct SrvConf {
    max_cached: ngx_uint_t,
    local: bool,
    per_server: bool,
    pub(super) requests: ngx_int_t,
    pub(super) time: ngx_msec_t,
    pub(super) timeout: ngx_msec_t,
    pub(super) check: ngx_flag_t,
    pub(super) stale_fails: ngx_flag_t,
    pub(super) queue: Option<Queue>,
    pub(super) drain: Option<KeepaliveDrain>,
    pub(super) hint: Option<KeepaliveHint>,
    pub(super) stale_retry: Option<StaleRetry>,
    /// Null while the upstream has no pool.
    pub(super) upstream: *const Upstream,
}

const UNSET_UINT: ngx_uint_t = constants::CONF_UNSET_UINT as ngx_uint_t;
const UNSET_NUMBER: ngx_int_t = UNSET_UINT as ngx_int_t;
const UNSET_MSEC: ngx_msec_t = constants::CONF_UNSET_MSEC as ngx_msec_t;

impl SrvConf {
    /// Mirrors `ngx_http_upstream_keepalive_create_conf()`.
    pub(super) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        // SAFETY: nginx passes the configuration being read, whose pool is the new cycle's.
        let pool = unsafe { (*cf).pool };
        let conf = SrvConf {
            max_cached: UNSET_UINT,
            local: false,
            per_server: false,
            requests: UNSET_NUMBER,
            time: UNSET_MSEC,
            timeout: UNSET_MSEC,
            check: UNSET_NUMBER,
            stale_fails: UNSET_NUMBER,
            queue: None,
            drain: None,
            hint: None,
            stale_retry: None,
            upstream: ptr::null(),
        };
        // SAFETY: `pool` is live, and `SrvConf` has no destructor to run.
        let memory = unsafe { ngx_pcalloc(pool, size_of::<SrvConf>()) }.cast::<SrvConf>();
        if !memory.is_null() {
            // SAFETY: freshly allocated, large enough, and aligned as all of nginx's pool memory.
            unsafe { memory.write(conf) };
        }
        memory.cast()
    }

    /// The configuration of an upstream; `None` for an implicit one, which has no `upstream {}`.
    ///
    /// # Safety
    /// `us` is live, and so is its cycle.
    pub(super) unsafe fn of(us: *mut ngx_http_upstream_srv_conf_t) -> Option<NonNull<SrvConf>> {
        // SAFETY: live, says the caller.
        let us = unsafe { &*us };
        // SAFETY: `create` made what lies at this module's index.
        unsafe { us.http_server_conf_unchecked(module()) }
    }

    /// The value of `keepalive`, if it was written.
    pub(super) fn keepalive(&self) -> Option<Keepalive> {
        (self.max_cached != UNSET_UINT).then_some(Keepalive {
            connections: self.max_cached,
            local: self.local,
            per_server: self.per_server,
        })
    }

    pub(super) fn set_keepalive(&mut self, value: Keepalive) {
        self.max_cached = value.connections;
        self.local = value.local;
        self.per_server = value.per_server;
    }

    /// The limits, with nginx's defaults: 1000 requests, 1 hour, 60 seconds.
    pub(super) fn limits(&self) -> Limits {
        let or = |value: ngx_msec_t, default| if value == UNSET_MSEC { default } else { value };
        Limits {
            requests: if self.requests == UNSET_NUMBER { 1000 } else { self.requests as usize },
            time: or(self.time, 3_600_000),
            timeout: or(self.timeout, 60_000),
            margin: self.hint.unwrap_or_default().margin,
        }
    }

    /// `keepalive_check`, on by default.
    pub(super) fn check(&self) -> bool {
        self.check != 0
    }

    /// `keepalive_stale_fails`, off by default.
    pub(super) fn stale_fails(&self) -> bool {
        self.stale_fails == 1
    }
}

/// Uninitialised memory for `count` values from a pool of nginx; `None` if there is none.
///
/// # Safety
/// `pool` is live.
pub(super) unsafe fn allocate<T>(pool: *mut ngx_pool_t, count: usize) -> Option<NonNull<MaybeUninit<T>>> {
    const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
    let size = size_of::<T>().checked_mul(count)?;
    // SAFETY: live, says the caller.
    NonNull::new(unsafe { ngx_palloc(pool, size) }.cast())
}

/// Moves a value into a pool of nginx; it is dropped when nginx destroys the pool.
///
/// # Safety
/// `pool` is live.
pub(super) unsafe fn place_in_pool<T>(pool: *mut ngx_pool_t, value: T) -> Option<NonNull<T>> {
    unsafe extern "C" fn drop_value<T>(data: *mut c_void) {
        // SAFETY: `data` is the value written below, which nobody else drops.
        unsafe { data.cast::<T>().drop_in_place() };
    }
    // SAFETY: live, says the caller.
    let memory = unsafe { allocate::<T>(pool, 1) }?.cast::<T>();
    // SAFETY: live, says the caller; no memory of nginx's choosing is asked for.
    let cleanup = NonNull::new(unsafe { ngx_pool_cleanup_add(pool, 0) })?;
    // SAFETY: freshly allocated for a `T`, and aligned, as `allocate` checks.
    unsafe { memory.write(value) };
    // SAFETY: a new cleanup record of the pool.
    unsafe { (*cleanup.as_ptr()).data = memory.as_ptr().cast() };
    // SAFETY: a new cleanup record of the pool.
    unsafe { (*cleanup.as_ptr()).handler = Some(drop_value::<T>) };
    Some(memory)
}
