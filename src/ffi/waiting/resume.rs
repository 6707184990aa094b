//! The wait is over: the request goes on with its connection. What `ngx_http_upstream_connect()` did with the placeholder is
//! done with the real connection.

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::waiter::Waiter;

use super::fail::fail_internally;

/// Replaces the placeholder by the peer's connection, which may still be `connecting`, and wakes the core.
pub(crate) fn resume_connect(kp: &PeerData, waiter: &Waiter, connecting: bool) {
    let (u, r) = (kp.u, kp.request());
    let (handler, pool) = (waiter.handler(), waiter.take_pool());
    waiter.leave();
    let Some(conn) = u.peer().connection() else { return fail_internally(kp, waiter) };
    if u.show_peer(r.pool()).is_none() {
        conn.give_pool(pool);
        return fail_internally(kp, waiter);
    }
    u.peer().set_log_action(c"connecting to upstream");
    prepare(conn, kp);
    conn.give_pool(pool);
    conn.set_logs(r.log());
    conn.read().set_handler(handler);
    conn.write().set_handler(handler);
    u.write_to(conn);
    if connecting {
        conn.write().set_timer(u.connect_timeout());
    } else {
        conn.write().post();
    }
}

/// Prepares the connection for the request, as the core does.
fn prepare(conn: Conn, kp: &PeerData) {
    let client = kp.request().client();
    conn.count_request();
    conn.set_data(kp.request().as_ptr().cast());
    conn.restrict_to(client);
}
