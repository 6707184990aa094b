//! The balancer: the hooks with which it serves a request, and the servers it chooses from.

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
use crate::queue::room::{Outlook, Rooms};

use crate::ffi::nginx::handle::Handle as _;
#[cfg(nginx_resolve)]
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::peer_connection::{Hooks, Peer};

/// The hooks of the balancer for one request: how it is asked for a server and told of its use.
#[derive(Clone, Copy)]
pub(crate) struct Balancer {
    data: *mut c_void,
    get: ngx_event_get_peer_pt,
    free: ngx_event_free_peer_pt,
    pub(crate) notify: ngx_event_notify_peer_pt,
}

impl Balancer {
    /// The balancer's hooks are those that its `init` has set.
    pub(crate) fn new(hooks: Hooks) -> Self {
        Self { data: hooks.data, get: hooks.get, free: hooks.free, notify: hooks.notify }
    }

    /// Asks for a server.
    pub(crate) fn get(self, peer: Peer) -> ngx_int_t {
        match self.get {
            // SAFETY: the balancer gets the request that it has initialised, and its own data.
            Some(get) => unsafe { get(peer.as_ptr(), self.data) },
            None => NGX_ERROR as ngx_int_t,
        }
    }

    /// Gives back the server that was got.
    pub(crate) fn free(self, peer: Peer, state: ngx_uint_t) {
        if let Some(free) = self.free {
            // SAFETY: as above; it must hear of every server that it gave.
            unsafe { free(peer.as_ptr(), self.data, state) };
        }
    }

    /// Gives back the server as if the request had not been sent to it: it goes on to another one, and this is no failure. Round
    /// robin takes everything but a failure as a success, by which a server that was tried anew after a failure is well
    /// again: so it is as before the try.
    #[cold]
    pub(crate) fn free_untried(self, peer: Peer) {
        if let Some(data) = self.round_robin() {
            // SAFETY: round robin's part of the request, which is alive.
            let servers = NonNull::new(unsafe { (*data.as_ptr()).peers }).map(Servers);
            // SAFETY: as above.
            let server = NonNull::new(unsafe { (*data.as_ptr()).current });
            if let (Some(servers), Some(server)) = (servers, server) {
                servers.lock(true);
                // SAFETY: the server that the request holds; locked for writing, nobody else changes it.
                let server = unsafe { &mut *server.as_ptr() };
                server.checked = server.checked.min(server.accessed);
                servers.unlock();
            }
        }
        self.free(peer, NGX_PEER_NEXT as ngx_uint_t);
    }

    /// Tells the balancer what has happened to the request.
    pub(crate) fn notify(self, peer: Peer, event: ngx_uint_t) {
        if let Some(notify) = self.notify {
            // SAFETY: as above.
            unsafe { notify(peer.as_ptr(), self.data, event) };
        }
    }

    /// All balancers of nginx keep their servers as round robin does, and leave `free` to it: what
    /// they have for a request begins with what round robin has.
    pub(crate) fn round_robin(self) -> Option<NonNull<ngx_http_upstream_rr_peer_data_t>> {
        let round_robin = ngx_http_upstream_free_round_robin_peer as *const () as usize;
        let same = self.free.is_some_and(|free| free as *const () as usize == round_robin);
        NonNull::new(self.data.cast()).filter(|_| same)
    }
}

/// The servers of an upstream, as nginx's own balancers keep them.
///
/// # Invariants
/// Points at the servers of an upstream whose cycle is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Servers(NonNull<ngx_http_upstream_rr_peers_t>);

impl Servers {
    /// `None` if the balancer may keep them in a way of its own.
    ///
    /// # Safety
    /// `us` is an upstream whose cycle is alive; `balancer` is its, of a request that it initialised.
    pub(crate) unsafe fn of(us: NonNull<ngx_http_upstream_srv_conf_t>, balancer: Balancer) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::in_zone(us) }.or_else(|| match balancer.round_robin() {
            // SAFETY: live, says the caller.
            Some(_) => NonNull::new(unsafe { (*us.as_ptr()).peer.data }.cast()).map(Self),
            None => None,
        })
    }

    /// The servers of an upstream with a `zone`: nginx puts there what round robin has made.
    ///
    /// # Safety
    /// `us` is an upstream whose cycle is alive.
    pub(crate) unsafe fn in_zone(us: NonNull<ngx_http_upstream_srv_conf_t>) -> Option<Self> {
        // SAFETY: live, says the caller.
        let conf = unsafe { us.as_ref() };
        #[cfg(ngx_feature = "http_upstream_zone")]
        let zone = !conf.shm_zone.is_null();
        #[cfg(not(ngx_feature = "http_upstream_zone"))]
        let zone = false;
        NonNull::new(conf.peer.data.cast()).filter(|_| zone).map(Self)
    }

    /// The number of the present set of servers; nginx counts it up when they change.
    #[cfg(nginx_resolve)]
    pub(crate) fn generation(self) -> Option<usize> {
        // SAFETY: live by the type invariant; set before any request.
        let number = unsafe { (*self.0.as_ptr()).config };
        // SAFETY: in the zone; other workers write it, so it is read from memory each time.
        NonNull::new(number).map(|number| unsafe { number.read_volatile() })
    }

    /// Which set of servers this is now, if they change.
    pub(crate) fn set(self) -> ngx_uint_t {
        self.number().1
    }

    /// How many servers there are, backup servers not included, and in which set of servers.
    pub(crate) fn number(self) -> (usize, ngx_uint_t) {
        self.lock(false);
        // SAFETY: live by the type invariant; read under the lock.
        let number = unsafe { (*self.0.as_ptr()).number };
        #[cfg(nginx_resolve)]
        let config = self.generation().unwrap_or(0);
        #[cfg(not(nginx_resolve))]
        let config = 0;
        self.unlock();
        (number, config)
    }

    /// Whether a request that has these servers has those, and not the backup servers.
    pub(crate) fn is_at(self, servers: *const ngx_http_upstream_rr_peers_t) -> bool {
        self.0.as_ptr().cast_const() == servers
    }

    /// What a request can expect that does not go back to the servers it has tried; they are told by their numbers.
    pub(crate) fn outlook(self, is_tried: impl Fn(usize) -> bool) -> Outlook {
        let now = ngx_time();
        let mut outlook = Outlook::Down;
        let mut number = 0;
        self.each(false, |server, single| {
            number += 1;
            if outlook == Outlook::Room || is_tried(number - 1) {
                return;
            }
            // SAFETY: shown under the lock of its list; a copy, as others may count meanwhile.
            let server = unsafe { server.read() };
            match outlook_of(&server, single, now) {
                Outlook::Down => {}
                better => outlook = better,
            }
        });
        outlook
    }

    /// What each of them has at this moment. `None` if there is no memory.
    pub(crate) fn look_at_all(self, rooms: &mut Rooms) -> Option<()> {
        let now = ngx_time();
        rooms.clear();
        let mut added = Some(());
        self.each(false, |server, single| {
            // SAFETY: shown under the lock of its list; a copy, as others may count meanwhile.
            let server = unsafe { server.read() };
            added = added.and_then(|()| rooms.add(outlook_of(&server, single, now)));
        });
        added
    }

    /// What all servers with an address allow together; 0 if one of them allows any number.
    #[cfg(nginx_resolve)]
    pub(crate) fn limit(self, address: &[u8]) -> u64 {
        let (mut limit, mut unlimited) = (0, false);
        self.each(false, |server, _| {
            // SAFETY: shown under the lock of its list; a copy, as others may count meanwhile.
            let server = &unsafe { server.read() };
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

    /// Ends so many requests to an address that nobody else will end.
    pub(crate) fn end_requests(self, address: &[u8], mut requests: u64) {
        self.each(true, |server, _| {
            // SAFETY: shown under the lock of its list; a copy, as others may count meanwhile.
            if address_of(&unsafe { server.read() }) != address {
                return;
            }
            // SAFETY: as above; locked for writing, nobody else counts.
            let conns = unsafe { &mut (*server.as_ptr()).conns };
            let ended = requests.min(*conns as u64);
            *conns -= ended as ngx_uint_t;
            requests -= ended;
            #[cfg(nginx_resolve)]
            {
                // SAFETY: as above.
                let refs = unsafe { &mut (*server.as_ptr()).refs };
                *refs = refs.saturating_sub(ended as ngx_uint_t);
            }
        });
    }

    /// What there is to be told of the server at an address, besides the address. `None` if there is no memory.
    #[cfg(nginx_resolve)]
    pub(crate) fn describe(self, address: &[u8]) -> Option<ServerInfo> {
        let mut found = ServerInfo { max_conns: self.limit(address), ..ServerInfo::default() };
        let (mut is_found, mut is_told) = (false, true);
        for (list, is_backup) in self.lists().zip([false, true]) {
            list.each_here(false, |server, _| {
                // SAFETY: shown under the lock of its list; a copy, as others may count meanwhile.
                let server = &unsafe { server.read() };
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

    /// Shows every server, backup servers too, to `look`, and whether it is the only one.
    pub(crate) fn each(self, write: bool, mut look: impl FnMut(NonNull<ngx_http_upstream_rr_peer_t>, bool)) {
        self.lists().for_each(|list| list.each_here(write, &mut look));
    }

    /// The servers, and the backup servers.
    fn lists(self) -> impl Iterator<Item = Self> {
        // SAFETY: live by the type invariant; reads one field.
        std::iter::successors(Some(self), |list| NonNull::new(unsafe { (*list.0.as_ptr()).next }).map(Self))
    }

    fn each_here(self, write: bool, mut look: impl FnMut(NonNull<ngx_http_upstream_rr_peer_t>, bool)) {
        // No panic comes before the unlocking: `look` only compares, counts, notes and copies.
        self.lock(write);
        // SAFETY: live by the type invariant.
        let single = unsafe { (*self.0.as_ptr()).single() != 0 };
        // SAFETY: live by the type invariant; under the lock the list stays as it is.
        let mut server = unsafe { (*self.0.as_ptr()).peer };
        while let Some(this) = NonNull::new(server) {
            look(this, single);
            // SAFETY: an element of the list.
            server = unsafe { (*this.as_ptr()).next };
        }
        self.unlock();
    }

    /// Each of the lists has a lock of its own, if it lies in a zone.
    #[cfg(ngx_feature = "http_upstream_zone")]
    pub(crate) fn lock(self, write: bool) {
        // SAFETY: live by the type invariant.
        let shared = unsafe { !(*self.0.as_ptr()).shpool.is_null() };
        // SAFETY: as above; makes no reference.
        let lock = unsafe { &raw mut (*self.0.as_ptr()).rwlock };
        if shared && write {
            // SAFETY: the lock of a list in a zone.
            unsafe { ngx_rwlock_wlock(lock) };
        } else if shared {
            // SAFETY: as above.
            unsafe { ngx_rwlock_rlock(lock) };
        }
    }

    #[cfg(ngx_feature = "http_upstream_zone")]
    pub(crate) fn unlock(self) {
        // SAFETY: live by the type invariant.
        if unsafe { !(*self.0.as_ptr()).shpool.is_null() } {
            // SAFETY: as above; makes no reference.
            let lock = unsafe { &raw mut (*self.0.as_ptr()).rwlock };
            // SAFETY: `lock` has taken it.
            unsafe { ngx_rwlock_unlock(lock) };
        }
    }

    #[cfg(not(ngx_feature = "http_upstream_zone"))]
    pub(crate) fn lock(self, _write: bool) {}

    #[cfg(not(ngx_feature = "http_upstream_zone"))]
    pub(crate) fn unlock(self) {}
}

/// As `ngx_http_upstream_get_peer()`; the only server is asked however often it fails.
fn outlook_of(server: &ngx_http_upstream_rr_peer_t, single: bool, now: time_t) -> Outlook {
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
    // SAFETY: nginx fills `socklen` with `sockaddr`, and keeps it as long as the server.
    unsafe { std::slice::from_raw_parts(server.sockaddr.cast(), server.socklen as usize) }
}
