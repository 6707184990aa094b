//! The servers to which connections were released since waiting requests were last served.
#![forbid(unsafe_code)]

/// How many are remembered. Waiting requests that are not told of a connection ask for it later.
const MOST: usize = 32;

/// For each connection, the number of its server.
#[derive(Debug, Default)]
pub struct Released {
    servers: [u32; MOST],
    len: usize,
}

impl Released {
    /// A connection to the server was released.
    pub fn add(&mut self, server: u32) {
        if let Some(place) = self.servers.get_mut(self.len) {
            *place = server;
            self.len += 1;
        }
    }

    /// Takes one server.
    pub fn take(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        self.servers.get(self.len).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once() {
        let mut released = Released::default();
        (0..3).for_each(|server| released.add(server));
        let taken: Vec<_> = std::iter::from_fn(|| released.take()).collect();
        assert_eq!(taken, [2, 1, 0]);
    }

    #[test]
    fn a_full_list_takes_no_more() {
        let mut released = Released::default();
        (0..100).for_each(|server| released.add(server));
        assert_eq!(std::iter::from_fn(|| released.take()).count(), MOST);
    }
}
