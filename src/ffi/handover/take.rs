//! A connection comes from another worker. Nothing in its message is believed that can be checked.

use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::base::clock::Msec;
use crate::handover::message::{Parcel, PortableKey};
use crate::ledger::{Server, Transfer};
use crate::lessons::Known;
use crate::metrics::{Dropped, Meter};
use crate::pool::{Expiry, Key, Offer};
use crate::reuse::identity::local_of_plain;

use crate::ffi::idle::store::{store, Origin};
use crate::ffi::max_conns::refused::refuse;
use crate::ffi::max_conns::slots::{close_and_release, limited_server, release_slot};
use crate::ffi::nginx::adopt::{adopt, verify, Luggage, Unfit};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::modules;
use crate::ffi::nginx::process::{cycle_log, elapsed, now};
use crate::ffi::state::handover::{Handover, Protocol};
use crate::ffi::state::upstream::{Bytes, Idle, Upstream};

/// Stores a connection that another worker has sent; `is_sibling` says that the worker has the same configuration. If it
/// cannot be used, it is closed, and that is counted. Returns its server, if that is limited.
pub(super) fn take(
    upstream: &Upstream,
    handover: &Handover,
    is_sibling: bool,
    parcel: &Parcel<'_>,
    fd: Option<OwnedFd>,
) -> Result<Option<Server>, Dropped> {
    // In any case it is not on its way any more.
    let transfer = Some(parcel.transfer).filter(|transfer| is_sibling && *transfer != 0);
    let ledger = upstream.counts.shared();
    let counted = transfer.and_then(|transfer| ledger?.receive(Transfer::from_bits(transfer)));
    let taken = accept(upstream, handover, is_sibling, parcel, fd, counted);
    if let Err(why) = taken {
        if let Some(meter) = upstream.handover_meter() {
            meter.drop(why);
        }
    }
    taken
}

/// The connection is counted at the server `counted`, or not yet. It is counted no more if it is not accepted.
fn accept(
    upstream: &Upstream,
    handover: &Handover,
    is_sibling: bool,
    parcel: &Parcel<'_>,
    fd: Option<OwnedFd>,
    counted: Option<Server>,
) -> Result<Option<Server>, Dropped> {
    let checked = check(upstream, handover, is_sibling, parcel, fd.as_ref());
    let reserved = checked.and_then(|checked| Ok((checked, reserve(upstream, parcel.key.address, counted)?)));
    match reserved {
        Ok((checked, server)) => {
            let Some(fd) = fd else { return Err(Dropped::Resources) };
            accept_counted(upstream, parcel, fd, checked, server)
        }
        Err(why) => {
            discard(upstream, fd, counted);
            Err(why)
        }
    }
}

/// Closes a connection that cannot be used, and that counts at the server `counted`, if at any.
fn discard(upstream: &Upstream, fd: Option<OwnedFd>, counted: Option<Server>) {
    match (fd, counted) {
        (Some(fd), Some(server)) => refuse(upstream, fd, server),
        // There was no descriptor for it in this process, so the kernel has closed it.
        (None, Some(server)) => release_slot(upstream, server),
        (_, None) => {}
    }
}

/// How much later than this worker another one can have looked at the clock, in milliseconds: this one may be busy.
const AHEAD: Msec = 1000;

/// The time since a moment at which another worker looked at its clock, in milliseconds. `None` if that cannot be.
fn age(then: Msec) -> Option<Msec> {
    let age = elapsed(then);
    (elapsed(then.wrapping_sub(AHEAD)) as isize >= 0).then_some(if age as isize >= 0 { age } else { 0 })
}

/// What was found out about a connection that can be used.
#[derive(Clone, Copy)]
struct Checked {
    protocol: usize,
    /// How long it can be idle, in milliseconds.
    timeout: Msec,
    hinted: bool,
}

fn check(
    upstream: &Upstream,
    handover: &Handover,
    is_sibling: bool,
    parcel: &Parcel<'_>,
    fd: Option<&OwnedFd>,
) -> Result<Checked, Dropped> {
    let is_at_end = upstream.is_ending() && !upstream.has_heir();
    let limits = upstream.limits.filter(|_| upstream.handover().is_some() && !is_at_end);
    let limits = limits.ok_or(Dropped::Disabled)?;
    let key = &parcel.key;
    if !is_sibling && (key.location != 0 || upstream.local) {
        return Err(Dropped::Disabled);
    }
    if !is_sibling && !has_server(upstream, key.address) {
        return Err(Dropped::Server);
    }
    let protocol = function_of(handover, key).ok_or(Dropped::Protocol)?;
    let (local, _) = local_of_plain(key.identity).ok_or(Dropped::Invalid)?;
    let (now, requests) = (now(), usize::try_from(parcel.requests).unwrap_or(usize::MAX));
    let left = parcel.deadline.wrapping_sub(now);
    let is_over = left as isize <= 0
        || age(parcel.opened).is_none_or(|age| age >= limits.time)
        || age(parcel.since).is_none()
        || requests >= limits.requests
        || requests >= parcel.allowed as usize;
    if is_over {
        return Err(Dropped::Expired);
    }
    let fd = fd.ok_or(Dropped::Resources)?;
    verify(fd.as_raw_fd(), key.address, local).map_err(|unfit| match unfit {
        Unfit::Other => Dropped::Invalid,
        Unfit::NotSilent => Dropped::Closed,
    })?;
    let hinted = parcel.hinted && left < limits.timeout;
    Ok(Checked { protocol, timeout: left.min(limits.timeout), hinted })
}

/// Whether the upstream has a server at an address.
fn has_server(upstream: &Upstream, address: &[u8]) -> bool {
    #[cfg(nginx_resolve)]
    if upstream.watch.is_some() {
        return upstream.servers_in_zone().is_some_and(|servers| servers.has(address));
    }
    upstream.records.get().is_some_and(|records| records.is_configured(address))
}

/// The function by which the pool tells protocols apart: another worker can have it elsewhere.
pub(super) fn function_of(handover: &Handover, key: &PortableKey<'_>) -> Option<usize> {
    let module = modules::address_of(key.module)?;
    let function = module.wrapping_add(key.offset as usize);
    handover.learn(Protocol { function, module });
    Some(function)
}

/// Counts the connection at its server, unless that was done before. Returns the server, if it is limited.
fn reserve(upstream: &Upstream, address: &[u8], counted: Option<Server>) -> Result<Option<Server>, Dropped> {
    let Some(server) = counted.is_none().then(|| limited_server(upstream, address)).flatten() else {
        return Ok(counted);
    };
    let is_open = upstream.counts.ledger.get().is_none_or(|ledger| ledger.open(server));
    is_open.then_some(Some(server)).ok_or(Dropped::Limit)
}

/// Stores a connection that is counted at its server.
fn accept_counted(
    upstream: &Upstream,
    parcel: &Parcel<'_>,
    fd: OwnedFd,
    checked: Checked,
    server: Option<Server>,
) -> Result<Option<Server>, Dropped> {
    let luggage =
        Luggage { requests: parcel.requests as usize, opened: parcel.opened, nodelay: parcel.nodelay };
    let conn = match adopt(fd, &luggage) {
        Ok(conn) => conn,
        Err(fd) => {
            discard(upstream, fd, server);
            return Err(Dropped::Resources);
        }
    };
    put_into_pool(upstream, parcel, conn, checked, server).map(|()| server).inspect_err(|_| {
        close_and_release(upstream, conn, server);
    })
}

fn put_into_pool(
    upstream: &Upstream,
    parcel: &Parcel<'_>,
    conn: Conn,
    checked: Checked,
    server: Option<Server>,
) -> Result<(), Dropped> {
    let key = &parcel.key;
    let meter = upstream.meter(key.address);
    let since = now().wrapping_sub(age(parcel.since).unwrap_or(0));
    let timeout = until_next_look(upstream, meter, since, checked)?;
    #[cfg(nginx_resolve)]
    let generation = upstream.watch.as_ref().map_or(0, crate::ffi::state::watch::Watch::generation);
    #[cfg(not(nginx_resolve))]
    let generation = 0;
    let identity = match key.identity {
        [] => Some(Bytes::EMPTY),
        bytes => {
            conn.memory().and_then(|pool| Bytes::new(pool, bytes.len(), |out| out.copy_from_slice(bytes)))
        }
    };
    let idle = Idle {
        conn,
        identity: identity.ok_or(Dropped::Resources)?,
        server: server.into(),
        meter,
        hinted: checked.hinted,
        round_trip: NonZeroU16::new(parcel.round_trip),
        allowed: parcel.allowed,
        is_taken: true,
    };
    debug_conn(cycle_log(), c"keepalive handover: took connection %p from another worker", conn);
    let full = Key {
        address: key.address,
        protocol: checked.protocol,
        location: key.location as usize,
        identity: key.identity,
    };
    let offer = Offer {
        conn: idle,
        group: None,
        reused: parcel.reused,
        now: since,
        expiry: Expiry::Other(timeout.saturating_add(elapsed(since))),
    };
    store(upstream, &full, offer, Origin::OtherWorker, generation, || {}).map_err(|_| Dropped::Limit)
}

/// How long the connection can be idle here, in milliseconds, by what was learned of the server too.
fn until_next_look(
    upstream: &Upstream,
    meter: Option<Meter>,
    since: Msec,
    checked: Checked,
) -> Result<Msec, Dropped> {
    let (known, age) = (upstream.known(meter), elapsed(since));
    match known {
        Known::NOTHING => Ok(checked.timeout),
        known if known.is_too_old(age) => Err(Dropped::Expired),
        // Only a limit ends it before the server does what it has announced.
        known if checked.hinted && !known.limits_age() => Ok(checked.timeout),
        known => Ok(checked.timeout.min(known.next_look().saturating_sub(age).max(1))),
    }
}
