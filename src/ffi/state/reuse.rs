//! A reused connection, and the server that a request keeps if the connection turns out to be stale.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::base::clock::Msec;

use crate::ffi::nginx::peer_connection::SavedPeer;

use super::peer_data::PeerData;
use super::upstream::RoundTrip;

/// A connection from the pool, at the time when it was taken.
#[derive(Clone, Copy)]
pub(crate) struct Reuse {
    /// Since when it was idle.
    pub(crate) since: Msec,
    /// Its slot in the pool.
    pub(crate) slot: u32,
    /// The number of the last request that the server accepts on it, if the server said so.
    pub(crate) allowed: u32,
    /// The time of a round trip, if it was measured.
    pub(crate) round_trip: Option<RoundTrip>,
}

/// A server that a request keeps for its next attempt.
pub(crate) struct PinnedServer {
    pub(crate) request: NonNull<PeerData>,
    pub(crate) peer: SavedPeer,
    /// Whether the server was neither used again nor returned yet.
    pub(crate) is_held: Cell<bool>,
    /// Whether the connection that has failed came from the pool.
    pub(crate) was_stale: bool,
}
