//! What idle connections teach about their server: see [`crate::lessons`]. The server closes one at an age, or one lives longer
//! than expected. One of those that nginx would close stays as a watcher: no request finds it.

use nginx_sys::{ngx_log_error_core, NGX_LOG_INFO};

use crate::base::address::MAX_ADDRESS;
use crate::base::clock::Msec;
use crate::lessons::{Bound, Change, Expired, Lesson, Verdict, BEHIND};
use crate::metrics::End;
use crate::pool::{IdleEntry, IdlePool};

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::log::takes;
use crate::ffi::nginx::process::{cycle_log, elapsed, now};
use crate::ffi::nginx::socket::address_text;
use crate::ffi::nginx::tcp_info::round_trip;
use crate::ffi::state::upstream::{Idle, Upstream};

/// The protocols of keys for which no request asks: of connections that watch the age at which their server closes them, or
/// whether it closes them behind an answer. No function has such an address.
const WATCHES_AGE: usize = usize::MAX;
pub(crate) const WATCHES_REQUESTS: usize = usize::MAX - 1;

/// A connection in the pool, and for how long it is idle, in milliseconds.
struct Sleeping {
    idle: Idle,
    age: Msec,
    protocol: usize,
    address: [u8; MAX_ADDRESS],
    length: usize,
}

impl Sleeping {
    /// The connection in a slot. `None` if the slot holds another one.
    fn find(upstream: &Upstream, slot: u32, conn: Conn) -> Option<Self> {
        let copy = |entry: IdleEntry<'_, Idle>| {
            let (key, mut address) = (entry.key(), [0; MAX_ADDRESS]);
            address.get_mut(..key.address.len())?.copy_from_slice(key.address);
            let (age, protocol) = (elapsed(entry.since), key.protocol);
            let length = key.address.len();
            Some(Self { idle: *entry.conn, age, protocol, address, length })
        };
        let found = upstream.idle.with(|idle| idle.entry(slot).and_then(copy)).flatten();
        found.filter(|found| found.idle.is(conn))
    }

    fn address(&self) -> &[u8] {
        self.address.get(..self.length).unwrap_or(&[])
    }
}

/// The timer of an idle connection has expired. Returns why it is to be closed; `None` if it stays open.
#[cold]
pub(super) fn on_timer(upstream: &Upstream, slot: u32, conn: Conn) -> Option<End> {
    let (Some(limits), Some(sleeping)) = (upstream.limits, Sleeping::find(upstream, slot, conn)) else {
        return Some(End::Timeout);
    };
    let Sleeping { idle, age, protocol, .. } = sleeping;
    let Some(margin) = limits.margin.filter(|_| limits.learns) else {
        return Some(if idle.hinted { End::Hint } else { End::Timeout });
    };
    let who = upstream.witness();
    if protocol == WATCHES_REQUESTS {
        log_change(upstream, sleeping.address(), idle.lesson().serves_more(&who, now(), conn.requests()));
        return Some(End::Learned);
    }
    if age >= limits.timeout {
        return Some(End::Timeout);
    }
    let is_watching = protocol == WATCHES_AGE;
    // A connection that belongs to a client is found by its slot.
    let longest = if idle.binding().is_none() { limits.timeout } else { 0 };
    let expired = Expired { age, is_announced: idle.hinted, is_watching, margin, longest };
    let is_believed = matches!(idle.lesson().age(margin), Some(Bound::Limit(_)));
    let (verdict, change) = idle.lesson().expire(&who, now(), &expired);
    log_change(upstream, sleeping.address(), change);
    match verdict {
        Verdict::Keep(next) => {
            sleep_on(conn, age, next.map_or(limits.timeout, |next| next.min(limits.timeout)))
        }
        Verdict::Watch(next) => return watch(upstream, slot, &sleeping, next.min(limits.timeout)),
        Verdict::Close if is_believed || !idle.hinted => return Some(End::Learned),
        Verdict::Close => return Some(End::Hint),
    }
    None
}

/// The connection stays idle to an age.
fn sleep_on(conn: Conn, age: Msec, next: Msec) {
    let read = conn.read();
    read.clear_timed_out();
    read.set_timer(next.saturating_sub(age).max(1));
}

/// The connection stays in the pool where no request finds it.
fn watch(upstream: &Upstream, slot: u32, sleeping: &Sleeping, next: Msec) -> Option<End> {
    let set_aside = |idle: &mut IdlePool<Idle>| idle.set_aside(slot, WATCHES_AGE);
    if upstream.idle.with(set_aside) != Some(true) {
        return Some(End::Learned);
    }
    sleep_on(sleeping.idle.conn, sleeping.age, next);
    None
}

/// An idle connection in a slot has ended by itself.
#[cold]
pub(super) fn on_end(upstream: &Upstream, slot: u32, conn: Conn, why: End) {
    if !upstream.learns() {
        return;
    }
    let sleeping = Sleeping::find(upstream, slot, conn);
    if let Some(sleeping) = sleeping.filter(|sleeping| is_close(why, sleeping.age)) {
        on_close(upstream, sleeping.address(), sleeping.idle.lesson(), (conn, conn.requests()), sleeping.age);
    }
}

/// Whether the server has closed a connection that was idle for `age`. Some announce that by an unexpected answer (408). Right behind
/// an answer, it is a part of that answer.
pub(crate) fn is_close(why: End, age: Msec) -> bool {
    why == End::ServerClosed || why == End::UnexpectedData && age > BEHIND
}

/// The server has closed a connection that was idle for `age` and has served `requests`: see [`Lesson::closed`].
#[cold]
pub(crate) fn on_close(
    upstream: &Upstream,
    address: &[u8],
    lesson: Lesson,
    (conn, requests): (Conn, usize),
    age: Msec,
) {
    let trip = round_trip(conn).unwrap_or(0);
    let change = lesson.closed(&upstream.witness(), now(), age, requests, trip);
    log_change(upstream, address, change);
}

/// Tells what was learned of a server, or forgotten.
pub(crate) fn log_change(upstream: &Upstream, address: &[u8], change: Option<Change>) {
    let Some(Change { what, limit }) = change else { return };
    let log = cycle_log();
    if !takes(log, NGX_LOG_INFO) {
        return;
    }
    let timeout = upstream.limits.map_or(0, |limits| limits.timeout);
    let text = crate::lessons::text::change(&address_text(address), what, limit, timeout);
    let Ok(text) = std::ffi::CString::new(text) else { return };
    let name = upstream.name();
    // SAFETY: the log of the cycle; `%s` takes a string that ends with a null byte, `%V` a string of nginx.
    unsafe {
        let format = c"%s in upstream \"%V\"".as_ptr();
        ngx_log_error_core(NGX_LOG_INFO as usize, log, 0, format, text.as_ptr(), name);
    }
}
