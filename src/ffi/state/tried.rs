//! The servers that have failed for a request: what the balancer knows, and would not know any more when
//! the request, after a wait, is new to it.

use std::ptr::NonNull;

use nginx_sys::{ngx_http_upstream_srv_conf_t, ngx_pool_t, ngx_uint_t};

use crate::ffi::nginx::balancer::{Balancer, Servers};
use crate::ffi::nginx::memory::allocate;

/// The servers that round robin has tried for a request, backup servers not included.
pub(crate) struct Tried {
    servers: Servers,
    /// Of which set of servers, if they change.
    #[cfg(nginx_resolve)]
    config: ngx_uint_t,
    /// A bit for each, in the request's pool.
    words: NonNull<usize>,
    length: usize,
}

impl Tried {
    /// # Safety
    /// `us` is an upstream whose cycle is alive; `balancer` is its, of a live request; `pool` is the
    /// request's.
    pub(crate) unsafe fn of(
        us: NonNull<ngx_http_upstream_srv_conf_t>,
        balancer: Balancer,
        pool: *mut ngx_pool_t,
    ) -> Option<NonNull<Self>> {
        let data = balancer.round_robin()?;
        // SAFETY: the caller's promise.
        let servers = unsafe { Servers::of(us, balancer) }?;
        // SAFETY: round robin's part of the request, which is alive.
        let of_request = unsafe { (*data.as_ptr()).peers };
        let (number, _config) = servers.number();
        // SAFETY: as above.
        #[cfg(nginx_resolve)]
        let config = unsafe { (*data.as_ptr()).config };
        #[cfg(nginx_resolve)]
        if config != _config {
            return None;
        }
        if !servers.is_at(of_request) {
            return None;
        }
        let length = number.div_ceil(usize::BITS as usize);
        // SAFETY: the pool of a live request.
        let words = unsafe { allocate::<usize>(pool, length) }?.cast::<usize>();
        // SAFETY: as above.
        let tried: *const usize = unsafe { (*data.as_ptr()).tried };
        // SAFETY: round robin has a bit for each server; the memory is new, and as long.
        unsafe { words.as_ptr().copy_from_nonoverlapping(tried, length) };
        let this = Self {
            servers,
            #[cfg(nginx_resolve)]
            config,
            words,
            length,
        };
        // SAFETY: the pool of a live request.
        let memory = unsafe { allocate::<Self>(pool, 1) }?.cast::<Self>();
        // SAFETY: allocated just now.
        unsafe { memory.write(this) };
        Some(memory)
    }

    /// Lets the balancer know, for the same request, if its servers are still the same.
    pub(crate) fn give(&self, balancer: Balancer) {
        let Some(data) = balancer.round_robin() else { return };
        // SAFETY: round robin's part of a request that it has just initialised.
        let same = self.servers.is_at(unsafe { (*data.as_ptr()).peers });
        #[cfg(nginx_resolve)]
        // SAFETY: as above.
        let same = same && unsafe { (*data.as_ptr()).config == self.config };
        if same {
            // SAFETY: as above.
            let tried: *mut usize = unsafe { (*data.as_ptr()).tried };
            // SAFETY: the servers are the same, and so is their number.
            unsafe { tried.copy_from_nonoverlapping(self.words.as_ptr(), self.length) };
        }
    }

    /// Whether these are still the servers of which it tells: they, in this set.
    pub(crate) fn is_of(&self, servers: Servers, _set: ngx_uint_t) -> bool {
        #[cfg(nginx_resolve)]
        if self.config != _set {
            return false;
        }
        servers == self.servers
    }

    /// A bit for each server.
    pub(crate) fn words(&self) -> &[usize] {
        // SAFETY: initialised by `of`, in the pool of the live request; nobody writes them again.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length) }
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        const BITS: usize = usize::BITS as usize;
        self.words().get(number / BITS).is_some_and(|word| word & 1 << (number % BITS) != 0)
    }
}
