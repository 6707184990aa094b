//! Finds a server of the configuration by its address.
#![forbid(unsafe_code)]

use crate::base::hash::hash_bytes;

use super::servers::Servers;

/// An index of servers by the hash of their address: a table with open addressing, of their numbers. The master makes it; its
/// workers share its memory, as they never write it.
#[derive(Debug, Default)]
pub(super) struct Index(Vec<u32>);

/// No server.
const FREE: u32 = u32::MAX;

impl Index {
    /// `None` if there is no memory.
    pub(super) fn new(servers: &Servers) -> Option<Self> {
        // At least a fifth of the places stays free, so that searches are short, and end.
        let size = (servers.len() + servers.len() / 4 + 1).next_power_of_two();
        let mut places = Vec::new();
        places.try_reserve_exact(size).ok()?;
        places.resize(size, FREE);
        let mut index = Self(places);
        for (at, server) in (0..FREE).zip(servers.iter()) {
            // Of servers with the same address the first one counts.
            if let Err(place) = index.search(servers, server.address) {
                *index.0.get_mut(place)? = at;
            }
        }
        Some(index)
    }

    /// The position of the server in `servers`, which must be the list from which the index was made.
    pub(super) fn find(&self, servers: &Servers, address: &[u8]) -> Option<usize> {
        self.search(servers, address).ok()
    }

    /// The position of a server, or the place for it.
    fn search(&self, servers: &Servers, address: &[u8]) -> Result<usize, usize> {
        let mask = self.0.len().wrapping_sub(1);
        let mut place = hash_bytes(0, address) as usize & mask;
        loop {
            match self.0.get(place) {
                None | Some(&FREE) => return Err(place),
                Some(&at) => {
                    if servers.get(at as usize).is_some_and(|server| server.address == address) {
                        return Ok(at as usize);
                    }
                }
            }
            place = (place + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::servers::ServerInfo;
    use super::*;

    #[test]
    fn finds_each_server_and_no_other() {
        for number in [0, 1, 2, 3, 4, 100, 5000] {
            let address = |number: u32| number.to_be_bytes().to_vec();
            let server = |number| ServerInfo { address: address(number), ..ServerInfo::default() };
            let servers: Servers = (0..number).chain(0..number / 2).map(server).collect();
            let index = Index::new(&servers).unwrap();
            for it in 0..number {
                assert_eq!(index.find(&servers, &address(it)), Some(it as usize));
            }
            for other in number..number + 100 {
                assert_eq!(index.find(&servers, &address(other)), None);
            }
        }
        assert_eq!(Index::default().find(&Servers::default(), b"x"), None);
    }
}
