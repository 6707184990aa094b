//! Hashes of addresses and identities. Equal hashes do not mean equal values: callers compare the values too.
#![forbid(unsafe_code)]

/// Adds bytes to a hash. 16 bytes, the length of an IPv4 socket address, take a faster path.
#[inline]
pub(crate) fn hash_bytes(hash: u64, bytes: &[u8]) -> u64 {
    match <&[u8; 16]>::try_from(bytes) {
        Ok(ipv4) => {
            let words = u128::from_ne_bytes(*ipv4);
            mix(mix(hash, words as u64), (words >> 64) as u64)
        }
        Err(_) => hash_any(hash, bytes),
    }
}

#[inline(never)]
fn hash_any(mut hash: u64, mut bytes: &[u8]) -> u64 {
    while let Some((word, others)) = bytes.split_first_chunk() {
        hash = mix(hash, u64::from_ne_bytes(*word));
        bytes = others;
    }
    bytes.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}

/// Adds a word to a hash. A multiplication carries only upwards, and the last bytes of a socket address, read as a
/// number, are at the top. So both halves of the product are used.
#[inline]
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash.rotate_left(5) ^ word) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

/// An address as words, which is how shared memory stores it. The last word is padded with zeros.
pub(crate) fn words_of(address: &[u8]) -> impl Iterator<Item = u64> + '_ {
    address.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(chunk) {
            *to = *from;
        }
        u64::from_ne_bytes(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many entries a search looks at on average, with as many buckets as entries.
    fn looked_at(addresses: impl Iterator<Item = Vec<u8>>) -> f64 {
        let hashes: Vec<u32> = addresses.map(|address| hash_bytes(0, &address) as u32).collect();
        let mask = hashes.len().next_power_of_two() as u32 - 1;
        let mut counts = std::collections::HashMap::new();
        for hash in &hashes {
            *counts.entry(hash & mask).or_insert(0u32) += 1;
        }
        counts.values().map(|n| f64::from(n * (n + 1)) / 2.0).sum::<f64>() / hashes.len() as f64
    }

    fn ipv4(port: u16, address: u32) -> Vec<u8> {
        let mut bytes = vec![2, 0];
        bytes.extend(port.to_be_bytes());
        bytes.extend(address.to_be_bytes());
        bytes.resize(16, 0);
        bytes
    }

    #[test]
    fn addresses_as_they_are_met_spread_over_the_buckets() {
        let net = u32::from_be_bytes([10, 0, 0, 0]);
        for count in [250, 1000, 10_000] {
            let ports = looked_at((0..count).map(|n| ipv4(1024 + n as u16, net)));
            let hosts = looked_at((0..count).map(|n| ipv4(8080, net + n)));
            let subnets = looked_at((0..count).map(|n| ipv4(8080, net + 256 * n)));
            let ipv6 =
                looked_at((0..count).map(|n| [ipv4(8080, 0), n.to_be_bytes().into(), vec![0; 8]].concat()));
            for looked_at in [ports, hosts, subnets, ipv6] {
                assert!(looked_at < 1.7, "{count}: {looked_at}");
            }
        }
    }
}
