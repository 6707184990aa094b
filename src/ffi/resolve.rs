//! Servers that leave an upstream while nginx runs: `server NAME resolve`, nginx 1.27.3 and newer.
//!
//! nginx replaces the peers in the upstream's zone and counts up a number. A worker hears nothing of
//! it, so while idle connections are there the number is looked at once a second.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_add_timer, ngx_del_timer, ngx_event_t, ngx_http_upstream_rr_peers_t, ngx_http_upstream_server_t,
    ngx_http_upstream_srv_conf_t, ngx_msec_t, ngx_rwlock_rlock, ngx_rwlock_unlock, ngx_sockaddr_t,
};

use super::guard::guard;
use super::idle;
use super::upstream::Upstream;

const INTERVAL: ngx_msec_t = 1000;

/// Watches the servers of one upstream.
pub(super) struct Watch {
    us: NonNull<ngx_http_upstream_srv_conf_t>,
    /// The number that the idle connections were last compared with.
    compared: Cell<usize>,
    timer: UnsafeCell<ngx_event_t>,
}

/// Differs from every number that nginx counts to.
const NEVER: usize = usize::MAX;

impl Watch {
    /// `None` if the servers of the upstream never change.
    ///
    /// # Safety
    /// `us` is an explicit upstream of the configuration being read, and initialised.
    pub(super) unsafe fn new(us: NonNull<ngx_http_upstream_srv_conf_t>) -> Option<Self> {
        // SAFETY: live, says the caller.
        let conf = unsafe { us.as_ref() };
        if conf.shm_zone.is_null() {
            return None;
        }
        // SAFETY: an explicit upstream has an array of servers.
        let servers = unsafe { conf.servers.as_ref() }?;
        // SAFETY: what the array holds.
        let servers: &[ngx_http_upstream_server_t] = unsafe { servers.as_slice() };
        // Only a server with `resolve` has the name in `host`.
        servers.iter().any(|server| server.host.len > 0).then(|| Self {
            us,
            compared: Cell::new(NEVER),
            // SAFETY: for a C structure of numbers, bit-fields and pointers zero is a valid value.
            timer: UnsafeCell::new(unsafe { zeroed() }),
        })
    }

    /// The number of the present set of servers.
    pub(super) fn generation(&self) -> usize {
        let Some(peers) = self.peers() else { return NEVER };
        // SAFETY: the peers of an upstream with a zone; set before any request.
        let number = unsafe { (*peers.as_ptr()).config };
        // SAFETY: in the zone; other workers write it, so it is read from memory each time.
        unsafe { number.read_volatile() }
    }

    fn peers(&self) -> Option<NonNull<ngx_http_upstream_rr_peers_t>> {
        // SAFETY: the upstream is part of the cycle in which this watch lies.
        let data = unsafe { (*self.us.as_ptr()).peer.data };
        NonNull::new(data.cast())
    }

    /// The addresses of all servers, backup ones too, in order; `None` if there is no memory.
    fn addresses(&self) -> Option<Vec<Address>> {
        let mut addresses = Vec::new();
        let mut peers = self.peers()?.as_ptr();
        while !peers.is_null() {
            // SAFETY: of the upstream's zone, where it stays.
            let lock = unsafe { &raw mut (*peers).rwlock };
            // SAFETY: as above. Each of the lists has a lock of its own; no panic comes before the
            // unlocking.
            unsafe { ngx_rwlock_rlock(lock) };
            // SAFETY: the lock is held.
            let complete = unsafe { add_addresses(peers, &mut addresses) };
            // SAFETY: as above.
            unsafe { ngx_rwlock_unlock(lock) };
            complete?;
            // SAFETY: as above; the backup servers come next.
            peers = unsafe { (*peers).next };
        }
        addresses.sort_unstable();
        Some(addresses)
    }

    /// A connection was stored that was opened when the number was `generation`: sees to it that
    /// the servers are compared, now and as long as there are idle connections.
    pub(super) fn stored(&self, upstream: &Upstream, generation: usize) {
        if generation != self.compared.get() {
            self.compared.set(NEVER);
        }
        self.set_timer(upstream);
    }

    fn set_timer(&self, upstream: &Upstream) {
        let timer = self.timer.get();
        // SAFETY: the event lies in the upstream, which nobody moves.
        if unsafe { ngx_event_t::timer_set_raw(timer) } != 0 {
            return;
        }
        // SAFETY: as above; nginx only knows the event when its timer is set.
        unsafe { (*timer).data = NonNull::from(upstream).as_ptr().cast::<c_void>() };
        // SAFETY: as above.
        unsafe { (*timer).handler = Some(compare_servers) };
        // SAFETY: as above.
        unsafe { (*timer).log = idle::cycle_log() };
        // A worker that is exiting does not wait for it.
        // SAFETY: as above.
        unsafe { ngx_event_t::set_cancelable_raw(timer, 1) };
        // SAFETY: as above; `Drop` takes it out of the timer tree.
        unsafe { ngx_add_timer(timer, INTERVAL) };
    }

    fn compare(&self, upstream: &Upstream) {
        let generation = self.generation();
        if generation != self.compared.get() {
            // Without memory it is tried again in a second.
            if let Some(here) = self.addresses() {
                self.compared.set(generation);
                if upstream.mark_removed(|address| here.binary_search(&Address::from(address)).is_ok()) {
                    upstream.close_removed(idle::close);
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

/// # Safety
/// The lock of `peers` is held.
unsafe fn add_addresses(peers: *mut ngx_http_upstream_rr_peers_t, to: &mut Vec<Address>) -> Option<()> {
    // SAFETY: live, says the caller.
    let mut peer = unsafe { (*peers).peer };
    while !peer.is_null() {
        // SAFETY: not null, and nobody frees it while the lock is held.
        let this = unsafe { &*peer };
        // SAFETY: nginx fills `socklen` with `sockaddr`.
        let address = unsafe { std::slice::from_raw_parts(this.sockaddr.cast(), this.socklen as usize) };
        to.try_reserve(1).ok()?;
        to.push(Address::from(address));
        peer = this.next;
    }
    Some(())
}

impl Drop for Watch {
    /// In a worker the timers end with the process. With `master_process off` they outlive the cycle.
    fn drop(&mut self) {
        let timer = self.timer.get();
        // SAFETY: the event lies in the upstream, which is being dropped.
        if unsafe { ngx_event_t::timer_set_raw(timer) } != 0 {
            // SAFETY: `timer_set` says that the event is in the timer tree.
            unsafe { ngx_del_timer(timer) };
        }
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
