//! Carriers without streams: how many are kept, for how long, and when they make room for others.

#[cfg(nginx_resolve)]
use std::rc::Rc;

#[cfg(nginx_resolve)]
use crate::http2::sharing::Sharing;
use crate::ledger::Server;
use crate::metrics::End;

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::process::{elapsed, worker_is_exiting};
#[cfg(nginx_resolve)]
use crate::ffi::state::carrier::room;
use crate::ffi::state::carrier::Carrier;
use crate::ffi::state::upstream::Upstream;

use super::carry::end;

/// Why a carrier without streams is closed, if it is.
pub(super) fn reason_to_close(carrier: &Carrier, conn: Conn, is_draining: bool) -> Option<End> {
    let upstream = &carrier.upstream;
    let Some(limits) = upstream.limits else { return Some(End::Disabled) };
    if worker_is_exiting() && !upstream.waits.any() {
        return Some(End::Exiting);
    }
    if elapsed(conn.start_time()) >= limits.time {
        return Some(End::Time);
    }
    if is_at_limit(carrier, limits.requests) {
        return Some(End::Requests);
    }
    if is_draining || carrier.group.get().is_none() {
        return Some(if is_draining { End::ServerClosed } else { End::Identity });
    }
    let idle = carrier.idle_since.get().map_or(0, elapsed);
    (idle >= limits.timeout).then_some(End::Timeout)
}

/// Whether a carrier has served as many requests as `keepalive_requests` says.
pub(super) fn is_at_limit(carrier: &Carrier, most: usize) -> bool {
    let served = carrier.state.with(|state| state.served()).unwrap_or(u64::MAX);
    served >= most as u64
}

/// Closes the carrier that is idle for longest, if there are more idle ones than `keepalive` says.
pub(super) fn close_surplus(upstream: &Upstream) {
    let most = upstream.idle.with(|idle| idle.capacity()).unwrap_or(0);
    close_oldest(upstream, most);
}

/// Closes the carrier that is idle for longest, if more than `most` are idle. Returns whether one was closed.
pub(crate) fn close_oldest(upstream: &Upstream, most: usize) -> bool {
    let (mut number, mut oldest) = (0, None);
    upstream.carriers.with(|all| {
        for (_, carrier) in all.carriers() {
            let Some(time) = carrier.idle_since.get().map(elapsed) else { continue };
            number += 1;
            if oldest.as_ref().is_none_or(|(longest, _)| time > *longest) {
                oldest = Some((time, carrier.clone()));
            }
        }
    });
    let oldest = oldest.filter(|_| number > most);
    if let Some((_, carrier)) = &oldest {
        end(carrier, End::Evicted, None);
    }
    oldest.is_some()
}

/// Closes the carrier to a server that is idle for longest: another request needs its slot. Returns whether there was one.
pub(crate) fn close_oldest_to(upstream: &Upstream, server: Server) -> bool {
    let oldest = upstream.carriers.with(|all| {
        let idle = all.carriers().filter(|(_, carrier)| carrier.server == Some(server));
        let aged = idle.filter_map(|(_, carrier)| Some((elapsed(carrier.idle_since.get()?), carrier)));
        aged.max_by_key(|(age, _)| *age).map(|(_, carrier)| carrier.clone())
    });
    let oldest = oldest.flatten();
    if let Some(carrier) = &oldest {
        end(carrier, End::Evicted, None);
    }
    oldest.is_some()
}

/// Servers have left the upstream: their carriers get no more streams, and are closed once they have none.
#[cfg(nginx_resolve)]
pub(crate) fn close_removed(upstream: &Upstream, is_there: impl Fn(&[u8]) -> bool) {
    let next = || {
        let find = |all: &mut Sharing<Rc<Carrier>>| {
            let mut gone = all.carriers().filter(|(address, _)| !is_there(address));
            let next =
                gone.find(|(_, carrier)| carrier.idle_since.get().is_some() || !room(carrier).is_draining);
            next.map(|(_, carrier)| carrier.clone())
        };
        upstream.carriers.with(find).flatten()
    };
    while let Some(carrier) = next() {
        if carrier.idle_since.get().is_some() {
            end(&carrier, End::Removed, None);
        } else {
            carrier.state.with(|state| state.shut_down());
            carrier.turn.post();
        }
    }
}

/// Whether there is a carrier.
#[cfg(nginx_resolve)]
pub(crate) fn any(upstream: &Upstream) -> bool {
    upstream.carriers.with(|all| all.carriers().next().is_some()).unwrap_or(false)
}
