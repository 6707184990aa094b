//! A request that has a server asks another worker for a connection, and waits for the answer: for a few milliseconds at most.

use nginx_sys::{ngx_int_t, NGX_AGAIN};

use crate::base::clock::Msec;
use crate::handover::questions::PATIENCE;
use crate::pool::Key;

use crate::ffi::handover::ask::{ask, is_open};
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::elapsed;
use crate::ffi::state::extra::Stage;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::upstream::Upstream;
use crate::ffi::state::waiter::Waiter;

use super::enqueue::core_has_returned;
use super::placeholder::start_wait;

/// Asks another worker, if one may have a connection. `None` if the request has to do without.
#[cold]
#[inline(never)]
pub(crate) fn inquire(kp: &PeerData, peer: Peer, key: &Key<'_>) -> Option<ngx_int_t> {
    let upstream = kp.upstream();
    let stage = kp.extra().stage();
    let is_patient = match stage {
        Stage::Asking => true,
        Stage::Informed(_) => kp.extra().waited().is_some_and(|waited| waited < PATIENCE),
        _ => false,
    };
    // Without a timeout, the core would take the placeholder for a connection that is established.
    if !is_patient || kp.u.connect_timeout() == 0 {
        return None;
    }
    let question = ask(upstream, key)?;
    let waiter = match stage {
        Stage::Informed(_) => kp.extra().waiter(),
        _ => start_wait(kp, peer),
    }?;
    // SAFETY: `start_wait` has put it into the pool of the live request.
    let this = unsafe { waiter.as_ref() };
    let waits = &upstream.waits;
    let ticket = match stage {
        Stage::Informed(ticket) => ticket,
        _ => waits.asking.with(|asking| asking.push(waiter, this.since.get())).flatten()?,
    };
    this.question.set(question);
    peer.set_connection(this.conn());
    kp.set_stage(Stage::Inquiring(ticket));
    if stage == Stage::Asking {
        this.turn.prepare(core_has_returned, waiter.as_ptr().cast(), false);
        this.turn.post();
    }
    upstream.waits_changed();
    upstream.dispatch_soon(PATIENCE);
    Some(NGX_AGAIN as ngx_int_t)
}

/// Whether the question of a request was answered, or the request has waited for as long as it may.
pub(super) fn is_over(upstream: &Upstream, waiter: &Waiter, since: Msec) -> bool {
    !is_open(upstream, waiter.question.get()) || elapsed(since) >= PATIENCE
}
