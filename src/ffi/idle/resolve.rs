//! Servers that leave an upstream while nginx runs: `server NAME resolve`, nginx 1.27.3 and newer.
//!
//! nginx replaces the peers in the upstream's zone and counts up a number. A worker hears nothing of
//! it, so while idle connections are there the number is looked at once a second.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{ngx_event_t, ngx_http_upstream_srv_conf_t, ngx_msec_t, ngx_sockaddr_t};

use crate::metrics::End;

use crate::ffi::nginx::balancer::{address_of, Servers};
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::timer::Alarm;
use crate::ffi::state::upstream::Upstream;

const INTERVAL: ngx_msec_t = 1000;

/// Watches the servers of one upstream.
pub(crate) struct Watch {
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    /// The number that the idle connections were last compared with.
    compared: Cell<usize>,
    timer: Alarm,
}

/// Differs from every number that nginx counts to.
const NEVER: usize = usize::MAX;

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

    fn servers(&self) -> Option<Servers> {
        // SAFETY: the upstream is part of the cycle in which this watch lies.
        unsafe { Servers::in_zone(self.us) }
    }

    /// The addresses of all servers, backup ones too, in order; `None` if there is no memory.
    fn addresses(&self) -> Option<Vec<Address>> {
        let mut addresses = Vec::new();
        let mut complete = true;
        self.servers()?.each(false, |server, _| {
            // SAFETY: shown under the lock of its list; a copy, as others may count meanwhile.
            let server = &unsafe { server.read() };
            complete &= addresses.try_reserve(1).is_ok();
            if complete {
                addresses.push(Address::from(address_of(server)));
            }
        });
        addresses.sort_unstable();
        complete.then_some(addresses)
    }

    /// A connection was stored that was opened when the number was `generation`: sees to it that
    /// the servers are compared, now and as long as there are idle connections.
    pub(crate) fn stored(&self, upstream: &Upstream, generation: usize) {
        if generation != self.compared.get() {
            self.compared.set(NEVER);
        }
        self.set_timer(upstream);
    }

    fn set_timer(&self, upstream: &Upstream) {
        if !self.timer.is_set() {
            // A worker that is exiting does not wait for it.
            self.timer.prepare(compare_servers, NonNull::from(upstream).as_ptr().cast(), true);
            self.timer.set(INTERVAL);
        }
    }

    fn compare(&self, upstream: &Upstream) {
        let generation = self.generation();
        if generation != self.compared.get() {
            // Without memory it is tried again in a second.
            if let Some(here) = self.addresses() {
                self.compared.set(generation);
                if upstream.mark_removed(|address| here.binary_search(&Address::from(address)).is_ok()) {
                    upstream.close_removed(End::Removed);
                }
            }
        }
        if !upstream.is_empty() {
            self.set_timer(upstream);
        }
    }
}

/// A socket address; unused bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    length: usize,
    bytes: [u8; size_of::<ngx_sockaddr_t>()],
}

impl From<&[u8]> for Address {
    fn from(address: &[u8]) -> Self {
        let mut bytes = [0; size_of::<ngx_sockaddr_t>()];
        for (to, from) in bytes.iter_mut().zip(address) {
            *to = *from;
        }
        Self { length: address.len(), bytes }
    }
}

unsafe extern "C" fn compare_servers(event: *mut ngx_event_t) {
    // SAFETY: the timer of a watch, which nginx knows.
    let upstream: *const Upstream = unsafe { (*event).data }.cast();
    // SAFETY: `stored` has put the upstream there; the timer ends before it does.
    let upstream = unsafe { &*upstream };
    guard((), || {
        if let Some(watch) = &upstream.watch {
            watch.compare(upstream);
        }
    });
}
