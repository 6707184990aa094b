//! A request that becomes a stream of a carrier, if the upstream has `http2`: it joins one, opens one, or waits for one; and it
//! leaves it.

use std::ptr::NonNull;
use std::rc::Rc;

use nginx_sys::{
    ngx_int_t, ngx_uint_t, NGX_DONE, NGX_ERROR, NGX_HTTP_UPSTREAM_FT_ERROR,
    NGX_HTTP_UPSTREAM_FT_INVALID_HEADER, NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT, NGX_OK, NGX_PEER_FAILED,
};

use crate::directive::Http2Mode;
use crate::http2::carrier::{Close, Kind};
use crate::http2::request::{path, Path};
use crate::http2::sharing::{GroupId, Place, Room};
use crate::metrics::{Count, Http2Count};
use crate::pool::Key;
use crate::reuse::stale::StaleRetry;

use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::process::now;
use crate::ffi::peer::carrier::{become_carrier_later, end_opening};
use crate::ffi::peer::connect::{has_slot, open, park_for_slot};
use crate::ffi::peer::hooks::AttemptEnd;
use crate::ffi::peer::identity;
use crate::ffi::peer::refusal;
use crate::ffi::peer::retry::{pin_server, will_repeat};
use crate::ffi::state::carrier::{most, room, Carrier, PROTOCOL};
use crate::ffi::state::extra::Stage;
use crate::ffi::state::notes::Status;
use crate::ffi::state::peer_data::{Attempt, PeerData};
use crate::ffi::state::reuse::PinnedServer;
use crate::ffi::state::stream::Stream;
use crate::ffi::streams::board::{board, leave};
use crate::ffi::waiting::enqueue::ServerReturn;
use crate::ffi::waiting::stream::await_stream;

/// How often a request is sent to the same server again that has refused it, at most.
const MAX_REFUSALS: u32 = 1;

/// The same if the server ends one connection after the other, but has processed requests on each of them: a request that comes
/// with many others may be among those above its limit several times.
const MAX_LEFT_BEHIND: u32 = 64;

/// How the request is sent as a stream; `None` if it needs a connection of its own.
#[inline]
pub(super) fn kind_of(kp: &PeerData) -> Option<Kind> {
    match path(kp.first_buffer.get().bytes()) {
        // The client may still be sending its body.
        Path::Frames if kp.request().is_unbuffered() => Some(Kind::Frames),
        Path::Frames => Some(Kind::KeptFrames),
        // Without TLS, nothing tells whether the server speaks HTTP/2.
        Path::Translate => {
            let may = kp.upstream().http2.get().mode == Http2Mode::On || kp.u.uses_tls();
            may.then_some(Kind::Translated)
        }
        Path::Ordinary => None,
    }
}

/// Finds a stream for the request, or opens a connection that will be a carrier. `None` if the request gets a connection in the
/// usual way.
pub(super) fn connect_stream(kp: &PeerData, peer: Peer, is_within_limit: bool) -> Option<ngx_int_t> {
    const ERROR: Option<ngx_int_t> = Some(NGX_ERROR as ngx_int_t);
    let kind = kind_of(kp)?;
    match find_place(kp, peer) {
        Some(Place::Join(carrier)) => match board(kp, peer, &carrier, kind) {
            Some(stream) => {
                stream.has_joined.set(true);
                note_join(kp, &carrier);
                Some(NGX_DONE as ngx_int_t)
            }
            None => ERROR,
        },
        Some(Place::Wait(group)) => Some(await_stream(kp, peer, group)),
        Some(Place::Open(group)) => Some(open_carrier(kp, peer, group, is_within_limit)),
        Some(Place::Ordinary) => {
            // The server may have changed its mind.
            become_carrier_later(kp, None);
            None
        }
        Some(Place::Failed) | None => ERROR,
    }
}

/// Evaluates the identity that the connection must have, and looks for carriers that have it. `None` if it is unknown.
fn find_place(kp: &PeerData, peer: Peer) -> Option<Place<Rc<Carrier>>> {
    // SAFETY: the request that asks for a peer is live, and the balancer has chosen one.
    let identity = unsafe { identity::identity(kp.r, kp.u) }?;
    // SAFETY: written into the pool of the live request just now, or empty.
    let key = identity::key(&peer, kp.u, kp.extra().location(), unsafe { identity.as_slice() });
    let key = Key { protocol: PROTOCOL, ..key };
    let has_waited = matches!(kp.extra().stage(), Stage::TryingStream(_));
    let upstream = kp.upstream();
    let refused_by = kp.extra().stream().map_or(std::ptr::null(), |stream| stream.refused_by.get());
    let room_elsewhere = |carrier: &Rc<Carrier>| match room(carrier) {
        room if Rc::as_ptr(carrier) == refused_by => Room { streams: 0, ..room },
        room => room,
    };
    let place = upstream.carriers.with(|all| {
        let place = all.place(&key, most(upstream), has_waited, now(), room_elsewhere);
        let is_only_there = !refused_by.is_null() && matches!(place, Place::Wait(_));
        if is_only_there {
            all.place(&key, most(upstream), has_waited, now(), room)
        } else {
            place
        }
    });
    kp.attempt.set(Some(Attempt::new(identity, None)));
    place
}

/// The request opens a connection that will be a carrier.
fn open_carrier(kp: &PeerData, peer: Peer, group: GroupId, is_within_limit: bool) -> ngx_int_t {
    let upstream = kp.upstream();
    let give_up = || upstream.carriers.with(|all| all.not_opened(group, false));
    if let Some(server) = kp.extra().server() {
        if !has_slot(kp, server, is_within_limit) {
            give_up();
            return park_for_slot(kp, peer, server);
        }
    }
    if become_carrier_later(kp, Some(group)).is_none() {
        give_up();
        return NGX_ERROR as ngx_int_t;
    }
    #[cfg(ngx_feature = "http_ssl")]
    if kp.u.uses_tls() {
        // SAFETY: the request that asks for a peer is live, and uses TLS.
        let is_copied = unsafe { identity::tls::ask_for_any_handshake(kp.r, kp.u) }.is_some();
        kp.without_sessions.set(is_copied);
    }
    let has_waited = !matches!(kp.extra().stage(), Stage::Asking | Stage::Informed(_));
    open(kp, peer, if has_waited { Status::Queued } else { Status::Miss });
    NGX_OK as ngx_int_t
}

/// Counts a request that has joined a carrier.
fn note_join(kp: &PeerData, carrier: &Carrier) {
    if let Some(meter) = carrier.meter {
        meter.count(Count::Reused);
    }
    let has_waited = kp.extra().stage() != Stage::Asking;
    let served = carrier.state.with(|state| state.served()).unwrap_or(0);
    kp.note(
        if has_waited { Status::Queued } else { Status::Shared },
        usize::try_from(served).unwrap_or(usize::MAX),
    );
}

/// The end of an attempt that had a stream, or whose connection was to become a carrier. `None` if the connection is handled in
/// the usual way.
#[inline(never)]
pub(super) fn free_stream(kp: &PeerData, peer: Peer, state: ngx_uint_t) -> Option<AttemptEnd> {
    let stream = kp.extra().stream()?;
    end_opening(kp);
    let can_be_sent = stream.ride.borrow().is_some() && refusal::can_be_sent_anew(kp, stream.conn());
    let (carrier, close) = leave(kp, peer)?;
    kp.attempt.set(None);
    let returned = |server| AttemptEnd { server: Some(server), connection: Ok(()) };
    let has_failed = state & NGX_PEER_FAILED as ngx_uint_t != 0;
    let is_refused = close == Close::Refused || (close == Close::Unsent && carrier.conn.get().is_none());
    let is_stale = close == Close::Failed
        && carrier.conn.get().is_none()
        && stream.has_joined.get()
        && !refusal::has_response(kp);
    if has_failed && close == Close::Unfit {
        // Nor would another server get it; this one has no part in it.
        peer.set_tries(0);
        return Some(returned(ServerReturn::without_failure(state)));
    }
    if !has_failed || !(is_refused || is_stale) {
        return Some(returned(ServerReturn::State(state)));
    }
    let meter = carrier.meter.filter(|_| is_stale);
    if let Some(meter) = meter {
        meter.count(Count::Stale);
    }
    if is_stale {
        kp.notes.was_stale();
        if kp.upstream().stale_fails {
            return Some(returned(ServerReturn::State(state)));
        }
    }
    let pinned = can_be_sent.then(|| send_again(kp, peer, &carrier, &stream, is_refused)).flatten();
    match pinned {
        Some(pinned) => {
            if let Some(meter) = meter {
                meter.count(Count::Repeats);
            }
            kp.set_stage(Stage::Again(pinned));
            Some(AttemptEnd { server: None, connection: Ok(()) })
        }
        // What has become of the connection says nothing of the server.
        None if is_refused => {
            if !can_be_sent || peer.tries() <= 1 {
                kp.request().log_error(
                    c"upstream has refused the HTTP/2 stream, and the request cannot be sent again",
                );
            }
            Some(returned(ServerReturn::without_failure(state)))
        }
        None => Some(returned(ServerReturn::without_failure(state))),
    }
}

/// Decides about a request that was not answered because its connection has ended, or that the server has refused. Returns the
/// server if the request is to be sent to it again. Otherwise the next server may get it.
fn send_again(
    kp: &PeerData,
    peer: Peer,
    carrier: &Carrier,
    stream: &Stream,
    is_refused: bool,
) -> Option<NonNull<PinnedServer>> {
    let may = kp.upstream().stale_retry != StaleRetry::Off
        && will_repeat(kp, is_refused)
        && kp.u.ready_for_new_connection(kp.first_buffer.get());
    if !may {
        return None;
    }
    if is_refused {
        stream.refused_by.set(carrier);
        kp.allow_repeating(
            NGX_HTTP_UPSTREAM_FT_ERROR
                | NGX_HTTP_UPSTREAM_FT_INVALID_HEADER
                | NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT,
        );
        kp.unsent.set(true);
    }
    let refusals = stream.refusals.replace(stream.refusals.get() + 1);
    let makes_progress = carrier
        .state
        .with(|state| state.is_draining() && state.counters().opened > state.counters().refused)
        .unwrap_or(false);
    let most = if makes_progress { MAX_LEFT_BEHIND } else { MAX_REFUSALS };
    let pinned = (refusals < most).then(|| pin_server(kp, peer, false)).flatten();
    // Without it, the core takes the next server, if there is one.
    if pinned.is_some() || peer.tries() > 1 {
        if let Some(meter) = kp.upstream().http2_meter() {
            meter.add(Http2Count::Repeats, 1);
        }
    }
    pinned
}
