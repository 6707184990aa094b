//! What a connection must have in common with a request to be reused for it.
#![forbid(unsafe_code)]

/// Room for the longest socket address that nginx knows (`ngx_sockaddr_t`, a unix socket's).
const MAX_ADDRESS: usize = 112;

/// The peer that a request asks for; borrows the address from the request.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The socket address, byte for byte.
    pub address: &'a [u8],
    /// With `local` a number that stands for the location, otherwise 0.
    pub location: usize,
}

/// The peer that a stored connection leads to.
#[derive(Clone, Debug)]
pub struct PeerKey {
    location: usize,
    length: u8,
    address: [u8; MAX_ADDRESS],
}

impl Wanted<'_> {
    /// A number to find the bucket by. Equal keys have equal hashes; the reverse is for
    /// [`Wanted::is`] to say.
    #[inline]
    pub fn hash(&self) -> u32 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(ODD);
        let mut hash = mix(0, self.location as u64);
        let mut words = self.address.chunks_exact(8);
        for word in &mut words {
            hash = mix(hash, word.try_into().map_or(0, u64::from_ne_bytes));
        }
        for byte in words.remainder() {
            hash = mix(hash, u64::from(*byte));
        }
        // The upper half depends on every bit of the words, the lower one only on lower bits.
        (hash >> 32) as u32
    }

    /// Whether the stored connection leads to exactly this peer.
    #[inline]
    pub fn is(&self, key: &PeerKey) -> bool {
        key.location == self.location && key.address() == Some(self.address)
    }

    /// Whether the address is one of those that nginx knows, and so fits into a [`PeerKey`].
    #[inline]
    pub fn can_be_key(&self) -> bool {
        self.address.len() <= MAX_ADDRESS
    }

    /// Makes `key` that of a connection to this peer. An address that is too long leaves a key
    /// that nothing matches.
    #[inline]
    pub fn write_key(&self, key: &mut PeerKey) {
        key.location = self.location;
        key.length = u8::MAX;
        if let Some(room) = key.address.get_mut(..self.address.len()) {
            room.copy_from_slice(self.address);
            key.length = self.address.len() as u8;
        }
    }
}

impl Default for PeerKey {
    fn default() -> Self {
        Self { location: 0, length: 0, address: [0; MAX_ADDRESS] }
    }
}

impl PeerKey {
    #[inline]
    fn address(&self) -> Option<&[u8]> {
        self.address.get(..usize::from(self.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: &[u8], location: usize) -> Wanted<'_> {
        Wanted { address, location }
    }

    fn key(peer: &Wanted<'_>) -> PeerKey {
        let mut key = PeerKey::default();
        wanted(&[9; MAX_ADDRESS], 9).write_key(&mut key);
        peer.write_key(&mut key);
        key
    }

    #[test]
    fn the_same_peer_is_recognised() {
        for length in 0..=MAX_ADDRESS {
            let address = vec![7; length];
            let peer = wanted(&address, 3);
            assert!(peer.can_be_key() && peer.is(&key(&peer)));
            assert_eq!(peer.hash(), wanted(&address.clone(), 3).hash());
        }
    }

    #[test]
    fn a_difference_in_any_byte_or_in_the_location_separates() {
        let address = [1u8; 16];
        let key = key(&wanted(&address, 0));
        for at in 0..16 {
            let mut other = address;
            other[at] ^= 1;
            assert!(!wanted(&other, 0).is(&key));
            assert_ne!(wanted(&other, 0).hash(), wanted(&address, 0).hash());
        }
        assert!(!wanted(&address, 1).is(&key));
        assert!(!wanted(&address[..15], 0).is(&key));
        assert!(!wanted(&[1; 17], 0).is(&key));
    }

    #[test]
    fn an_address_that_is_too_long_matches_nothing() {
        let long = [0; MAX_ADDRESS + 1];
        let peer = wanted(&long, 0);
        assert!(!peer.can_be_key());
        assert!(!peer.is(&key(&peer)));
    }
}
