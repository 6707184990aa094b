//! The usual end of an attempt: the request has used a connection from the pool, and nothing has changed about it.

use crate::base::clock::Msec;
use crate::drain::is_complete;
use crate::metrics::Phase;
use crate::pool::Expiry;

#[cfg(nginx_resolve)]
use crate::ffi::idle::resolve;
use crate::ffi::idle::shortage::yield_to_clients;
use crate::ffi::idle::store::{put_to_sleep, Origin, Sleeper};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::response::Unread;
use crate::ffi::peer::bound;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::reuse::Reuse;
use crate::ffi::state::upstream::Upstream;

/// The usual end of an attempt: the request has used a connection from the pool, and nothing has changed about it. It goes back to
/// the slot that it had. `false` if something is different: then nothing has happened. `PLAIN` says that the upstream is plain.
#[inline(always)]
pub(crate) fn put_back<const PLAIN: bool>(kp: &PeerData, peer: Peer) -> bool {
    let (Some(reuse), Some(conn)) = (kp.reuse_without_more::<PLAIN>(), peer.connection()) else {
        return false;
    };
    let Some(expiry) = usual_expiry(kp, conn, reuse) else { return false };
    let (upstream, server) = (kp.upstream(), if PLAIN { None } else { kp.extra().server() });
    let stored = upstream.put_back(reuse.slot, conn, server, (now(), expiry));
    let Some(hash) = stored else { return false };
    let slot = reuse.slot;
    kp.attempt.set(None);
    release(peer, conn);
    let from = Origin::Phase(Phase::Active);
    put_to_sleep(upstream, &Sleeper { conn, server, meter: kp.meter.get(), slot, hash, from, expiry });
    #[cfg(nginx_resolve)]
    if let (Some(watch), false) = (&upstream.watch, PLAIN) {
        resolve::stored(upstream, watch, kp.extra().generation());
    }
    yield_to_clients(upstream);
    true
}

/// How long the connection may be idle; `None` if this is not the usual end. The rules are those of
/// [`release_to_pool`](super::release::release_to_pool).
#[inline(always)]
fn usual_expiry(kp: &PeerData, conn: Conn, reuse: Reuse) -> Option<Expiry> {
    let (r, request) = (kp.request(), kp.first_buffer.get());
    let limits = kp.upstream().limits.as_ref()?;
    let requests = conn.requests();
    let is_usual = (kp.u.is_response_read(r, request) || is_all_here(kp))
        && !is_broken(conn)
        && requests < reuse.allowed as usize
        && limits.allows_more(requests)
        && !limits.is_too_old(conn.start_time(), now())
        && !kp.u.says_something()
        && !bound::may_have_user(kp)
        && kp.u.is_request_sent(r, request, conn)
        && !is_exiting(kp.upstream())
        && conn.read().wait_readable();
    match is_usual {
        true if kp.is_limited.get() => limited_expiry(kp, limits.timeout, requests),
        true => Some(Expiry::Usual),
        false => None,
    }
}

/// Whether the core has left a response unread which has come with its header, to its end.
#[inline(never)]
fn is_all_here(kp: &PeerData) -> bool {
    let size = kp.upstream().drain.size;
    let unread = if size > 0 { kp.u.unread_response(kp.request(), kp.first_buffer.get()) } else { None };
    unread.is_some_and(|Unread { framing, preread }| is_complete(framing, size, preread))
}

/// The same, if something was learned of the server.
#[inline(never)]
fn limited_expiry(kp: &PeerData, timeout: Msec, requests: usize) -> Option<Expiry> {
    let known = kp.upstream().known(kp.meter.get());
    (!known.is_reached(requests)).then(|| Expiry::after(known.next_look(), timeout))
}

/// Whether nothing can be sent or read any more.
#[inline(always)]
pub(super) fn is_broken(conn: Conn) -> bool {
    let (read, write) = (conn.read(), conn.write());
    read.eof() || read.error() || read.timed_out() || write.error() || write.timed_out()
}

/// Whether connections are no longer kept. Requests that wait are served even if the worker exits, and others by the workers of a
/// later configuration. Without a pool each would open a connection.
#[inline(always)]
pub(super) fn is_exiting(upstream: &Upstream) -> bool {
    upstream.is_ending() && !upstream.has_heir()
}

/// The request has no connection any more.
#[inline(always)]
pub(super) fn release(peer: Peer, conn: Conn) {
    debug_conn(peer.log(), c"free keepalive peer: saving connection %p", conn);
    peer.release_connection();
}
