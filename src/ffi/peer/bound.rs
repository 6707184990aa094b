//! Connections that belong to one user, because the server has authenticated them: who may use such a connection next, and
//! how it is found again with `ntlm`.
//!
//! A request takes the connection of its client before the balancer is asked. The balancer does not hear of such an attempt.
//! Only one request at a time can use the connection. A connection that another request of the client opens meanwhile is
//! closed after that request.

use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::ngx_str_t;

use crate::base::hash::{hash_bytes, mix};
use crate::http1::stateful_auth;
use crate::metrics::End;
use crate::reuse::bound::{Binding, BoundServer, Client};
use crate::reuse::identity::client_of;

use crate::ffi::max_conns::slots::{close_idle, limited_server};
use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::headers::bytes;
use crate::ffi::nginx::memory::{add_cleanup, allocate};
use crate::ffi::nginx::peer_connection::Peer;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::response::Said;
use crate::ffi::peer::checkout::checkout_any;
use crate::ffi::peer::identity::{self, bound_identity};
use crate::ffi::peer::warnings::{warn, Warning};
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::upstream::{Bytes, Idle, Upstream};

/// The client of a request, if connections can be bound to it. Over a client's connection of HTTP/2 or HTTP/3, requests of
/// several users may come at the same time.
fn client_of_request(r: Request) -> Option<Client> {
    Client::new(r.client().number()).filter(|_| r.is_http1())
}

/// Takes the connection of the client from the pool, if there is one that fits. It sets the server of the request.
#[cold]
pub(crate) fn reclaim(kp: &PeerData, peer: Peer) -> Option<Conn> {
    let bindings = kp.upstream().bindings.as_ref()?;
    let client = client_of_request(kp.request())?;
    let (address, length, name) = peer.server();
    let mut passed = 0;
    while let Some((binding, server)) = bindings.with(|all| all.server(client, passed)).flatten() {
        let found = show_server(kp, peer, &server).and_then(|()| find_bound(kp, peer, client));
        if found.is_some() {
            return found;
        }
        // A closed connection has been removed, and with it its binding.
        if bindings.with(|all| all.server(client, passed)).flatten().is_some_and(|(same, _)| same == binding)
        {
            passed += 1;
        }
    }
    peer.set_server(address, length, name);
    None
}

/// Sets the server of a bound connection in the peer, as a balancer would. `None` if there is no memory.
fn show_server(kp: &PeerData, peer: Peer, server: &BoundServer) -> Option<()> {
    let copy = |from: &[u8]| {
        // SAFETY: the pool of the live request.
        let memory = unsafe { allocate::<u8>(kp.pool(), from.len().max(1)) }?.cast::<u8>();
        // SAFETY: new memory of the same length, which cannot overlap.
        unsafe { memory.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Some(memory.as_ptr())
    };
    let address = copy(server.address())?;
    let text = ngx_str_t { len: server.name().len(), data: copy(server.name())? };
    // SAFETY: the pool of the live request.
    let name = unsafe { allocate::<ngx_str_t>(kp.pool(), 1) }?.cast::<ngx_str_t>();
    // SAFETY: allocated above for one string.
    unsafe { name.write(text) };
    peer.set_server(address.cast(), server.address().len() as u32, name.as_ptr());
    Some(())
}

/// Looks for the client's connection to the server that is set in the peer.
fn find_bound(kp: &PeerData, peer: Peer, client: Client) -> Option<Conn> {
    let upstream = kp.upstream();
    // SAFETY: the request that asks for a peer is live, and a server is set in its peer.
    let identity = unsafe { identity::identity(kp.r, kp.u) }?;
    // SAFETY: the pool of the live request; the identity is in it, or empty.
    let identity = unsafe { bound_identity(kp.pool(), identity, client) }?;
    // SAFETY: written into the pool of the live request just now.
    let key = identity::key(&peer, kp.u, kp.extra().location(), unsafe { identity.as_slice() });
    let conn = checkout_any(kp, peer, &key)?;
    // SAFETY: the bytes of the connection lie in its own memory pool, and it is open.
    let client = kp.attempt.get().and_then(|attempt| client_of(unsafe { attempt.identity.as_slice() }));
    kp.set_binding(client.map(|client| Binding::new(client, conn.number())));
    kp.set_reclaimed(true);
    kp.set_server(limited_server(upstream, peer.address()));
    #[cfg(nginx_resolve)]
    if let Some(watch) = &upstream.watch {
        kp.set_generation(watch.generation());
    }
    Some(conn)
}

/// Whether the connection may have a user by now, unless the server has said so: the request may carry credentials.
#[inline(always)]
pub(crate) fn may_have_user(kp: &PeerData) -> bool {
    // NTLM and Negotiate begin with the same letter. nginx keeps a tab before a value, which servers skip.
    let begins = |value: &[u8]| value.trim_ascii_start().first().is_some_and(|byte| byte | 0x20 == b'n');
    kp.request().authorization().is_some_and(begins) || kp.upstream().is_stateful.get()
}

/// Whether the connection may have a user by now: the server has said so, or the request carries credentials.
pub(crate) fn has_user(kp: &PeerData, said: Option<&Said>) -> bool {
    let told = said.is_some_and(|said| said.has_user);
    (told || may_have_user(kp)) && confirm_user(kp, told, kp.request().authorization())
}

/// Looks into the request as it was sent to the server. A header that only the configuration sets is looked for once the
/// server has shown that it knows such schemes.
#[cold]
fn confirm_user(kp: &PeerData, told: bool, sent: Option<&[u8]>) -> bool {
    let has_user = told
        || match kp.u.http1_request(kp.first_buffer.get()) {
            Some(head) => stateful_auth::sends_credentials(head),
            None => sent.is_some_and(stateful_auth::has_scheme),
        };
    if has_user {
        kp.upstream().is_stateful.set(true);
    }
    has_user
}

/// Binds an unbound connection to the client of the request. Returns the connection's identity from now on.
///
/// # Errors
/// Why the connection cannot be kept for the client.
#[cold]
pub(crate) fn bind(kp: &PeerData, peer: Peer, conn: Conn, identity: Bytes) -> Result<Bytes, End> {
    let upstream = kp.upstream();
    let Some(bindings) = &upstream.bindings else {
        return Err(warn(kp, Warning::StatefulAuth, End::StatefulAuth));
    };
    let r = kp.request();
    let Some(client) = client_of_request(r) else {
        return Err(warn(kp, Warning::NtlmHttp2, End::StatefulAuth));
    };
    // SAFETY: the pool of the open connection; the identity is in that pool, or empty.
    let identity = unsafe { bound_identity(conn.pool(), identity, client) };
    let bind = |identity: Bytes| {
        watch_client(upstream, r, client)?;
        // SAFETY: `bound_identity` has written it into the pool of the open connection.
        let shape = hash_bytes(mix(kp.u.protocol() as u64, kp.extra().location() as u64), unsafe {
            identity.as_slice()
        });
        let (_, _, name) = peer.server();
        // SAFETY: not null, so the balancer has set it. It holds until the server is given back.
        let name = NonNull::new(name).map_or(&[][..], |name| bytes(unsafe { name.read() }));
        let server = BoundServer::new(peer.address(), name)?;
        let binding = Binding::new(client, conn.number());
        bindings.with(|all| all.bind(binding, shape, server)).flatten().map(|()| binding)
    };
    let binding = identity.and_then(bind).ok_or(End::StatefulAuth)?;
    kp.set_binding(Some(binding));
    identity.ok_or(End::StatefulAuth)
}

/// The cleanup data for a client that leaves; in the pool of its connection.
struct ClientCleanup {
    upstream: NonNull<Upstream>,
    client: Client,
}

/// Has the client's connections to servers closed when the client's own is. `None` if there is no memory.
fn watch_client(upstream: &Upstream, r: Request, client: Client) -> Option<()> {
    let bindings = upstream.bindings.as_ref()?;
    if bindings.with(|all| all.knows(client))? {
        return Some(());
    }
    // SAFETY: the pool of the client's connection, which is open while the client has requests.
    let cleanup = unsafe { add_cleanup(r.client().pool(), size_of::<ClientCleanup>()) }?;
    // SAFETY: a new cleanup record of the pool; reads one field.
    let data = NonNull::new(unsafe { (*cleanup.as_ptr()).data }.cast::<ClientCleanup>())?;
    // SAFETY: the record's memory has the size that was asked for, and is aligned as all memory of nginx's pools.
    unsafe { data.write(ClientCleanup { upstream: NonNull::from(upstream), client }) };
    // SAFETY: a new cleanup record of the pool; writes one field.
    unsafe { (*cleanup.as_ptr()).handler = Some(client_leaves) };
    bindings.with(|all| all.add_client(client)).flatten()
}

/// The client has closed its connection, or nginx has.
unsafe extern "C" fn client_leaves(data: *mut c_void) {
    // SAFETY: `watch_client` has written it; nginx calls this before it frees the pool that holds it.
    let ClientCleanup { upstream, client } = unsafe { data.cast::<ClientCleanup>().read() };
    // SAFETY: nginx destroys the cycle by a timer of its own, so not before the handler that closes the client's connection,
    // which calls this, has returned.
    let upstream = unsafe { upstream.as_ref() };
    guard((), || {
        let Some(bindings) = &upstream.bindings else { return };
        while let Some((binding, slot)) = bindings.with(|all| all.remove_next(client)).flatten() {
            let Some(slot) = slot else { continue };
            // Another connection may be in the slot by now.
            let is_bound = |idle: &Idle| idle.binding() == Some(binding);
            if let Some(idle) = upstream.idle.with(|pool| pool.remove(slot, is_bound)).flatten() {
                close_idle(upstream, idle, End::ClientClosed);
            }
        }
        if upstream.can_wait() {
            upstream.schedule_dispatch(None);
        }
    });
}
