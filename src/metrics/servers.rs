//! The servers of an upstream as they are configured. There can be thousands, and each worker has them in memory all the time, so
//! they are packed: a short entry for each, and all addresses and texts in one piece.
#![forbid(unsafe_code)]

use std::fmt;

use crate::base::memory::push;

/// What is known about a server.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// Its socket address, byte for byte.
    pub address: Vec<u8>,
    /// Its socket address as text.
    pub text: String,
    /// Its name in the configuration.
    pub name: String,
    /// It is used only if all other servers are down (`backup`).
    pub backup: bool,
    /// It is not used (`down`).
    pub down: bool,
    /// `max_conns`; 0 if there is no limit.
    pub max_conns: u64,
}

/// The same, in memory of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerView<'a> {
    /// See [`ServerInfo::address`].
    pub address: &'a [u8],
    /// See [`ServerInfo::text`].
    pub text: &'a str,
    /// See [`ServerInfo::name`].
    pub name: &'a str,
    /// See [`ServerInfo::backup`].
    pub backup: bool,
    /// See [`ServerInfo::down`].
    pub down: bool,
    /// See [`ServerInfo::max_conns`].
    pub max_conns: u64,
}

impl ServerInfo {
    /// A view of it.
    pub fn view(&self) -> ServerView<'_> {
        let Self { address, text, name, backup, down, max_conns } = self;
        ServerView { address, text, name, backup: *backup, down: *down, max_conns: *max_conns }
    }
}

/// Servers, in the order of the configuration.
#[derive(Clone, Default)]
pub struct Servers {
    entries: Vec<Entry>,
    /// Of each server the address; and the text and the name, if they differ.
    bytes: Vec<u8>,
    /// The servers that have `max_conns`, in their order, and its value.
    limits: Vec<(u32, u64)>,
}

#[derive(Clone)]
struct Entry {
    /// Where its bytes begin.
    at: u32,
    text: u32,
    /// The length of the name; [`SAME`] if the text is the name.
    name: u32,
    address: u8,
    backup: bool,
    down: bool,
}

const SAME: u32 = u32::MAX;

impl Servers {
    /// Servers with memory for so many, which have so many bytes. `None` if there is no memory.
    pub fn with_room(servers: usize, bytes: usize) -> Option<Self> {
        let mut all = Self::default();
        all.entries.try_reserve_exact(servers).ok()?;
        all.bytes.try_reserve_exact(bytes).ok()?;
        Some(all)
    }

    /// Adds a server, without `max_conns`. `None` if there is no memory.
    pub fn push(&mut self, server: ServerView<'_>) -> Option<()> {
        let (text, name) = (server.text.as_bytes(), server.name.as_bytes());
        let is_same = text == name;
        let parts = [server.address, text, if is_same { &[] } else { name }];
        let entry = Entry {
            at: u32::try_from(self.bytes.len()).ok()?,
            text: u32::try_from(text.len()).ok()?,
            name: if is_same { SAME } else { u32::try_from(name.len()).ok()? },
            address: u8::try_from(server.address.len()).ok()?,
            backup: server.backup,
            down: server.down,
        };
        self.entries.try_reserve(1).ok()?;
        self.bytes.try_reserve(parts.iter().map(|part| part.len()).sum()).ok()?;
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.entries.push(entry);
        Some(())
    }

    /// Sets what depends on all servers with the same address. To be called in the order of the servers. `None` if there is no
    /// memory.
    pub fn limit(&mut self, server: usize, down: bool, max_conns: u64) -> Option<()> {
        self.entries.get_mut(server)?.down = down;
        match max_conns {
            0 => Some(()),
            _ => push(&mut self.limits, (u32::try_from(server).ok()?, max_conns)),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A server.
    pub fn get(&self, server: usize) -> Option<ServerView<'_>> {
        self.entries.get(server).map(|entry| self.view(server, entry))
    }

    /// All servers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ServerView<'_>> {
        self.entries.iter().enumerate().map(|(server, entry)| self.view(server, entry))
    }

    fn view(&self, server: usize, entry: &Entry) -> ServerView<'_> {
        let Entry { backup, down, .. } = *entry;
        let limit = self.limits.binary_search_by_key(&server, |(server, _)| *server as usize);
        let max_conns = limit.ok().and_then(|at| self.limits.get(at)).map_or(0, |(_, limit)| *limit);
        let bytes = self.bytes.get(entry.at as usize..).unwrap_or(&[]);
        let (address, bytes) = bytes.split_at_checked(entry.address.into()).unwrap_or((bytes, &[]));
        let (text, bytes) = bytes.split_at_checked(entry.text as usize).unwrap_or((bytes, &[]));
        let name = if entry.name == SAME { text } else { bytes.get(..entry.name as usize).unwrap_or(&[]) };
        // They were strings.
        let [text, name] = [text, name].map(|bytes| std::str::from_utf8(bytes).unwrap_or_default());
        ServerView { address, text, name, backup, down, max_conns }
    }
}

impl FromIterator<ServerInfo> for Servers {
    /// For a few servers: those for which there is no memory are left out.
    fn from_iter<I: IntoIterator<Item = ServerInfo>>(from: I) -> Self {
        let mut all = Self::default();
        for server in from {
            let added = all.push(server.view());
            added.and_then(|()| all.limit(all.len() - 1, server.down, server.max_conns));
        }
        all
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_as_it_was() {
        let server = |number: u8| ServerInfo {
            address: vec![number; usize::from(number) * 7],
            text: "t".repeat(number.into()),
            name: "é".repeat(usize::from(number % 3) * 2),
            backup: number % 2 == 0,
            down: number % 3 == 0,
            max_conns: if number % 2 == 0 { u64::MAX - u64::from(number) } else { 0 },
        };
        let all: Servers = (0..16).map(server).collect();
        assert_eq!((all.len(), all.is_empty()), (16, false));
        for (number, it) in (0..).zip(all.iter()) {
            assert_eq!(it, server(number).view());
            assert_eq!(all.get(number.into()), Some(it));
        }
        assert_eq!(all.get(16), None);
        assert!(format!("{all:?}").contains("ttt"));
    }

    #[test]
    fn a_name_that_is_the_address_takes_no_room() {
        let text = "10.0.0.1:80".to_owned();
        let server =
            ServerInfo { address: vec![1; 16], text: text.clone(), name: text, ..ServerInfo::default() };
        let mut all = Servers::with_room(1, 27).unwrap();
        all.push(server.view()).unwrap();
        assert_eq!(all.bytes.len(), 27);
        assert_eq!(all.get(0), Some(server.view()));
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn an_address_is_not_longer_than_there_is_room_for() {
        let address = vec![0; 256];
        assert!(Servers::default().push(ServerInfo { address, ..ServerInfo::default() }.view()).is_none());
    }

    #[test]
    fn limits_are_set_later() {
        let mut all: Servers = [ServerInfo::default()].into_iter().collect();
        assert_eq!(all.limit(0, true, 7), Some(()));
        assert_eq!(all.limit(1, true, 9), None);
        assert_eq!(all.get(0).map(|it| (it.down, it.max_conns)), Some((true, 7)));
    }
}
