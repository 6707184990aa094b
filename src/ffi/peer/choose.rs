//! A request asks the balancer for a server.

use nginx_sys::{ngx_int_t, NGX_BUSY, NGX_ERROR, NGX_OK};

use crate::ffi::max_conns::slots::limited_server;
use crate::ffi::nginx::balancer::Balancer;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::state::peer_data::{PeerData, Stage};
use crate::ffi::waiting::enqueue::is_worth_it;

/// What the balancer said.
pub(crate) enum Choice {
    /// A server, and whether its requests are within its limit.
    Server(bool),
    /// A server that is up would do, but it has no room, or others wait for it.
    Busy,
    /// No server: the core is to hear this.
    Not(ngx_int_t),
}

/// Asks the balancer for a server.
#[inline]
pub(crate) fn choose(kp: &PeerData, peer: Peer, stage: Stage) -> Choice {
    let upstream = kp.upstream();
    kp.attempt.set(None);
    if stage == Stage::Asking && upstream.others_wait() {
        return Choice::Busy;
    }
    if stage != Stage::Asking && start_over(kp, peer).is_none() {
        return Choice::Not(NGX_ERROR as ngx_int_t);
    }
    // Before the balancer chooses: if its servers change after this, the number tells.
    #[cfg(nginx_resolve)]
    if let Some(watch) = &upstream.watch {
        kp.generation.set(watch.generation());
    }
    let rc = kp.balancer.get().get(peer);
    if rc == NGX_BUSY as ngx_int_t && (stage != Stage::Asking || is_worth_it(kp)) {
        return Choice::Busy;
    }
    if rc != NGX_OK as ngx_int_t {
        return Choice::Not(rc);
    }
    let server = limited_server(upstream, peer.address());
    kp.server.set(server);
    let within = server.is_none_or(|server| upstream.counts.start_request(server));
    if !within && upstream.waits.directive.is_some() {
        // A balancer that does not know `max_conns`.
        return_server(kp, peer);
        return Choice::Busy;
    }
    Choice::Server(within)
}

/// The request is new to the balancer again: what was tried, and which servers there were, is out
/// of date after a wait.
fn start_over(kp: &PeerData, peer: Peer) -> Option<()> {
    let upstream = kp.upstream();
    let (hooks, tries) = (peer.hooks(), peer.tries());
    peer.set_data(std::ptr::null_mut());
    // SAFETY: the balancer gets what the core gave us when it initialised the request.
    let rc = unsafe { upstream.original_init_peer?(kp.r.as_ptr(), upstream.us.as_ptr()) };
    let balancer = Balancer::new(peer.hooks());
    peer.set_hooks(hooks);
    peer.set_tries(tries.min(peer.tries()));
    if rc != NGX_OK as ngx_int_t {
        return None;
    }
    if let Some(tried) = kp.tried() {
        tried.give(balancer);
    }
    kp.balancer.set(balancer);
    Some(())
}

/// Gives the server back to the balancer as if the request had not been sent to it.
fn return_server(kp: &PeerData, peer: Peer) {
    if let Some(server) = kp.server.take() {
        kp.upstream().counts.end_request(server);
    }
    let tries = peer.tries();
    kp.balancer.get().free_untried(peer);
    peer.set_tries(tries);
}
