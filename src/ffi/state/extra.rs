//! What few requests have: those that wait, fail, or are sent again, and those whose upstream is not plain.
//!
//! Each request has a place for it, from the beginning if its upstream is not plain, see [`Upstream::note_kind`](super::upstream::Upstream::note_kind). Otherwise it
//! gets one when there is something to be noted. Until then it reads from an empty one, which all requests of the upstream share.

use std::cell::Cell;
use std::ptr::{self, NonNull};

use crate::base::clock::Msec;
use crate::ledger::Server;
use crate::queue::Ticket;
use crate::reuse::bound::Binding;

use super::notes::Before;
use super::peer_data::{OwnConf, PeerData};
use super::refusal::FrameListener;
use super::reuse::PinnedServer;
use super::stream::StreamRef;
use super::tried::Tried;
use super::waiter::Waiter;
use super::waits::WaitFailure;
use crate::ffi::nginx::process::elapsed;

/// To be read. `PeerData` has what writes it.
pub(crate) struct Extra {
    location: usize,
    stage: Cell<Stage>,
    server: Cell<Option<Server>>,
    binding: Cell<Option<Binding>>,
    is_reclaimed: Cell<bool>,
    tried: Cell<Option<NonNull<Tried>>>,
    stream: Cell<Option<StreamRef>>,
    #[cfg(nginx_resolve)]
    generation: Cell<usize>,
    own_conf: Cell<Option<NonNull<OwnConf>>>,
    listener: Option<NonNull<FrameListener>>,
    waiter: Cell<Option<NonNull<Waiter>>>,
    before: Cell<Option<NonNull<Before>>>,
}

/// How far an attempt has got.
///
/// ```text
///   Asking --- no server has room ---> Queued ---> Granting: it asks again, or Failing
///     |                                               |
///     +----- the server's connections are idle in other workers ---> Parked ---> Resuming
///     |
///     +----- another worker may have a connection ---> Inquiring ---> Informed
///     |
///     +----- all streams of a connection are taken ---> AwaitingStream ---> TryingStream
///     |
///     +--> a connection from the pool that is stale ---> Again: it asks for another one
/// ```
///
/// `Asking` includes an attempt that has its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Asking,
    Queued(Ticket),
    Granting(Ticket),
    /// It has a server, and waits for a slot.
    Parked(Ticket),
    Resuming(Ticket),
    /// It has a server, and has asked another worker for a connection.
    Inquiring(Ticket),
    /// It has a server, and looks whether the other worker has sent a connection.
    Informed(Ticket),
    /// It has a server, and waits for a stream of a connection.
    AwaitingStream(Ticket),
    /// It has a server, and looks whether a stream is free.
    TryingStream(Ticket),
    /// It has a server, which refused the connection after the wait.
    Declined,
    Failing(WaitFailure),
    /// It has a server, and a slot for a connection to it, but needs another connection.
    Again(NonNull<PinnedServer>),
}

impl Extra {
    /// Nothing: to be shared by the requests of a plain upstream.
    pub(crate) fn nothing() -> Self {
        Self::new(0, None)
    }

    /// That of a request which has reached no server yet. `location` is a number for its location with `keepalive ... local`,
    /// otherwise 0; `listener` hears what an HTTP/2 server says about the request.
    pub(crate) fn new(location: usize, listener: Option<NonNull<FrameListener>>) -> Self {
        Self {
            location,
            stage: Cell::new(Stage::Asking),
            server: Cell::new(None),
            binding: Cell::new(None),
            is_reclaimed: Cell::new(false),
            tried: Cell::new(None),
            stream: Cell::new(None),
            #[cfg(nginx_resolve)]
            generation: Cell::new(0),
            own_conf: Cell::new(None),
            listener,
            waiter: Cell::new(None),
            before: Cell::new(None),
        }
    }

    /// With `keepalive ... local` a number for the location, otherwise 0.
    #[inline(always)]
    pub(crate) fn location(&self) -> usize {
        self.location
    }

    #[inline(always)]
    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// The server of the present attempt, if it has `max_conns`: the request is counted there.
    #[inline(always)]
    pub(crate) fn server(&self) -> Option<Server> {
        self.server.get()
    }

    /// The connection of the present attempt belongs to this client.
    #[inline(always)]
    pub(crate) fn binding(&self) -> Option<Binding> {
        self.binding.get()
    }

    /// The connection was found for its client, and the balancer does not know of the attempt.
    #[inline(always)]
    pub(crate) fn is_reclaimed(&self) -> bool {
        self.is_reclaimed.get()
    }

    /// The servers that have failed, if the request may have to wait.
    pub(crate) fn tried(&self) -> Option<&Tried> {
        // SAFETY: `note_tried` has put it into the pool of the live request.
        self.tried.get().map(|tried| unsafe { tried.as_ref() })
    }

    /// What the request has of streams, if it ever had one.
    #[inline(always)]
    pub(crate) fn stream(&self) -> Option<StreamRef> {
        self.stream.get()
    }

    /// The number of the set of servers from which its server was chosen; 0 if servers do not change.
    pub(crate) fn generation(&self) -> usize {
        #[cfg(nginx_resolve)]
        return self.generation.get();
        #[cfg(not(nginx_resolve))]
        0
    }

    #[inline(always)]
    pub(crate) fn own_conf(&self) -> Option<NonNull<OwnConf>> {
        self.own_conf.get()
    }

    /// Hears what an HTTP/2 server says about the request.
    #[inline(always)]
    pub(crate) fn listener(&self) -> Option<&FrameListener> {
        // SAFETY: in the pool of the request, which is alive as long as its hooks are called.
        self.listener.map(|listener| unsafe { listener.as_ref() })
    }

    /// Set once the request has waited.
    pub(crate) fn waiter(&self) -> Option<NonNull<Waiter>> {
        self.waiter.get()
    }

    /// How long the request has waited, if it has, in milliseconds.
    pub(crate) fn waited(&self) -> Option<Msec> {
        // SAFETY: `Waiter::new` has put it into the pool of the live request.
        self.waiter.get().map(|waiter| elapsed(unsafe { waiter.as_ref() }.since.get()))
    }

    /// The notes about earlier attempts.
    pub(super) fn before(&self) -> Option<NonNull<Before>> {
        self.before.get()
    }
}

impl PeerData {
    /// What the request has besides.
    #[inline(always)]
    pub(crate) fn extra(&self) -> &Extra {
        // SAFETY: in the pool of the live request, or in its upstream; only its cells change.
        unsafe { self.extra.get().as_ref() }
    }

    /// The same, if it is the request's own.
    #[inline(always)]
    fn own(&self) -> Option<&Extra> {
        let extra = self.extra();
        (!ptr::eq(extra, &raw const self.upstream().nothing)).then_some(extra)
    }

    /// The same; the request gets one if it has none. `None` if there is no memory.
    #[cold]
    fn make_own(&self) -> Option<&Extra> {
        if self.own().is_none() {
            self.extra.set(self.request().memory().put(Extra::nothing())?);
        }
        self.own()
    }

    /// Prepares the request to reach another stage than [`Stage::Asking`]. `None` if there is no memory.
    #[cold]
    pub(crate) fn prepare_stages(&self) -> Option<()> {
        self.make_own().map(|_| ())
    }

    /// The request was prepared for the stage: see [`PeerData::prepare_stages`].
    #[inline]
    pub(crate) fn set_stage(&self, stage: Stage) {
        debug_assert!(self.own().is_some() || stage == Stage::Asking);
        if let Some(own) = self.own() {
            own.stage.set(stage);
        }
    }

    /// Sets the stage, and returns the one before.
    #[inline]
    pub(crate) fn replace_stage(&self, stage: Stage) -> Stage {
        let before = self.extra().stage();
        self.set_stage(stage);
        before
    }

    /// Only an upstream that is not plain has such servers.
    #[inline]
    pub(crate) fn set_server(&self, server: Option<Server>) {
        debug_assert!(self.own().is_some() || server.is_none());
        if let Some(own) = self.own() {
            own.server.set(server);
        }
    }

    #[inline]
    pub(crate) fn take_server(&self) -> Option<Server> {
        let server = self.extra().server();
        if server.is_some() {
            self.set_server(None);
        }
        server
    }

    /// Only an upstream that is not plain has connections that belong to clients.
    #[inline]
    pub(crate) fn set_binding(&self, binding: Option<Binding>) {
        debug_assert!(self.own().is_some() || binding.is_none());
        if let Some(own) = self.own() {
            own.binding.set(binding);
        }
    }

    /// Only an upstream that is not plain has connections that are found for their clients.
    pub(crate) fn set_reclaimed(&self, is_reclaimed: bool) {
        if let Some(own) = self.own() {
            own.is_reclaimed.set(is_reclaimed);
        }
    }

    /// Only an upstream that is not plain has streams.
    pub(crate) fn set_stream(&self, stream: Option<StreamRef>) {
        debug_assert!(self.own().is_some() || stream.is_none());
        if let Some(own) = self.own() {
            own.stream.set(stream);
        }
    }

    /// Only an upstream that is not plain has servers that change.
    #[cfg(nginx_resolve)]
    pub(crate) fn set_generation(&self, generation: usize) {
        if let Some(own) = self.own() {
            own.generation.set(generation);
        }
    }

    /// Remembers which servers the balancer has tried for this request; after a wait the balancer would not know.
    #[cold]
    pub(crate) fn note_tried(&self) {
        if let (Some(_), Some(own)) = (self.upstream().waits.directive, self.own()) {
            // SAFETY: the cycle of a borrowed upstream is alive, and so are the request and its pool.
            let tried = unsafe { Tried::of(self.upstream().us, self.balancer.get(), self.pool()) };
            own.tried.set(tried.or(own.tried.get()));
        }
    }

    /// The configuration that the request has for a while; `None` if there is no memory.
    #[cold]
    pub(super) fn set_own_conf(&self, conf: NonNull<OwnConf>) -> Option<()> {
        self.make_own()?.own_conf.set(Some(conf));
        Some(())
    }

    #[cold]
    pub(super) fn take_own_conf(&self) -> Option<NonNull<OwnConf>> {
        self.own()?.own_conf.take()
    }

    /// Notes the waiter of the request, and prepares it for the stages of a wait. `None` if there is no memory.
    pub(crate) fn set_waiter(&self, waiter: NonNull<Waiter>) -> Option<()> {
        self.make_own()?.waiter.set(Some(waiter));
        Some(())
    }

    /// Without memory, the note is lost.
    #[cold]
    pub(super) fn set_before(&self, before: NonNull<Before>) {
        if let Some(own) = self.make_own() {
            own.before.set(Some(before));
        }
    }
}
