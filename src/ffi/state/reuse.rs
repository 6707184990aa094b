//! A connection that was used again, and the server that a request keeps if it turns out to be stale.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::base::clock::Msec;
use crate::reuse::stale::Taken;

use crate::ffi::nginx::peer_connection::SavedPeer;

use super::peer_data::PeerData;
use super::upstream::RoundTrip;

/// A connection that came from the pool, in the moment in which it did.
#[derive(Clone, Copy)]
pub(crate) struct Reuse {
    pub(crate) then: Msec,
    /// The number of the last request that the server serves on it, as far as it said.
    pub(crate) allowed: u32,
    /// How long a round trip takes, once that was asked.
    pub(crate) round_trip: Option<RoundTrip>,
    /// To prove later that a request has not arrived; in the request's pool.
    pub(crate) taken: Option<NonNull<Taken>>,
}

/// The server that a request keeps.
pub(crate) struct PinnedServer {
    pub(crate) request: NonNull<PeerData>,
    pub(crate) peer: SavedPeer,
    pub(crate) is_held: Cell<bool>,
    /// The connection that has failed came from the pool.
    pub(crate) was_stale: bool,
}
