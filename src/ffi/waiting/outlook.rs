//! What a request that waits can expect of the servers. They are not looked at each time: see [`crate::queue::room`].

use crate::queue::room::{Moment, Outlook};

use crate::ffi::nginx::balancer::Servers;
use crate::ffi::state::peer_data::PeerData;

/// What the request can expect of the servers; `None` if it is unknown, because the balancer keeps its servers in a way of
/// its own, or there is no memory.
pub(crate) fn outlook(kp: &PeerData) -> Option<Outlook> {
    let servers = servers_of(kp)?;
    let at = servers.moment();
    let (waits, tried) = (&kp.upstream().waits, tried(kp, servers, at));
    let outlook = waits.rooms.with(|rooms| {
        if !rooms.is_known(at) {
            servers.look_at_all(rooms, at)?;
        }
        let outlook = rooms.outlook(tried);
        if outlook != Outlook::Down || rooms.is_fresh(at) {
            return Some(outlook);
        }
        // A request fails only for what is so at this moment.
        servers.look_at_all(rooms, at)?;
        Some(rooms.outlook(tried))
    });
    waits.is_watching.set(true);
    outlook.flatten()
}

/// Whether it makes sense to wait when the balancer has no server: a server that is up is busy, or was a moment ago. If all
/// are down, the request fails at once, as without a queue.
pub(crate) fn is_worth_waiting(kp: &PeerData) -> bool {
    let upstream = kp.upstream();
    if upstream.waits.directive.is_none() {
        return false;
    }
    let Some(servers) = servers_of(kp) else {
        return upstream.counts.ledger.get().is_some_and(|ledger| ledger.any_is_busy());
    };
    let at = servers.moment();
    let tried = tried(kp, servers, at);
    let expected = upstream.waits.rooms.with(|rooms| {
        let known = rooms.is_known(at).then(|| rooms.outlook(tried));
        match known {
            Some(Outlook::Full) => {}
            Some(_) => rooms.doubt(at),
            // To wait, one server that is up suffices.
            None => rooms.has_stranger(),
        }
        known.filter(|outlook| *outlook != Outlook::Down)
    });
    expected.flatten().is_some() || servers.is_any_up(tried, at)
}

/// Whether it is known that no server has room for a request that has tried some: so the balancer need not be asked. Others wait
/// in the same way; therefore other workers tell this one when a server may have room again.
pub(crate) fn is_in_vain(kp: &PeerData) -> bool {
    let waits = &kp.upstream().waits;
    kp.extra().tried().is_some() && waits.is_watching.get() && waits.any_retries() && is_known_to_be_full(kp)
}

#[cold]
fn is_known_to_be_full(kp: &PeerData) -> bool {
    let Some(servers) = servers_of(kp) else { return false };
    let at = servers.moment();
    let tried = tried(kp, servers, at);
    let is_full =
        kp.upstream().waits.rooms.with(|rooms| rooms.is_known(at) && rooms.outlook(tried) == Outlook::Full);
    is_full.unwrap_or(false)
}

/// The balancer has got the server of a request back, or has given one: looks at it again, if others wait.
#[inline]
pub(crate) fn look_again(kp: &PeerData) {
    if kp.upstream().waits.is_watching.get() {
        look_at_server_of(kp);
    }
}

#[cold]
#[inline(never)]
fn look_at_server_of(kp: &PeerData) {
    let waits = &kp.upstream().waits;
    match (servers_of(kp), kp.balancer.get().round_robin()) {
        (Some(servers), Some(data)) if waits.any_queued() || waits.any_retries() => {
            waits.rooms.with(|rooms| servers.look_at_current(data, rooms));
        }
        _ => waits.forget_rooms(),
    }
}

/// A round begins, of the requests that have tried servers; `kp` is one of them. Returns whether one of them may expect more
/// than when it had its last turn.
pub(super) fn begin_round(kp: &PeerData) -> bool {
    // Looks at the servers, unless they are known.
    if outlook(kp).is_none() {
        return true;
    }
    kp.upstream().waits.rooms.with(|rooms| rooms.begin_round()).unwrap_or(true)
}

fn servers_of(kp: &PeerData) -> Option<Servers> {
    // SAFETY: the live request keeps the cycle of its upstream alive, and the balancer has initialised the request.
    unsafe { Servers::of(kp.upstream().us, kp.balancer.get()) }
}

/// The numbers of the servers that the request does not use again.
fn tried(kp: &PeerData, servers: Servers, at: Moment) -> &[u32] {
    kp.extra().tried().filter(|tried| tried.is_of(servers, at.set.1)).map_or(&[], |tried| tried.numbers())
}
