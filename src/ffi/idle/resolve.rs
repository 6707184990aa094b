//! Servers that leave an upstream while nginx runs: `server NAME resolve`, nginx 1.27.3 and newer.
//!
//! nginx replaces the peers in the upstream's zone and counts up a number. A worker hears nothing of
//! it, so while idle connections are there the number is looked at once a second.

use std::ptr::NonNull;

use nginx_sys::{ngx_event_t, ngx_msec_t, ngx_sockaddr_t};

use crate::metrics::End;

use crate::ffi::nginx::balancer::address_of;
use crate::ffi::nginx::guard::guard;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::watch::{Watch, NEVER};

use super::close::close_removed;

const INTERVAL: ngx_msec_t = 1000;

/// A connection was stored that was opened when the number was `generation`: sees to it that
/// the servers are compared, now and as long as there are idle connections.
pub(crate) fn stored(upstream: &Upstream, watch: &Watch, generation: usize) {
    if generation != watch.compared.get() {
        watch.compared.set(NEVER);
    }
    set_timer(upstream, watch);
}

fn set_timer(upstream: &Upstream, watch: &Watch) {
    if !watch.timer.is_set() {
        // A worker that is exiting does not wait for it.
        watch.timer.prepare(compare_servers, NonNull::from(upstream).as_ptr().cast(), true);
        watch.timer.set(INTERVAL);
    }
}

fn compare(upstream: &Upstream, watch: &Watch) {
    let generation = watch.generation();
    if generation != watch.compared.get() {
        // Without memory it is tried again in a second.
        if let Some(here) = addresses(watch) {
            watch.compared.set(generation);
            if upstream.mark_removed(|address| here.binary_search(&Address::from(address)).is_ok()) {
                close_removed(upstream, End::Removed);
            }
        }
    }
    if !upstream.is_empty() {
        set_timer(upstream, watch);
    }
}

/// The addresses of all servers, backup ones too, in order; `None` if there is no memory.
fn addresses(watch: &Watch) -> Option<Vec<Address>> {
    let mut addresses = Vec::new();
    let mut complete = true;
    watch.servers()?.each(false, |server, _| {
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
    // SAFETY: `set_timer` has put the upstream there; the timer ends before it does.
    let upstream = unsafe { &*upstream };
    guard((), || {
        if let Some(watch) = &upstream.watch {
            compare(upstream, watch);
        }
    });
}
