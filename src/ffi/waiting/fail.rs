//! A request whose wait has failed: the core is made to end it, with the right status.

use std::ffi::CStr;

use nginx_sys::{ngx_int_t, NGX_HTTP_INTERNAL_SERVER_ERROR};

use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::process::elapsed;
use crate::ffi::state::extra::Stage;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::waiter::Waiter;
use crate::ffi::state::waits::WaitFailure;

use super::placeholder::install_placeholder;

const BAD_GATEWAY: u16 = 502;
const GATEWAY_TIMEOUT: u16 = 504;

/// Ends a request that has no server. It is not in the queue any more.
pub(crate) fn fail(kp: &PeerData, waiter: &Waiter, failure: WaitFailure) {
    let configured = kp.upstream().waits.directive.map_or(BAD_GATEWAY, |queue| queue.status);
    let (status, line): (u16, &'static CStr) = match failure {
        WaitFailure::Full => (configured, c"upstream queue is full"),
        WaitFailure::TimedOut => (configured, c"upstream queue timed out"),
        WaitFailure::NoLiveServer => (BAD_GATEWAY, c"no live upstreams"),
    };
    kp.request().set_logged();
    // The core writes its own line about a timeout with 504.
    if failure != WaitFailure::TimedOut || status != GATEWAY_TIMEOUT {
        kp.request().log_error(line);
    }
    kp.u.end_of_wait(elapsed(waiter.since.get()));
    kp.set_stage(Stage::Failing(failure));
    end_attempt(kp, waiter, status);
}

/// Ends the attempt of a request whose server refused the connection at once: the core tries the next server.
pub(crate) fn fail_declined(kp: &PeerData, waiter: &Waiter) {
    kp.u.show_peer(kp.request().pool());
    kp.u.peer().set_connection(waiter.conn());
    kp.set_stage(Stage::Declined);
    end_attempt(kp, waiter, BAD_GATEWAY);
}

/// Ends a request for which there is no memory, or no socket.
pub(crate) fn fail_internally(kp: &PeerData, waiter: &Waiter) {
    waiter.leave();
    if !kp.u.peer().has_server() {
        kp.set_stage(Stage::Failing(WaitFailure::NoLiveServer));
        install_placeholder(kp, kp.u.peer(), waiter);
    }
    kp.request().finalize(kp.u, NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t);
}

/// Makes the core end the attempt as if a server had failed or was too slow, where that is possible: the core knows whether
/// it can serve a stale response from the cache instead. The request may be gone when this returns.
fn end_attempt(kp: &PeerData, waiter: &Waiter, status: u16) {
    match (waiter.handler(), status) {
        (Some(handler), GATEWAY_TIMEOUT) => {
            waiter.write().set_timed_out();
            // SAFETY: the handler that the core has set for this event, of the placeholder that it holds.
            unsafe { handler(waiter.write().as_ptr()) };
        }
        // A tunnel is read without being interpreted, and cannot fail in this way.
        (Some(handler), BAD_GATEWAY) if !kp.u.is_tunnel() => {
            // As if the server had closed; `leave_wait` takes it back.
            kp.u.set_request_sent(true);
            // SAFETY: the handler that the core has set for both events of the placeholder that it holds.
            unsafe { handler(waiter.read().as_ptr()) };
        }
        _ => kp.request().finalize(kp.u, status as ngx_int_t),
    }
}
