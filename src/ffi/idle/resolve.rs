//! Servers that leave an upstream while nginx runs: `server NAME resolve`, nginx 1.27.3 and newer.
//!
//! nginx replaces the peers in the upstream's zone and increments a number. It does not notify the workers, so a worker with
//! idle connections checks the number once a second.

use std::ptr::NonNull;

use nginx_sys::{ngx_event_t, ngx_msec_t, ngx_sockaddr_t};

use crate::metrics::End;

use crate::ffi::nginx::balancer::address_of;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{get_field, Live};
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::watch::{Watch, NEVER};
use crate::ffi::streams;

use super::close::close_removed;

/// How often to check the number, in milliseconds.
const INTERVAL: ngx_msec_t = 1000;

/// A connection was stored, or became a carrier, that was opened when the number was `generation`. Starts the check, which goes on
/// as long as there are idle connections, or carriers.
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
        // Without memory the check is repeated in a second.
        if let Some(here) = addresses(watch) {
            watch.compared.set(generation);
            let is_there = |address: &[u8]| here.binary_search(&Address::from(address)).is_ok();
            if upstream.mark_removed(is_there) {
                close_removed(upstream, End::Removed);
            }
            streams::idle::close_removed(upstream, is_there);
        }
    }
    if !upstream.is_empty() || streams::idle::any(upstream) {
        set_timer(upstream, watch);
    }
}

/// The sorted addresses of all servers, backup servers too; `None` if there is no memory.
fn addresses(watch: &Watch) -> Option<Vec<Address>> {
    let mut addresses = Vec::new();
    let mut complete = true;
    watch.servers()?.each(false, |server, _| {
        let server = &server.copy();
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

/// nginx's handler of the timer of a watch.
unsafe extern "C" fn compare_servers(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of the timer of a watch, which is alive.
    let event = unsafe { Live::new_unchecked(event) };
    let upstream: *const Upstream = get_field!(event.data).cast();
    // SAFETY: `set_timer` has put the upstream there; the timer is cancelled when the upstream is dropped.
    let upstream = unsafe { &*upstream };
    guard((), || {
        if let Some(watch) = &upstream.watch {
            compare(upstream, watch);
        }
    });
}
