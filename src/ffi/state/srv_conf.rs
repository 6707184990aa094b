//! The server configuration: the values of the directives of one `upstream`, and its pool.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::{ngx_conf_t, ngx_flag_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_msec_t, ngx_uint_t};
use ngx::http::HttpModuleConfExt;

use crate::directive::{Http2, Keepalive, KeepaliveDrain, KeepaliveHint, Queue};
use crate::reuse::lifetime::Limits;
use crate::reuse::stale::StaleRetry;

use crate::ffi::nginx::constants;
use crate::ffi::nginx::memory::Pool;
use crate::ffi::nginx::this_module::module;
use crate::ffi::state::upstream::Upstream;

/// The server configuration. nginx's slot setters write the numbers by their offset, so the layout is C's.
#[repr(C)]
pub(crate) struct SrvConf {
    max_cached: ngx_uint_t,
    local: bool,
    per_server: bool,
    pub(crate) requests: ngx_int_t,
    pub(crate) time: ngx_msec_t,
    pub(crate) timeout: ngx_msec_t,
    pub(crate) check: ngx_flag_t,
    pub(crate) stale_fails: ngx_flag_t,
    pub(crate) handover: ngx_flag_t,
    pub(crate) ntlm: bool,
    pub(crate) http2: Option<Http2>,
    pub(crate) queue: Option<Queue>,
    pub(crate) drain: Option<KeepaliveDrain>,
    pub(crate) hint: Option<KeepaliveHint>,
    pub(crate) stale_retry: Option<StaleRetry>,
    /// Null while the upstream has no pool.
    pub(crate) upstream: *const Upstream,
}

const UNSET_UINT: ngx_uint_t = constants::CONF_UNSET_UINT as ngx_uint_t;
const UNSET_NUMBER: ngx_int_t = UNSET_UINT as ngx_int_t;
const UNSET_MSEC: ngx_msec_t = constants::CONF_UNSET_MSEC as ngx_msec_t;

impl SrvConf {
    /// Mirrors `ngx_http_upstream_keepalive_create_conf()`.
    pub(crate) unsafe extern "C" fn create(cf: *mut ngx_conf_t) -> *mut c_void {
        // SAFETY: nginx passes the configuration being read.
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
            handover: UNSET_NUMBER,
            ntlm: false,
            http2: None,
            queue: None,
            drain: None,
            hint: None,
            stale_retry: None,
            upstream: ptr::null(),
        };
        // SAFETY: the pool of the new cycle.
        let pool = unsafe { Pool::from_ptr(pool) };
        pool.and_then(|pool| pool.put(conf)).map_or(ptr::null_mut(), |conf| conf.as_ptr().cast())
    }

    /// The configuration of an upstream; `None` for an implicit one, which has no `upstream {}`.
    ///
    /// # Safety
    /// `us` is an upstream whose cycle is alive.
    pub(crate) unsafe fn of(us: *mut ngx_http_upstream_srv_conf_t) -> Option<NonNull<SrvConf>> {
        // SAFETY: the caller says that the cycle of the upstream is alive.
        let us = unsafe { &*us };
        // SAFETY: `create` has made the configuration at the index of this module.
        unsafe { us.http_server_conf_unchecked(module()) }
    }

    /// The value of `keepalive`, if it was written.
    pub(crate) fn keepalive(&self) -> Option<Keepalive> {
        (self.max_cached != UNSET_UINT).then_some(Keepalive {
            connections: self.max_cached,
            local: self.local,
            per_server: self.per_server,
        })
    }

    pub(crate) fn set_keepalive(&mut self, value: Keepalive) {
        self.max_cached = value.connections;
        self.local = value.local;
        self.per_server = value.per_server;
    }

    /// The limits, with nginx's defaults: 1000 requests, 1 hour, 60 seconds.
    pub(crate) fn limits(&self) -> Limits {
        let or = |value: ngx_msec_t, default| if value == UNSET_MSEC { default } else { value };
        let hint = self.hint.unwrap_or_default();
        Limits {
            requests: if self.requests == UNSET_NUMBER { 1000 } else { self.requests as usize },
            time: or(self.time, 3_600_000),
            timeout: or(self.timeout, 60_000),
            margin: hint.margin,
            learns: hint.learns,
        }
    }

    /// The directives that are written and mean nothing without a pool.
    pub(crate) fn written_for_pool(&self) -> impl Iterator<Item = &'static str> + Clone {
        let all = [
            ("keepalive_requests", self.requests != UNSET_NUMBER),
            ("keepalive_time", self.time != UNSET_MSEC),
            ("keepalive_timeout", self.timeout != UNSET_MSEC),
            ("keepalive_drain", self.drain.is_some()),
            ("keepalive_check", self.check != UNSET_NUMBER),
            ("keepalive_hint", self.hint.is_some()),
            ("keepalive_stale_retry", self.stale_retry.is_some()),
            ("keepalive_stale_fails", self.stale_fails != UNSET_NUMBER),
            ("keepalive_handover", self.handover != UNSET_NUMBER),
        ];
        all.into_iter().filter(|(_, is_written)| *is_written).map(|(name, _)| name)
    }

    /// `keepalive_check`, on by default.
    pub(crate) fn check(&self) -> bool {
        self.check != 0
    }

    /// `keepalive_stale_fails`, off by default.
    pub(crate) fn stale_fails(&self) -> bool {
        self.stale_fails == 1
    }

    /// `http2`, off by default.
    pub(crate) fn http2(&self) -> Http2 {
        self.http2.unwrap_or_default()
    }

    /// `keepalive_handover`: that of the upstream, else that of `http {}`, else on.
    pub(crate) fn handover(&self, http: &Self) -> bool {
        match self.handover {
            UNSET_NUMBER => http.handover != 0,
            own => own != 0,
        }
    }
}
