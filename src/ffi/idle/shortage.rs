//! The worker runs out of connections, or of descriptors: idle connections are closed before a request fails.
//!
//! When at most a sixteenth of its connections is left, nginx closes reusable ones: connections of clients that are idle,
//! or have not sent a request yet. Idle connections to servers are not marked reusable, because nginx would count them as
//! waiting clients. No client should be closed for an idle connection, so the pools of the worker yield earlier, when at
//! most an eighth is left: a request that needs a new connection then closes as many idle ones as needed. If nginx still
//! had to close clients in the present second, each connection that is stored closes one. Without a shortage all
//! connections can be in use. One is also closed after a connection could not be opened because the limit of descriptors
//! was reached: the next request gets its descriptor. Connections that carry many requests are the last to be closed, and
//! only without any.

use nginx_sys::ngx_cached_time;

use crate::metrics::End;

use crate::ffi::max_conns::slots::close_idle;
use crate::ffi::nginx::handle::{get_field, Handle as _};
use crate::ffi::nginx::modules::modules;
use crate::ffi::nginx::process::Cycle;
use crate::ffi::nginx::this_module::module;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::streams;

/// How many connections to close at most: one to a limited server may stay for a while after it was closed.
const ATTEMPTS: usize = 8;

/// Makes room for a request that is about to open a connection.
#[inline]
pub(crate) fn yield_to_request(upstream: &Upstream) {
    for _ in 0..ATTEMPTS {
        if !is_short() || !close_oldest_of_all(upstream) {
            return;
        }
    }
}

/// Makes room for clients, after a connection was stored.
#[inline(always)]
pub(crate) fn yield_to_clients(upstream: &Upstream) {
    if is_short() {
        yield_if_closed(upstream);
    }
}

#[cold]
#[inline(never)]
fn yield_if_closed(upstream: &Upstream) {
    if has_closed_clients() {
        close_oldest_of_all(upstream);
    }
}

/// Makes room after a connection could not be opened although no server has refused it.
#[cold]
pub(crate) fn yield_after_failure(upstream: &Upstream) {
    if is_short() || lacks_descriptors() {
        close_oldest_of_all(upstream);
    }
}

/// Closes the connection of this upstream that is idle for longest, or one of another upstream. `false` if there is none.
#[cold]
fn close_oldest_of_all(upstream: &Upstream) -> bool {
    let cycle = Cycle::current();
    // Without a master process it may be a cycle whose configuration does not load the module any more.
    // SAFETY: the current cycle is alive, and its configuration was read before there were requests.
    let main = has_this_module(cycle).then(|| unsafe { MainConf::of_cycle(cycle.as_ptr()) }).flatten();
    close_oldest(upstream) || main.is_some_and(|main| main.zone.any_upstream(close_oldest))
}

/// Closes the connection of an upstream that is idle for longest. `false` if there is none.
fn close_oldest(upstream: &Upstream) -> bool {
    let oldest = upstream.idle.with(|idle| idle.take_oldest()).flatten();
    match oldest {
        Some(idle) => {
            close_idle(upstream, idle, End::Evicted);
            true
        }
        None => streams::idle::close_oldest(upstream, 0),
    }
}

/// Whether a cycle has this module.
fn has_this_module(cycle: Cycle) -> bool {
    let module = module();
    modules(cycle).iter().any(|other| std::ptr::eq(*other, module))
}

/// Whether few connections are left.
#[inline]
fn is_short() -> bool {
    let cycle = Cycle::current();
    get_field!(cycle.free_connection_n) <= get_field!(cycle.connection_n) / 8
}

/// Whether nginx had to close clients in the present second.
fn has_closed_clients() -> bool {
    let cycle = Cycle::current();
    // SAFETY: nginx's clock, a global that is set before there are requests.
    let now = unsafe { ngx_cached_time };
    // SAFETY: points into nginx's array of times, a static.
    get_field!(cycle.connections_reuse_time) == unsafe { (*now).sec }
}

/// Whether the limit of descriptors is reached.
fn lacks_descriptors() -> bool {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd == -1 {
        return true;
    }
    // SAFETY: opened above, and nothing else has it.
    unsafe { libc::close(fd) };
    false
}
