//! An idle connection leaves this worker for another one. Its descriptor is sent first. If that fails, nothing has changed.

use std::os::fd::RawFd;

use crate::handover::message::{Body, Parcel, PortableKey};
use crate::ledger::Transfer;
use crate::pool::{IdleEntry, Key};
use crate::reuse::identity::local_of_plain;

use crate::ffi::max_conns::slots::release_slot;
use crate::ffi::nginx::adopt::{leads_to, let_go};
use crate::ffi::nginx::log::debug_conn;
use crate::ffi::nginx::modules;
use crate::ffi::nginx::process::cycle_log;
use crate::ffi::state::handover::Handover;
use crate::ffi::state::upstream::{Idle, Upstream};

/// Who gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// Another worker of this configuration; the connection answers its question, unless that is 0.
    Sibling { worker: usize, question: u32 },
    /// A worker of a later configuration; the connection answers its question, unless that is 0.
    Heir { question: u32 },
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// It has left this worker.
    Gone,
    /// It is still in the pool, because too many messages are on their way.
    Later,
    /// It is still in the pool, and cannot leave it in this way.
    Unfit,
}

/// Gives the connection in a slot of the pool away.
pub(crate) fn give(upstream: &Upstream, slot: u32, to: Recipient) -> Given {
    let entry = upstream.idle.with(|idle| idle.entry(slot).map(|entry| *entry.conn)).flatten();
    let (Some(handover), Some(idle)) = (upstream.handover(), entry) else { return Given::Unfit };
    let is_there = match to {
        Recipient::Sibling { worker, .. } => handover.is_there(worker),
        Recipient::Heir { .. } => handover.has_heir() && handover.is_heir_there(),
    };
    if !is_there || !is_fit(idle) {
        return Given::Unfit;
    }
    let Ok(transfer) = announce(upstream, &idle, to) else { return Given::Later };
    // Counted before it is sent, so that no more are taken than given if this worker is killed meanwhile.
    if let Some(meter) = idle.meter {
        meter.give();
    }
    if let Err(failure) = send(upstream, handover, slot, transfer, to) {
        if let (Some(ledger), Some(transfer)) = (upstream.counts.shared(), transfer) {
            ledger.take_back(transfer);
        }
        if let Some(meter) = idle.meter {
            meter.keep();
        }
        return failure;
    }
    debug_conn(cycle_log(), c"keepalive handover: gave connection %p to another worker", idle.conn);
    upstream.take_slot(slot);
    upstream.counts.remove_idle(idle.server.get());
    match (upstream.counts.shared(), transfer, idle.server.get()) {
        (Some(ledger), Some(transfer), _) => ledger.sent(transfer),
        (_, _, Some(server)) => release_slot(upstream, server),
        _ => {}
    }
    let_go(idle.conn);
    Given::Gone
}

/// Whether nothing but the socket belongs to a connection, and nothing has happened to it.
fn is_fit(idle: Idle) -> bool {
    let (conn, read) = (idle.conn, idle.conn.read());
    let has_event = read.ready() || read.posted() || read.eof() || read.error();
    conn.is_bare() && !has_event && local_of_plain(crate::pool::Connection::identity(&idle)).is_some()
}

/// Tells the ledger that a connection to a limited server begins its way. `None` if nobody else counts it.
///
/// # Errors
/// If too many are on their way.
fn announce(upstream: &Upstream, idle: &Idle, to: Recipient) -> Result<Option<Transfer>, ()> {
    match (upstream.counts.shared(), idle.server.get(), to) {
        (Some(ledger), Some(server), Recipient::Sibling { worker, .. }) => {
            ledger.announce(server, worker).map(Some).ok_or(())
        }
        _ => Ok(None),
    }
}

fn send(
    upstream: &Upstream,
    handover: &Handover,
    slot: u32,
    transfer: Option<Transfer>,
    to: Recipient,
) -> Result<(), Given> {
    let send = |entry: IdleEntry<'_, Idle>| {
        // A receiver would refuse it.
        if !leads_to(entry.conn.conn.fd(), entry.key().address) {
            return Err(Given::Unfit);
        }
        let parcel = parcel(upstream, handover, &entry, transfer, to)?;
        let (body, fd): (_, RawFd) = (Body::Connection(parcel), entry.conn.conn.fd());
        let sent = match to {
            Recipient::Sibling { worker, .. } => handover.tell(worker, body, Some(fd)),
            Recipient::Heir { .. } => handover.tell_heir(body, Some(fd)),
        };
        sent.map_err(|err| match err.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::ETOOMANYREFS) => Given::Later,
            _ => Given::Unfit,
        })
    };
    let sent = upstream.idle.with(|idle| idle.entry(slot).map(send)).flatten();
    sent.unwrap_or(Err(Given::Unfit))
}

fn parcel<'a>(
    upstream: &'a Upstream,
    handover: &Handover,
    entry: &'a IdleEntry<'_, Idle>,
    transfer: Option<Transfer>,
    to: Recipient,
) -> Result<Parcel<'a>, Given> {
    let idle = entry.conn;
    // The timer of the pool is for it, if it has none of its own.
    let usual_deadline = || upstream.limits.map(|limits| entry.since.wrapping_add(limits.timeout));
    let key = portable(upstream, handover, &entry.key()).ok_or(Given::Unfit)?;
    // The number of a location has no meaning in another configuration.
    if matches!(to, Recipient::Heir { .. }) && key.location != 0 {
        return Err(Given::Unfit);
    }
    Ok(Parcel {
        key,
        question: match to {
            Recipient::Sibling { question, .. } | Recipient::Heir { question } => question,
        },
        transfer: transfer.map_or(0, Transfer::to_bits),
        requests: idle.conn.requests() as u64,
        opened: idle.conn.start_time(),
        since: entry.since,
        deadline: idle.conn.deadline().or_else(usual_deadline).ok_or(Given::Unfit)?,
        hinted: idle.hinted,
        allowed: idle.allowed,
        round_trip: idle.round_trip.map_or(0, |time| time.get()),
        reused: idle.conn.requests() > 1,
        nodelay: idle.conn.has_nodelay(),
    })
}

/// A key in the form that other processes understand. `None` if its protocol is not known.
pub(super) fn portable<'a>(
    upstream: &'a Upstream,
    handover: &Handover,
    key: &Key<'a>,
) -> Option<PortableKey<'a>> {
    let module = handover.module_of(key.protocol)?;
    Some(PortableKey {
        upstream: upstream.name_bytes(),
        number: upstream.number.get() as u32,
        address: key.address,
        module: modules::name_of(module)?,
        offset: key.protocol.wrapping_sub(module) as i64,
        location: key.location as u64,
        identity: key.identity,
    })
}
