//! Servers that come and go (`server NAME resolve`, nginx 1.27.3 and newer): what is known of them.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::ngx_http_upstream_srv_conf_t;

use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::timer::Alarm;

/// Watches the servers of one upstream.
pub(crate) struct Watch {
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    /// The number that the idle connections were last compared with.
    pub(crate) compared: Cell<usize>,
    pub(crate) timer: Alarm,
}

/// Differs from every number that nginx counts to.
pub(crate) const NEVER: usize = usize::MAX;

impl Watch {
    /// For an upstream with a zone whose servers come and go.
    ///
    /// # Safety
    /// `us` is of the cycle in which the watch comes to lie.
    pub(crate) unsafe fn new(us: NonNull<ngx_http_upstream_srv_conf_t>) -> Self {
        Self { us, compared: Cell::new(NEVER), timer: Alarm::new() }
    }

    /// The number of the present set of servers.
    pub(crate) fn generation(&self) -> usize {
        self.servers().and_then(Servers::generation).unwrap_or(NEVER)
    }

    pub(crate) fn servers(&self) -> Option<Servers> {
        // SAFETY: the upstream is part of the cycle in which this watch lies.
        unsafe { Servers::in_zone(self.us) }
    }
}
