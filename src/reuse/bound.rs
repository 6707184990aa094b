//! Connections that are bound to one client each (`ntlm`), and how they are found again.
//!
//! ```text
//!   client 17 ---- connection 1: server 10.0.0.1:80, in the pool's slot 4
//!             \--- connection 2: server 10.0.0.2:80 with TLS, used by a request
//!   client 23 ---- (no connection any more)
//! ```
//!
//! A client is identified by the number of its connection to nginx. No number is used twice while nginx runs. A bound
//! connection has that number in its identity, so that the pool gives it to no other client. This table has the server of
//! each, so that a request of the client goes to that server without asking the balancer. A client has no two bound
//! connections that would serve the same requests: while one is in use, others may be opened, but are not kept.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::num::NonZeroU64;

use crate::base::address::MAX_ADDRESS;
use crate::base::memory::push;

/// The number of a client's connection to nginx.
pub type Client = NonZeroU64;

/// How many bound connections one client may have at a time.
const MAX_OF_CLIENT: usize = 16;

/// The longest text of an address that is kept, in bytes. Every address fits, including the prefix `unix:`.
const MAX_NAME: usize = 120;

/// A reference to a bound connection: its number and its client. It finds nothing once the connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    client: Client,
    number: u64,
}

impl Binding {
    /// A reference to the connection with this number. No number is used twice.
    pub fn new(client: Client, number: u64) -> Self {
        Self { client, number }
    }

    /// The client to which the connection is bound.
    pub fn client(self) -> Client {
        self.client
    }
}

/// A server as the balancer chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundServer {
    address: [u8; MAX_ADDRESS],
    address_length: u8,
    name: [u8; MAX_NAME],
    name_length: u8,
}

impl BoundServer {
    /// `None` if the address is longer than [`MAX_ADDRESS`]. The name is for people to read, and may be truncated.
    pub fn new(address: &[u8], name: &[u8]) -> Option<Self> {
        let name = name.get(..MAX_NAME).unwrap_or(name);
        let mut server = Self {
            address: [0; MAX_ADDRESS],
            address_length: address.len() as u8,
            name: [0; MAX_NAME],
            name_length: name.len() as u8,
        };
        server.address.get_mut(..address.len())?.copy_from_slice(address);
        server.name.get_mut(..name.len())?.copy_from_slice(name);
        Some(server)
    }

    /// The bytes of its socket address.
    pub fn address(&self) -> &[u8] {
        self.address.get(..usize::from(self.address_length)).unwrap_or_default()
    }

    /// Its name, perhaps truncated.
    pub fn name(&self) -> &[u8] {
        self.name.get(..usize::from(self.name_length)).unwrap_or_default()
    }
}

#[derive(Debug)]
struct BoundConnection {
    number: u64,
    /// Connections that would serve the same requests have equal values.
    shape: u64,
    server: BoundServer,
    /// The slot in which the pool stored it last.
    slot: Option<u32>,
}

/// The clients of one upstream that have or had bound connections and are still connected.
#[derive(Debug, Default)]
pub struct Bindings {
    clients: HashMap<Client, Vec<BoundConnection>>,
}

impl Bindings {
    /// Whether the client is in the table. If so, the caller reports the client's end by [`Bindings::remove_next`].
    pub fn knows(&self, client: Client) -> bool {
        self.clients.contains_key(&client)
    }

    /// Adds a client. `None` if there is no memory.
    pub fn add_client(&mut self, client: Client) -> Option<()> {
        self.clients.try_reserve(1).ok()?;
        self.clients.entry(client).or_default();
        Some(())
    }

    /// Binds a connection to a client that is in the table. `None` if the client has a connection with the same `shape`, or
    /// has the most connections that are allowed, or if there is no memory.
    pub fn bind(&mut self, binding: Binding, shape: u64, server: BoundServer) -> Option<()> {
        let Binding { client, number } = binding;
        let all = self.clients.get_mut(&client)?;
        if all.len() >= MAX_OF_CLIENT || all.iter().any(|bound| bound.shape == shape) {
            return None;
        }
        push(all, BoundConnection { number, shape, server, slot: None })
    }

    /// The connection number `at` of a client, counted from the newest one, and its server. Connections in use count too.
    pub fn server(&self, client: Client, at: usize) -> Option<(Binding, BoundServer)> {
        let bound = self.clients.get(&client)?.iter().rev().nth(at)?;
        Some((Binding { client, number: bound.number }, bound.server))
    }

    /// Notes the slot in which the pool has stored the connection.
    pub fn store(&mut self, binding: Binding, slot: u32) {
        let all = self.clients.get_mut(&binding.client);
        let bound = all.and_then(|all| all.iter_mut().find(|bound| bound.number == binding.number));
        if let Some(bound) = bound {
            bound.slot = Some(slot);
        }
    }

    /// Removes a connection that has ended.
    pub fn end(&mut self, binding: Binding) {
        if let Some(all) = self.clients.get_mut(&binding.client) {
            all.retain(|bound| bound.number != binding.number);
        }
    }

    /// Removes a client that has disconnected: each call removes one connection and returns it with the slot in which the
    /// pool stored it last, if it did. `None` once the client has no more; then the client is removed too.
    pub fn remove_next(&mut self, client: Client) -> Option<(Binding, Option<u32>)> {
        match self.clients.get_mut(&client)?.pop() {
            Some(BoundConnection { number, slot, .. }) => Some((Binding { client, number }, slot)),
            None => {
                self.clients.remove(&client);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Client = Client::new(17).unwrap();
    const BOB: Client = Client::new(23).unwrap();

    fn bind(all: &mut Bindings, client: Client, number: u64, shape: u64, name: &str) -> Option<Binding> {
        let binding = Binding::new(client, number);
        all.bind(binding, shape, server(name)).map(|()| binding)
    }

    fn server(name: &str) -> BoundServer {
        BoundServer::new(name.as_bytes(), name.as_bytes()).unwrap()
    }

    fn names(all: &Bindings, client: Client) -> Vec<String> {
        let servers = (0..).map_while(|at| all.server(client, at));
        servers.map(|(_, server)| String::from_utf8(server.name().to_vec()).unwrap()).collect()
    }

    #[test]
    fn each_client_finds_its_own() {
        let mut all = Bindings::default();
        assert_eq!(bind(&mut all, ALICE, 101, 1, "a"), None);
        all.add_client(ALICE).unwrap();
        all.add_client(BOB).unwrap();
        let first = bind(&mut all, ALICE, 102, 1, "a").unwrap();
        bind(&mut all, BOB, 103, 1, "b").unwrap();
        bind(&mut all, ALICE, 104, 2, "c").unwrap();
        assert_eq!(names(&all, ALICE), ["c", "a"]);
        assert_eq!(names(&all, BOB), ["b"]);
        all.end(first);
        all.end(first);
        assert_eq!(names(&all, ALICE), ["c"]);
    }

    #[test]
    fn a_client_has_no_two_of_a_shape() {
        let mut all = Bindings::default();
        all.add_client(ALICE).unwrap();
        let first = bind(&mut all, ALICE, 105, 1, "a").unwrap();
        assert_eq!(bind(&mut all, ALICE, 106, 1, "b"), None);
        all.end(first);
        let second = bind(&mut all, ALICE, 107, 1, "b").unwrap();
        assert_ne!(first, second);
        all.end(first);
        assert_eq!(names(&all, ALICE), ["b"]);
        for shape in 2..=MAX_OF_CLIENT as u64 {
            assert!(bind(&mut all, ALICE, 108, shape, "c").is_some());
        }
        assert_eq!(bind(&mut all, ALICE, 109, 99, "c"), None);
    }

    #[test]
    fn a_client_that_leaves_is_forgotten() {
        let mut all = Bindings::default();
        all.add_client(ALICE).unwrap();
        let stored = bind(&mut all, ALICE, 110, 1, "a").unwrap();
        let used = bind(&mut all, ALICE, 111, 2, "a").unwrap();
        all.store(stored, 4);
        assert!(all.knows(ALICE));
        assert_eq!(all.remove_next(ALICE), Some((used, None)));
        assert_eq!(all.remove_next(ALICE), Some((stored, Some(4))));
        assert_eq!(all.remove_next(ALICE), None);
        assert!(!all.knows(ALICE));
        // A connection that comes back now has no client.
        all.store(used, 5);
        all.end(used);
        assert_eq!(all.remove_next(ALICE), None);
    }

    #[test]
    fn names_are_cut_and_addresses_are_not() {
        let long = [b'x'; 200];
        assert_eq!(BoundServer::new(&[1; MAX_ADDRESS], &long).unwrap().name().len(), MAX_NAME);
        assert_eq!(BoundServer::new(&long, b""), None);
        assert_eq!(BoundServer::new(&[1, 2], b"n").unwrap().address(), [1, 2]);
    }
}
