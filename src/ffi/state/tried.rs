//! The servers that have failed for a request. The balancer knows them, but forgets them when it is initialised again
//! after a wait.

use std::ptr::NonNull;

use nginx_sys::{ngx_http_upstream_srv_conf_t, ngx_pool_t, ngx_uint_t};

use crate::ffi::nginx::balancer::{Balancer, Servers};
use crate::ffi::nginx::handle::get_field;
use crate::ffi::nginx::memory::Pool;

/// The servers that round robin has tried for a request, backup servers not included.
pub(crate) struct Tried {
    servers: Servers,
    /// The number of their set, if servers change.
    #[cfg(nginx_resolve)]
    config: ngx_uint_t,
    /// A bit for each server, in the request's pool.
    words: NonNull<usize>,
    length: usize,
}

impl Tried {
    /// Copies what round robin knows; `None` if the balancer is another one, or there is no memory.
    ///
    /// # Safety
    /// `us` is an upstream whose cycle is alive; `balancer` belongs to a live request to it; `pool` is the pool of the
    /// request.
    pub(crate) unsafe fn of(
        us: NonNull<ngx_http_upstream_srv_conf_t>,
        balancer: Balancer,
        pool: *mut ngx_pool_t,
    ) -> Option<NonNull<Self>> {
        let data = balancer.round_robin()?;
        // SAFETY: the caller says that the cycle of `us` is alive, and that `balancer` belongs to a request to it.
        let servers = unsafe { Servers::of(us, balancer) }?;
        let of_request = get_field!(data.peers);
        let (number, _config) = servers.number();
        #[cfg(nginx_resolve)]
        let config = get_field!(data.config);
        #[cfg(nginx_resolve)]
        if config != _config {
            return None;
        }
        if !servers.is_at(of_request) {
            return None;
        }
        let length = number.div_ceil(usize::BITS as usize);
        // SAFETY: the caller says that it is the pool of a live request.
        let pool = unsafe { Pool::from_ptr(pool) }?;
        let words = pool.allocate::<usize>(length)?.cast::<usize>();
        let tried: *const usize = get_field!(data.tried);
        // SAFETY: round robin has a bit for each server at `tried`; the memory is new, and has as many words.
        unsafe { words.as_ptr().copy_from_nonoverlapping(tried, length) };
        pool.put(Self {
            servers,
            #[cfg(nginx_resolve)]
            config,
            words,
            length,
        })
    }

    /// Restores what the balancer knew, for the same request, if the servers are still the same.
    pub(crate) fn give(&self, balancer: Balancer) {
        let Some(data) = balancer.round_robin() else { return };
        let same = self.servers.is_at(get_field!(data.peers));
        #[cfg(nginx_resolve)]
        let same = same && get_field!(data.config) == self.config;
        if same {
            let tried: *mut usize = get_field!(data.tried);
            // SAFETY: round robin has made as many words in `init`, as the servers, and so their number, are the same.
            unsafe { tried.copy_from_nonoverlapping(self.words.as_ptr(), self.length) };
        }
    }

    /// Whether it is about these servers, in the set with this number.
    pub(crate) fn is_of(&self, servers: Servers, _set: ngx_uint_t) -> bool {
        #[cfg(nginx_resolve)]
        if self.config != _set {
            return false;
        }
        servers == self.servers
    }

    /// A bit for each server, set if the server was tried.
    pub(crate) fn words(&self) -> &[usize] {
        // SAFETY: initialised by `of`, in the pool of the live request; nothing writes them again.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length) }
    }

    /// Whether the server with this number was tried.
    pub(crate) fn has(&self, number: usize) -> bool {
        const BITS: usize = usize::BITS as usize;
        self.words().get(number / BITS).is_some_and(|word| word & 1 << (number % BITS) != 0)
    }
}
