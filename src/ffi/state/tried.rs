//! The servers that have failed for a request. The balancer knows them, but forgets them when it is initialised again
//! after a wait.

use std::ptr::NonNull;

#[cfg(nginx_resolve)]
use nginx_sys::ngx_uint_t;
use nginx_sys::{ngx_http_upstream_srv_conf_t, ngx_pool_t};

use crate::ffi::nginx::balancer::{Balancer, Servers};
use crate::ffi::nginx::handle::get_field;
use crate::ffi::nginx::memory::Pool;

/// The servers that round robin has tried for a request, backup servers not included.
pub(crate) struct Tried {
    servers: Servers,
    /// The number of their set, if servers change.
    #[cfg(nginx_resolve)]
    config: ngx_uint_t,
    /// The numbers of the servers, in the request's pool.
    numbers: NonNull<u32>,
    length: usize,
}

const BITS: usize = usize::BITS as usize;

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
        let tried: *const usize = get_field!(data.tried);
        // SAFETY: round robin has a bit for each server at `tried`, in whole words; it does not run while they are read.
        let words = unsafe { std::slice::from_raw_parts(tried, number.div_ceil(BITS)) };
        let length = words.iter().map(|word| word.count_ones() as usize).sum();
        // SAFETY: the caller says that it is the pool of a live request.
        let pool = unsafe { Pool::from_ptr(pool) }?;
        let numbers = pool.allocate::<u32>(length)?.cast::<u32>();
        for (at, number) in numbers_of(words).take(length).enumerate() {
            // SAFETY: `at` is below the length that was allocated.
            let place = unsafe { numbers.add(at) };
            // SAFETY: allocated above, for a number.
            unsafe { place.write(number) };
        }
        pool.put(Self {
            servers,
            #[cfg(nginx_resolve)]
            config,
            numbers,
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
            for number in self.numbers() {
                // SAFETY: round robin has made words for as many servers in `init`, as they are the same.
                let word = unsafe { tried.add(*number as usize / BITS) };
                // SAFETY: one of these words, which are initialised; nothing else uses them meanwhile.
                unsafe { *word |= 1 << (*number as usize % BITS) };
            }
        }
    }

    /// Whether it is about these servers, in the set with this number.
    pub(crate) fn is_of(&self, servers: Servers, _set: usize) -> bool {
        #[cfg(nginx_resolve)]
        if self.config != _set {
            return false;
        }
        servers == self.servers
    }

    /// The numbers of the servers that were tried, each once.
    pub(crate) fn numbers(&self) -> &[u32] {
        // SAFETY: initialised by `of`, in the pool of the live request; nothing writes them again.
        unsafe { std::slice::from_raw_parts(self.numbers.as_ptr(), self.length) }
    }
}

/// The numbers of the bits that are set.
fn numbers_of(words: &[usize]) -> impl Iterator<Item = u32> + '_ {
    words.iter().enumerate().flat_map(|(at, word)| {
        let set = (0..BITS).filter(move |bit| word & (1 << bit) != 0);
        set.map(move |bit| (at * BITS + bit) as u32)
    })
}
