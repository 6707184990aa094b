//! The worker runs out of connections, or of descriptors: what is idle in a pool is given up before a request fails.
//!
//! When no more than a sixteenth of its connections is left, nginx closes what it calls reusable: those of clients that
//! are idle, or have just come and not asked for anything yet. Those to servers are not among them, as they would be
//! counted as clients that wait. So that no client has to go for an idle connection, the pools of the worker yield sooner,
//! when no more than an eighth is left: as many as it takes for a request that needs a new connection. And if nginx had to
//! close clients in this second all the same, one for each connection that is stored. As long as nobody lacks anything,
//! all of them can be in use. And one is closed after a connection could not be opened as the limit of descriptors is
//! reached: the next request gets what is closed.

use nginx_sys::{ngx_cached_time, ngx_cycle, ngx_cycle_t};

use crate::metrics::End;

use crate::ffi::nginx::this_module::module;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::upstream::Upstream;

use super::slots::close_idle;

/// A connection whose server limits them may stay for a while after it was closed.
const ATTEMPTS: usize = 8;

/// A request is about to get a new connection.
#[inline]
pub(crate) fn yield_to_request(upstream: &Upstream) {
    for _ in 0..ATTEMPTS {
        if !is_short() || !give_up_one(upstream) {
            return;
        }
    }
}

/// A connection was stored.
#[inline]
pub(crate) fn yield_to_clients(upstream: &Upstream) {
    if is_short() && closes_clients() {
        give_up_one(upstream);
    }
}

/// A connection could not be opened, and no server has refused it.
#[cold]
pub(crate) fn yield_after_failure(upstream: &Upstream) {
    if is_short() || lacks_descriptors() {
        give_up_one(upstream);
    }
}

/// Closes the connection that is idle for longest, here or in another pool of this worker. `false` if there is none.
#[cold]
fn give_up_one(upstream: &Upstream) -> bool {
    // SAFETY: the worker's cycle, set before any request.
    let cycle = unsafe { ngx_cycle };
    // SAFETY: as above. Without master process it may be one whose configuration does not load the module any more.
    let main = is_in(cycle).then(|| unsafe { MainConf::of_cycle(cycle) }).flatten();
    give_up_own(upstream) || main.is_some_and(|main| main.zone.any_upstream(give_up_own))
}

fn give_up_own(upstream: &Upstream) -> bool {
    let oldest = upstream.idle.with(|idle| idle.take_oldest()).flatten();
    oldest.map(|idle| close_idle(upstream, idle, End::Evicted)).is_some()
}

/// Whether a cycle has this module.
fn is_in(cycle: *mut ngx_cycle_t) -> bool {
    let module = module();
    // SAFETY: nginx's list of all modules of a cycle, which ends with a null.
    let modules = unsafe { (*cycle).modules };
    // SAFETY: as above; reads one field.
    let number = unsafe { (*cycle).modules_n };
    // SAFETY: so many are in it, and it is not changed any more.
    let modules = unsafe { std::slice::from_raw_parts(modules, number) };
    modules.iter().any(|other| std::ptr::eq(*other, module))
}

/// Whether few connections are left.
#[inline]
fn is_short() -> bool {
    // SAFETY: the worker's cycle, set before any request.
    let cycle = unsafe { ngx_cycle };
    // SAFETY: as above; reads one field.
    let left = unsafe { (*cycle).free_connection_n };
    // SAFETY: as above.
    left <= unsafe { (*cycle).connection_n } / 8
}

/// Whether nginx had to close clients in this second.
fn closes_clients() -> bool {
    // SAFETY: the worker's cycle, set before any request.
    let cycle = unsafe { ngx_cycle };
    // SAFETY: as above; reads one field.
    let last = unsafe { (*cycle).connections_reuse_time };
    // SAFETY: nginx's clock, a global set before any request.
    let now = unsafe { ngx_cached_time };
    // SAFETY: as above; points into nginx's own array of times.
    last == unsafe { (*now).sec }
}

/// Whether the limit of descriptors is reached.
fn lacks_descriptors() -> bool {
    // SAFETY: takes no memory.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd == -1 {
        return true;
    }
    // SAFETY: opened above, and nobody else has it.
    unsafe { libc::close(fd) };
    false
}
