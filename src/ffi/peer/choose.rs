//! A request asks the balancer for a server.

use nginx_sys::{ngx_int_t, NGX_BUSY, NGX_ERROR, NGX_OK};

use crate::ledger::Server;

use crate::ffi::max_conns::slots::limited_server;
use crate::ffi::nginx::balancer::Balancer;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::request::Request;
use crate::ffi::state::extra::Stage;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::upstream::Upstream;
#[cfg(nginx_resolve)]
use crate::ffi::state::watch::Watch;
use crate::ffi::waiting::outlook::{is_in_vain, is_worth_waiting, look_again};

/// What the balancer said.
pub(crate) enum Choice {
    /// A server.
    Server(Chosen),
    /// A server that is up would do, but all of them are busy, or other requests wait for one.
    Busy,
    /// No server. The core is to hear this.
    NoServer(ngx_int_t),
}

/// The server that the balancer has given.
pub(crate) struct Chosen {
    /// If its connections are limited: the request is counted there.
    pub(crate) server: Option<Server>,
    /// Its requests are within its limit.
    pub(crate) is_within_limit: bool,
    /// The set of servers that it was chosen from, or an older one.
    #[cfg(nginx_resolve)]
    pub(crate) generation: usize,
}

/// Asks the balancer for a server.
#[inline(always)]
pub(crate) fn choose(kp: &PeerData, peer: Peer, stage: Stage) -> Choice {
    let upstream = kp.upstream();
    if stage == Stage::Asking
        && upstream.waits.directive.is_some()
        && (upstream.others_wait() || is_in_vain(kp))
    {
        return Choice::Busy;
    }
    if stage != Stage::Asking && start_over(kp, peer).is_none() {
        return Choice::NoServer(NGX_ERROR as ngx_int_t);
    }
    // Read before the balancer chooses. If its servers change after this, the number is out of date, as it should be.
    #[cfg(nginx_resolve)]
    let generation = upstream.watch.as_ref().map_or(0, Watch::generation);
    let rc = kp.balancer.get().get(peer);
    if rc == NGX_BUSY as ngx_int_t && (stage != Stage::Asking || is_worth_waiting(kp)) {
        return Choice::Busy;
    }
    if rc != NGX_OK as ngx_int_t {
        return Choice::NoServer(rc);
    }
    let server = limited_server(upstream, peer.address());
    let is_within_limit = server.is_none_or(|server| upstream.counts.start_request(server));
    if !is_within_limit && upstream.waits.directive.is_some() {
        // A balancer that does not know `max_conns`.
        return_server(kp, peer, server);
        return Choice::Busy;
    }
    Choice::Server(Chosen {
        server,
        is_within_limit,
        #[cfg(nginx_resolve)]
        generation,
    })
}

/// Lets the balancer initialise a request, by which it sets its hooks. `None` if it fails.
#[inline(always)]
pub(crate) fn init_balancer(upstream: &Upstream, r: Request) -> Option<()> {
    // SAFETY: the balancer gets what the core gives to `init_keepalive_peer`: a live request, and its upstream.
    let rc = unsafe { upstream.original_init_peer?(r.as_ptr(), upstream.us.as_ptr()) };
    (rc == NGX_OK as ngx_int_t).then_some(())
}

/// Initialises the balancer for the request once more: after a wait, what it knows of the servers and of those that were
/// tried is out of date.
fn start_over(kp: &PeerData, peer: Peer) -> Option<()> {
    let (hooks, tries) = (peer.hooks(), peer.tries());
    peer.set_data(std::ptr::null_mut());
    let initialised = init_balancer(kp.upstream(), kp.request());
    let balancer = Balancer::new(peer.hooks());
    peer.set_hooks(hooks);
    peer.set_tries(tries.min(peer.tries()));
    initialised?;
    if let Some(tried) = kp.extra().tried() {
        tried.give(balancer);
    }
    kp.balancer.set(balancer);
    Some(())
}

/// Gives the server back to the balancer as if the request had not been sent to it. It costs the request no try.
fn return_server(kp: &PeerData, peer: Peer, server: Option<Server>) {
    if let Some(server) = server {
        kp.upstream().counts.end_request(server);
    }
    let tries = peer.tries();
    kp.balancer.get().free_untried(peer);
    look_again(kp);
    peer.set_tries(tries);
}
