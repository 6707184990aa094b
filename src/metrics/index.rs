//! Finds a server of the configuration by its address.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::base::hash::hash_bytes;

use super::plan::ServerInfo;

/// An index of servers by the hash of their address. The master makes it; its workers share its memory, as they never
/// write it.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<u64, u32, BuildHasherDefault<PassThroughHasher>>);

impl Index {
    /// `None` if there is no memory.
    pub(super) fn new(servers: &[ServerInfo]) -> Option<Self> {
        let mut index = HashMap::default();
        index.try_reserve(servers.len()).ok()?;
        for (at, server) in (0..).zip(servers) {
            index.entry(hash_bytes(0, &server.address)).or_insert(at);
        }
        Some(Self(index))
    }

    /// The position of the server in `servers`, which must be the list from which the index was made.
    pub(super) fn find(&self, servers: &[ServerInfo], address: &[u8]) -> Option<usize> {
        let at = *self.0.get(&hash_bytes(0, address))? as usize;
        match servers.get(at) {
            Some(server) if server.address == address => Some(at),
            // Two addresses have the same hash.
            _ => servers.iter().position(|server| server.address == address),
        }
    }
}

/// A hasher that passes keys on, because they are hashes already.
#[derive(Debug, Default)]
struct PassThroughHasher(u64);

impl Hasher for PassThroughHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash_bytes(self.0, bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
