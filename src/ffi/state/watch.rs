//! What is known of servers that come and go (`server NAME resolve`, nginx 1.27.3 and newer).

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::ngx_http_upstream_srv_conf_t;

use crate::ffi::nginx::balancer::Servers;
use crate::ffi::nginx::timer::Alarm;

/// Watches the servers of one upstream.
pub(crate) struct Watch {
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    /// The number of the set of servers with which the idle connections were last compared.
    pub(crate) compared: Cell<usize>,
    pub(crate) timer: Alarm,
}

/// A number that no set of servers has.
pub(crate) const NEVER: usize = usize::MAX;

impl Watch {
    /// For an upstream with a zone whose servers come and go.
    ///
    /// # Safety
    /// `us` belongs to the cycle in whose pool the watch will lie.
    pub(crate) unsafe fn new(us: NonNull<ngx_http_upstream_srv_conf_t>) -> Self {
        Self { us, compared: Cell::new(NEVER), timer: Alarm::new() }
    }

    /// The number of the present set of servers.
    pub(crate) fn generation(&self) -> usize {
        self.servers().and_then(Servers::generation).unwrap_or(NEVER)
    }

    /// The present servers.
    pub(crate) fn servers(&self) -> Option<Servers> {
        // SAFETY: the upstream belongs to the cycle in whose pool this watch lies, as `new` demands.
        unsafe { Servers::in_zone(self.us) }
    }
}
