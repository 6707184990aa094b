//! The balancer: its hooks for a request, and the servers from which it chooses.

use std::ffi::c_void;
use std::ptr::NonNull;

use libc::time_t;

use nginx_sys::{
    ngx_event_free_peer_pt, ngx_event_get_peer_pt, ngx_event_notify_peer_pt,
    ngx_http_upstream_free_round_robin_peer, ngx_http_upstream_rr_peer_data_t, ngx_http_upstream_rr_peer_t,
    ngx_http_upstream_rr_peers_t, ngx_http_upstream_srv_conf_t, ngx_int_t, ngx_time, ngx_uint_t, NGX_ERROR,
    NGX_PEER_NEXT,
};
#[cfg(ngx_feature = "http_upstream_zone")]
use nginx_sys::{ngx_rwlock_rlock, ngx_rwlock_unlock, ngx_rwlock_wlock};

#[cfg(nginx_resolve)]
use crate::metrics::{readable, ServerInfo};
use crate::queue::room::{Moment, Outlook, Rooms};

#[cfg(ngx_feature = "http_upstream_zone")]
use super::handle::field_ptr;
use super::handle::{get_bit, get_field, handle, set_field, Handle, Live};
#[cfg(nginx_resolve)]
use super::headers::bytes;
use super::peer_connection::{Hooks, Peer};
use super::process::now;

/// What round robin has for a request.
pub(crate) type RoundRobinData = Live<ngx_http_upstream_rr_peer_data_t>;

/// One server of an upstream, as round robin keeps it.
pub(crate) type PeerServer = Live<ngx_http_upstream_rr_peer_t>;

/// The hooks of the balancer for one request: they choose a server, and take it back.
#[derive(Clone, Copy)]
pub(crate) struct Balancer {
    data: *mut c_void,
    get: ngx_event_get_peer_pt,
    free: ngx_event_free_peer_pt,
    pub(crate) notify: ngx_event_notify_peer_pt,
}

impl Balancer {
    /// From the hooks that the balancer's `init` has set.
    pub(crate) fn new(hooks: Hooks) -> Self {
        Self { data: hooks.data, get: hooks.get, free: hooks.free, notify: hooks.notify }
    }

    /// Asks for a server.
    pub(crate) fn get(self, peer: Peer) -> ngx_int_t {
        match self.get {
            // SAFETY: the balancer has set the hook and its data in `init`, for this request.
            Some(get) => unsafe { get(peer.as_ptr(), self.data) },
            None => NGX_ERROR as ngx_int_t,
        }
    }

    /// Returns the server to the balancer, with what happened to it (`NGX_PEER_*`).
    pub(crate) fn free(self, peer: Peer, state: ngx_uint_t) {
        if let Some(free) = self.free {
            // SAFETY: the balancer has set the hook and its data in `init`, for this request; it has chosen the server.
            unsafe { free(peer.as_ptr(), self.data, state) };
        }
    }

    /// Returns the server as if the request had not been sent to it: the request goes on to another one, and this is no
    /// failure. Round robin takes everything except a failure for a success, and a success ends the failed state of a
    /// server if `checked` is later than `accessed`, as it is when the server is tried again. So `checked` is set back to
    /// at most `accessed`.
    #[cold]
    pub(crate) fn free_untried(self, peer: Peer) {
        if let Some(data) = self.round_robin() {
            let servers = NonNull::new(get_field!(data.peers)).map(Servers);
            let current = get_field!(data.current);
            // SAFETY: null, or the server of the request, which round robin keeps until it is returned.
            let server: Option<PeerServer> = unsafe { Live::from_ptr(current) };
            if let (Some(servers), Some(server)) = (servers, server) {
                servers.lock(true);
                let (checked, accessed) = (get_field!(server.checked), get_field!(server.accessed));
                set_field!(server.checked = checked.min(accessed));
                servers.unlock();
            }
        }
        self.free(peer, NGX_PEER_NEXT as ngx_uint_t);
    }

    /// Tells the balancer about the request (`NGX_HTTP_UPSTREAM_NOTIFY_*`).
    pub(crate) fn notify(self, peer: Peer, event: ngx_uint_t) {
        if let Some(notify) = self.notify {
            // SAFETY: the balancer has set the hook and its data in `init`, for this request.
            unsafe { notify(peer.as_ptr(), self.data, event) };
        }
    }

    /// What round robin has for the request. The data of each balancer of nginx begins with it: they all keep their
    /// servers as round robin does, and leave `free` to it. `None` if the balancer has a `free` of its own.
    pub(crate) fn round_robin(self) -> Option<RoundRobinData> {
        let round_robin = ngx_http_upstream_free_round_robin_peer as *const () as usize;
        let same = self.free.is_some_and(|free| free as *const () as usize == round_robin);
        if !same {
            return None;
        }
        // SAFETY: null, or the data that round robin, or a balancer that builds on it, has made for the live request.
        unsafe { Live::from_ptr(self.data.cast()) }
    }
}

/// The servers of an upstream, as nginx's own balancers keep them.
///
/// # Invariants
/// Points at the servers of an upstream whose cycle is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Servers(NonNull<ngx_http_upstream_rr_peers_t>);

handle!(Servers, ngx_http_upstream_rr_peers_t);

impl Servers {
    /// `None` if the balancer may keep its servers in another way.
    ///
    /// # Safety
    /// `us` is an upstream whose cycle is alive; `balancer` belongs to a request to this upstream.
    pub(crate) unsafe fn of(us: NonNull<ngx_http_upstream_srv_conf_t>, balancer: Balancer) -> Option<Self> {
        // SAFETY: the caller says that the cycle of the upstream is alive.
        unsafe { Self::in_zone(us) }.or_else(|| match balancer.round_robin() {
            // SAFETY: the caller says that the cycle of the upstream is alive; copies one field.
            Some(_) => NonNull::new(unsafe { (*us.as_ptr()).peer.data }.cast()).map(Self),
            None => None,
        })
    }

    /// The servers of an upstream with a `zone`, into which nginx copies the servers that round robin has made.
    ///
    /// # Safety
    /// `us` is an upstream whose cycle is alive.
    pub(crate) unsafe fn in_zone(us: NonNull<ngx_http_upstream_srv_conf_t>) -> Option<Self> {
        // SAFETY: the caller says that the cycle of the upstream is alive; nothing writes the structure any more.
        let conf = unsafe { us.as_ref() };
        #[cfg(ngx_feature = "http_upstream_zone")]
        let zone = !conf.shm_zone.is_null();
        #[cfg(not(ngx_feature = "http_upstream_zone"))]
        let zone = false;
        NonNull::new(conf.peer.data.cast()).filter(|_| zone).map(Self)
    }

    /// The number of the present set of servers; nginx increments it when they change.
    #[cfg(nginx_resolve)]
    pub(crate) fn generation(self) -> Option<usize> {
        let number = get_field!(self.config);
        // Not ordered with the servers, as in nginx: who writes both has the lock of the zone, and who walks through the servers
        // takes it. Servers that are read without it may be newer than the number. Then the number has changed the next time.
        // SAFETY: a number in the zone; other workers write it, so it is read from memory each time.
        NonNull::new(number).map(|number| unsafe { number.read_volatile() })
    }

    /// The present time, and the present set of servers.
    pub(crate) fn moment(self) -> Moment {
        #[cfg(nginx_resolve)]
        let config = self.generation().unwrap_or(0);
        #[cfg(not(nginx_resolve))]
        let config = 0;
        Moment { set: (self.as_ptr() as usize, config), second: ngx_time(), now: now() }
    }

    /// The number of servers without the backup servers, and the number of their set.
    pub(crate) fn number(self) -> (usize, ngx_uint_t) {
        self.lock(false);
        let number = get_field!(self.number);
        #[cfg(nginx_resolve)]
        let config = self.generation().unwrap_or(0);
        #[cfg(not(nginx_resolve))]
        let config = 0;
        self.unlock();
        (number, config)
    }

    /// Whether `servers` are these, and not their backup servers.
    pub(crate) fn is_at(self, servers: *const ngx_http_upstream_rr_peers_t) -> bool {
        self.0.as_ptr().cast_const() == servers
    }

    /// Fills `rooms` with what each server has at this moment. `None` if there is no memory.
    #[cold]
    pub(crate) fn look_at_all(self, rooms: &mut Rooms, at: Moment) -> Option<()> {
        rooms.begin_look();
        let mut added = Some(());
        self.each(false, |server, single| {
            let key = server.as_ptr() as usize;
            added = added.and_then(|()| rooms.add(key, outlook_of(server, single, at.second)));
        });
        added.and_then(|()| rooms.end_look(at))
    }

    /// Whether a server is up whose number is not among those that were `tried`.
    pub(crate) fn is_any_up(self, tried: &[u32], at: Moment) -> bool {
        let mut number = 0;
        self.lists().any(|list| {
            list.find_in(false, |server, single| {
                number += 1;
                !tried.contains(&(number - 1)) && outlook_of(server, single, at.second) != Outlook::Down
            })
        })
    }

    /// Looks again at the server that round robin has chosen last for a request to these servers.
    pub(crate) fn look_at_current(self, data: RoundRobinData, rooms: &mut Rooms) {
        let (list, current) = (get_field!(data.peers), get_field!(data.current));
        let Some(list) = NonNull::new(list).map(Self) else { return };
        if current.is_null() {
            return;
        }
        list.lock(false);
        let at = self.moment();
        if rooms.is_known(at) {
            let single = get_bit!(list: ngx_http_upstream_rr_peers_t::single_raw);
            rooms.update(current as usize, || {
                // SAFETY: `update` knows it from this set of servers, to which it belongs while its list is locked.
                let server: PeerServer = unsafe { Live::new_unchecked(current) };
                outlook_of(server, single, at.second)
            });
        } else {
            rooms.forget();
        }
        list.unlock();
    }

    /// The sum of `max_conns` of all servers with an address; 0 if one of them has no limit.
    #[cfg(nginx_resolve)]
    pub(crate) fn limit(self, address: &[u8]) -> u64 {
        let (mut limit, mut unlimited) = (0, false);
        self.each(false, |server, _| {
            let server = &server.copy();
            if server.down == 0 && address_of(server) == address {
                limit += server.max_conns as u64;
                unlimited |= server.max_conns == 0;
            }
        });
        if unlimited {
            0
        } else {
            limit
        }
    }

    /// Whether a server has this address.
    #[cfg(nginx_resolve)]
    pub(crate) fn has(self, address: &[u8]) -> bool {
        let mut has = false;
        self.each(false, |server, _| has |= address_of(&server.copy()) == address);
        has
    }

    /// Ends `requests` requests to an address that no worker will end.
    pub(crate) fn end_requests(self, address: &[u8], mut requests: u64) {
        self.each(true, |server, _| {
            if address_of(&server.copy()) != address {
                return;
            }
            let conns = get_field!(server.conns);
            let ended = requests.min(conns as u64);
            set_field!(server.conns = conns - ended as ngx_uint_t);
            requests -= ended;
            #[cfg(nginx_resolve)]
            {
                let refs = get_field!(server.refs);
                set_field!(server.refs = refs.saturating_sub(ended as ngx_uint_t));
            }
        });
    }

    /// Describes the server at an address, without the address itself. `None` if there is no memory.
    #[cfg(nginx_resolve)]
    pub(crate) fn describe(self, address: &[u8]) -> Option<ServerInfo> {
        let mut found = ServerInfo { max_conns: self.limit(address), ..ServerInfo::default() };
        let (mut is_found, mut is_told) = (false, true);
        for (list, is_backup) in self.lists().zip([false, true]) {
            list.each_here(false, |server, _| {
                let server = &server.copy();
                if is_found || address_of(server) != address {
                    return;
                }
                let name = readable(bytes(server.server));
                (is_found, is_told) = (true, name.is_some());
                (found.name, found.backup, found.down) =
                    (name.unwrap_or_default(), is_backup, server.down != 0);
            });
        }
        is_told.then_some(found)
    }

    /// Calls `look` with each server, backup servers too, under the lock of its list, and with whether it is the only
    /// one. `look` takes a copy of what it compares, as other workers may count meanwhile.
    pub(crate) fn each(self, write: bool, mut look: impl FnMut(PeerServer, bool)) {
        self.lists().for_each(|list| list.each_here(write, &mut look));
    }

    /// The list of the servers, and the list of the backup servers.
    fn lists(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |list| {
            let list = *list;
            NonNull::new(get_field!(list.next)).map(Self)
        })
    }

    fn each_here(self, write: bool, mut look: impl FnMut(PeerServer, bool)) {
        self.find_in(write, |server, single| {
            look(server, single);
            false
        });
    }

    /// Whether `is_it` says so of a server in this list: then the others are not looked at.
    fn find_in(self, write: bool, mut is_it: impl FnMut(PeerServer, bool) -> bool) -> bool {
        // Nothing panics before the list is unlocked: `is_it` only compares, counts, notes and copies.
        self.lock(write);
        let mut is_found = false;
        let single = get_bit!(self: ngx_http_upstream_rr_peers_t::single_raw);
        let mut next = get_field!(self.peer);
        // SAFETY: null, or an element of the list, which stays as it is under its lock.
        while let Some(server) = unsafe { Live::from_ptr(next) } {
            is_found = is_it(server, single);
            if is_found {
                break;
            }
            next = get_field!(server.next);
        }
        self.unlock();
        is_found
    }

    /// Locks the list, for writing or for reading, if it lies in a zone. Each list has its own lock.
    #[cfg(ngx_feature = "http_upstream_zone")]
    fn lock(self, write: bool) {
        let lock = field_ptr!(self.rwlock);
        if !self.is_shared() {
            return;
        }
        if write {
            // SAFETY: the lock of a list in a zone.
            unsafe { ngx_rwlock_wlock(lock) };
        } else {
            // SAFETY: the lock of a list in a zone.
            unsafe { ngx_rwlock_rlock(lock) };
        }
    }

    #[cfg(ngx_feature = "http_upstream_zone")]
    fn unlock(self) {
        if self.is_shared() {
            let lock = field_ptr!(self.rwlock);
            // SAFETY: the lock of a list in a zone, which `lock` has taken.
            unsafe { ngx_rwlock_unlock(lock) };
        }
    }

    /// Whether the list lies in a zone.
    #[cfg(ngx_feature = "http_upstream_zone")]
    fn is_shared(self) -> bool {
        !get_field!(self.shpool).is_null()
    }

    #[cfg(not(ngx_feature = "http_upstream_zone"))]
    fn lock(self, _write: bool) {}

    #[cfg(not(ngx_feature = "http_upstream_zone"))]
    fn unlock(self) {}
}

/// Whether a server can take a request. Mirrors `ngx_http_upstream_get_peer()`; a single server never counts as failed.
fn outlook_of(server: PeerServer, single: bool, now: time_t) -> Outlook {
    let server = &server.copy();
    let failed = !single
        && server.max_fails > 0
        && server.fails >= server.max_fails
        && now - server.checked <= server.fail_timeout;
    if server.down != 0 || failed {
        Outlook::Down
    } else if server.max_conns > 0 && server.conns >= server.max_conns {
        Outlook::Full
    } else {
        Outlook::Room
    }
}

/// The bytes of a server's socket address.
pub(crate) fn address_of(server: &ngx_http_upstream_rr_peer_t) -> &[u8] {
    // SAFETY: nginx sets `socklen` together with `sockaddr`, and keeps the address as long as the server.
    unsafe { std::slice::from_raw_parts(server.sockaddr.cast(), server.socklen as usize) }
}
