//! The wait is over: the request takes up its connection. What `ngx_http_upstream_connect()` did with
//! the connection that stood in is done with the real one.

use crate::ffi::nginx::conn::Conn;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::waiter::Waiter;

use super::fail::error;

/// The peer has its connection; it may still be `connecting`.
pub(crate) fn resume_connect(kp: &PeerData, waiter: &Waiter, connecting: bool) {
    let (u, r) = (kp.u, kp.request());
    let (handler, pool) = (waiter.handler(), waiter.take_pool());
    waiter.leave();
    let Some(conn) = u.peer().connection() else { return error(kp, waiter) };
    if u.show_peer(r.pool()).is_none() {
        conn.give_pool(pool);
        return error(kp, waiter);
    }
    u.peer().set_log_action(c"connecting to upstream");
    begin_request(conn, kp);
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

fn begin_request(conn: Conn, kp: &PeerData) {
    let client = kp.request().client();
    conn.count_request();
    conn.set_data(kp.request().as_ptr().cast());
    conn.restrict_to(client);
}
