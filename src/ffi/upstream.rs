//! The pool of one `upstream` in one worker, between the hooks and the core.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::key::{PeerKey, Wanted};
use crate::lifetime::Limits;
use crate::pool::IdlePool;

use super::handle::{Conn, HttpUpstream, Peer};

/// Belongs to the server conf of the upstream, lies in the cycle's pool and goes with it. Made by
/// the master; after the fork each worker has its own copy.
pub(crate) struct Upstream {
    pub(crate) limits: Limits,
    local: bool,
    idle: RefCell<IdlePool<PeerKey, Conn>>,
    /// Set while the core changes the pool. If it is found set, a panic came in between: the pool
    /// is not to be trusted any more, and is not used again.
    changing: Cell<bool>,
    /// One for each slot of the pool; written when the slot is filled.
    places: NonNull<MaybeUninit<Place>>,
}

/// What the `data` of an idle connection points at: the way back to its slot.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    upstream: NonNull<Upstream>,
    slot: u32,
}

/// What became of a connection that was to be stored.
pub(crate) struct Stored {
    pub(crate) place: NonNull<Place>,
    /// To be closed by the caller.
    pub(crate) evicted: Option<Conn>,
}

impl Upstream {
    /// # Safety
    /// `places` is memory for as many as `idle` has slots, and lives as long as the upstream.
    pub(crate) unsafe fn new(
        limits: Limits,
        local: bool,
        idle: IdlePool<PeerKey, Conn>,
        places: NonNull<MaybeUninit<Place>>,
    ) -> Self {
        Self { limits, local, idle: RefCell::new(idle), changing: Cell::new(false), places }
    }

    /// Takes an idle connection to the peer that the balancer chose, for this request.
    #[inline]
    pub(crate) fn checkout(&self, peer: Peer, request: HttpUpstream) -> Option<Conn> {
        let wanted = self.wanted(&peer, request);
        self.change(|idle| idle.checkout(wanted.hash(), |key| wanted.is(key)))?
    }

    /// Stores a connection; `None` if it cannot be.
    #[inline]
    pub(crate) fn store(&self, peer: Peer, request: HttpUpstream, conn: Conn) -> Option<Stored> {
        let wanted = self.wanted(&peer, request);
        if !wanted.can_be_key() {
            return None;
        }
        let put = self.change(|idle| idle.put(wanted.hash(), |key| wanted.write_key(key), conn))?;
        // SAFETY: a slot's number is below the capacity, for which there are places.
        let mut place = unsafe { self.places.add(put.slot as usize) };
        // SAFETY: the memory is ours, and only the connection in this slot points at it.
        let place = unsafe { place.as_mut() };
        let place = place.write(Place { upstream: NonNull::from(self), slot: put.slot });
        Some(Stored { place: NonNull::from(place), evicted: put.evicted })
    }

    #[inline]
    fn wanted<'a>(&self, peer: &'a Peer, request: HttpUpstream) -> Wanted<'a> {
        Wanted { address: peer.address(), location: if self.local { request.location() } else { 0 } }
    }

    /// The only way to the pool; `None` when it is not to be trusted.
    #[inline]
    fn change<T>(&self, by: impl FnOnce(&mut IdlePool<PeerKey, Conn>) -> T) -> Option<T> {
        if self.changing.replace(true) {
            return None;
        }
        let result = by(&mut self.idle.borrow_mut());
        self.changing.set(false);
        Some(result)
    }
}

impl Place {
    /// Takes the connection out of the pool, if it is still the one in its slot.
    ///
    /// # Safety
    /// `place` was given out by [`Upstream::store`], and the connection was open ever since: so
    /// nginx kept the cycle in whose pool the upstream lies.
    pub(crate) unsafe fn vacate(place: NonNull<Place>, conn: Conn) {
        // SAFETY: see above; initialised by `store`.
        let Place { upstream, slot } = unsafe { place.read() };
        // SAFETY: see above; the upstream is only ever shared.
        let upstream = unsafe { upstream.as_ref() };
        upstream.change(|idle| idle.remove(slot, |c| *c == conn));
    }
}
