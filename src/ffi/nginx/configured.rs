//! The servers of an upstream as they are configured.

use std::collections::{HashMap, HashSet};
use std::ptr::NonNull;

use nginx_sys::{ngx_http_upstream_server_t, ngx_http_upstream_srv_conf_t};

use crate::metrics::{readable, ServerView, Servers};
use crate::pool::MAX_SERVERS;

use crate::ffi::nginx::headers::bytes;

/// What the `server` lines of one upstream say.
pub(crate) struct Configured<'a> {
    /// Each address, with the sum of `max_conns` of all servers there; 0 if there is no limit.
    pub(crate) addresses: HashMap<&'a [u8], u64>,
    /// Each address once, in the order of the configuration.
    pub(crate) servers: Servers,
    /// Whether a server has `max_conns`.
    pub(crate) any_limited: bool,
    /// Whether the upstream has a `zone`.
    pub(crate) zone: bool,
    /// Whether servers come and go.
    pub(crate) changing: bool,
}

impl Configured<'_> {
    /// `None` if there is no memory.
    ///
    /// # Safety
    /// `us` is an explicit upstream of the configuration being read, or of a cycle that is alive.
    pub(crate) unsafe fn of(us: NonNull<ngx_http_upstream_srv_conf_t>) -> Option<Self> {
        // SAFETY: the caller says that the upstream is live; nothing writes it meanwhile.
        let conf = unsafe { us.as_ref() };
        // SAFETY: null, or an array in the pool of the cycle of the upstream.
        let servers: &[ngx_http_upstream_server_t] = match unsafe { conf.servers.as_ref() } {
            // SAFETY: the array is one of such servers.
            Some(servers) => unsafe { servers.as_slice() },
            None => &[],
        };
        let text = |text| readable(bytes(text));
        let mut addresses = HashMap::new();
        let mut seen = HashSet::new();
        let mut listed = room_for(servers)?;
        for server in servers {
            // SAFETY: nginx has resolved the name of the server to `naddrs` addresses at `addrs`.
            for address in unsafe { slice(server.addrs, server.naddrs) } {
                // SAFETY: nginx sets `socklen` together with `sockaddr`.
                let bytes = unsafe { slice(address.sockaddr.cast::<u8>(), address.socklen as usize) };
                seen.try_reserve(1).ok()?;
                if !has_no_address(server) && seen.insert(bytes) {
                    listed.push(ServerView {
                        address: bytes,
                        text: &text(address.name)?,
                        name: &text(server.name)?,
                        backup: server.backup() != 0,
                        down: true,
                        max_conns: 0,
                    })?;
                }
                if server.down != 0 {
                    continue;
                }
                let max_conns = server.max_conns as u64;
                let sum =
                    |sum: u64| if sum == 0 || max_conns == 0 { 0 } else { sum.saturating_add(max_conns) };
                addresses.try_reserve(1).ok()?;
                addresses.entry(bytes).and_modify(|limit| *limit = sum(*limit)).or_insert(max_conns);
            }
        }
        for at in 0..listed.len() {
            let limit = listed.get(at).and_then(|server| addresses.get(server.address).copied());
            listed.limit(at, limit.is_none(), limit.unwrap_or(0))?;
        }
        Some(Self {
            addresses,
            servers: listed,
            any_limited: servers.iter().any(|server| server.max_conns > 0),
            #[cfg(ngx_feature = "http_upstream_zone")]
            zone: !conf.shm_zone.is_null(),
            #[cfg(not(ngx_feature = "http_upstream_zone"))]
            zone: false,
            // Only a server with `resolve` has the name in `host`.
            #[cfg(nginx_resolve)]
            changing: !conf.shm_zone.is_null() && servers.iter().any(has_no_address),
            #[cfg(not(nginx_resolve))]
            changing: false,
        })
    }

    /// The number of requests that can have a limited server at a time.
    pub(crate) fn max_requests(&self) -> usize {
        /// Servers that are not known yet may have any limit; nginx's memory allows fewer requests than this.
        const UNKNOWN: usize = 1 << 16;
        match self.ledger_size() {
            None => 0,
            Some(_) if self.changing => UNKNOWN,
            Some(_) => {
                let sum = self.addresses.values().fold(0u64, |sum, limit| sum.saturating_add(*limit));
                usize::try_from(sum).unwrap_or(usize::MAX).min(UNKNOWN << 4)
            }
        }
    }

    /// The number of servers for which a ledger is needed; `None` if no server is limited.
    pub(crate) fn ledger_size(&self) -> Option<usize> {
        let fixed = self.addresses.values().filter(|limit| **limit > 0).count();
        match (self.any_limited, self.changing) {
            (false, _) => None,
            (true, true) => Some(MAX_SERVERS),
            (true, false) => Some(fixed).filter(|fixed| *fixed > 0),
        }
    }
}

/// Memory for these servers. `None` if there is none.
fn room_for(servers: &[ngx_http_upstream_server_t]) -> Option<Servers> {
    let (mut number, mut size) = (0, 0);
    for server in servers {
        // SAFETY: nginx has resolved the name of the server to `naddrs` addresses at `addrs`.
        for address in unsafe { slice(server.addrs, server.naddrs) } {
            number += 1;
            let text = address.name.len;
            let name = if bytes(address.name) == bytes(server.name) { 0 } else { server.name.len };
            size += address.socklen as usize + text + name;
        }
    }
    Servers::with_room(number, size)
}

/// Whether the address is a placeholder for a name that is resolved while nginx runs.
fn has_no_address(server: &ngx_http_upstream_server_t) -> bool {
    #[cfg(nginx_resolve)]
    return server.host.len > 0;
    #[cfg(not(nginx_resolve))]
    let _ = server;
    #[cfg(not(nginx_resolve))]
    false
}

/// A slice of an array that may be empty.
///
/// # Safety
/// `start` points at `length` elements, or `length` is 0.
unsafe fn slice<'a, T>(start: *const T, length: usize) -> &'a [T] {
    if start.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller says that there are `length` elements; `start` is not null.
    unsafe { std::slice::from_raw_parts(start, length) }
}
