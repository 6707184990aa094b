//! The self-test: does this nginx lay out a connection as the headers that the module was built with?
//!
//! nginx's own check (version and signature) does not cover bit-fields. Debian's 1.22.1, for example, has one more bit in
//! `ngx_connection_t` than the release of the same version. A module built with the wrong headers loads, and then takes `idle`
//! for `reusable`.

use std::cell::Cell;
use std::mem::zeroed;

use nginx_sys::{ngx_close_idle_connections, ngx_connection_t, ngx_cycle_t, ngx_event_t};
use once_cell::race::OnceBool;

use crate::ffi::nginx::conn::Event;
use crate::ffi::nginx::handle::get_field;

/// The binary's connections may be larger than ours. What it then takes for the last ones is zero.
#[repr(C)]
struct Connections {
    ours: [ngx_connection_t; 3],
    slack: [ngx_connection_t; 3],
}

/// Whether the test passes. A process runs one nginx, so the result is kept across reloads.
pub(crate) fn layout_matches() -> bool {
    static MATCHES: OnceBool = OnceBool::new();
    MATCHES.get_or_init(nginx_closes_the_idle_ones)
}

/// Shows three connections of our layout, two of them idle, to nginx's own
/// `ngx_close_idle_connections()`. It has to call the handlers of these two, with `close` set.
fn nginx_closes_the_idle_ones() -> bool {
    // SAFETY: for a C structure of numbers, bit-fields and pointers zero is a valid value.
    let mut connections: Connections = unsafe { zeroed() };
    // SAFETY: an event is such a structure too, and zero a valid value.
    let mut events: [ngx_event_t; 3] = unsafe { zeroed() };
    // SAFETY: a cycle is such a structure too, and zero a valid value.
    let mut cycle: ngx_cycle_t = unsafe { zeroed() };

    let seen = Cell::new(0u8);
    for (i, (conn, event)) in connections.ours.iter_mut().zip(&mut events).enumerate() {
        conn.data = (&raw const seen).cast_mut().cast();
        conn.read = event;
        conn.set_idle(u32::from(i != 1));
        event.data = (&raw mut *conn).cast();
        event.index = i as _;
        event.handler = Some(count_close);
    }
    cycle.connections = connections.ours.as_mut_ptr();
    cycle.connection_n = connections.ours.len();

    // SAFETY: the function only goes through `connections`, and calls the read handler of idle ones, which is ours.
    unsafe { ngx_close_idle_connections(&raw mut cycle) };
    seen.get() == 0b101
}

unsafe extern "C" fn count_close(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the read event of a connection of the test.
    let event = unsafe { Event::from_ptr(event) };
    let conn = event.conn();
    // SAFETY: `nginx_closes_the_idle_ones` has put the address of its counter there, and has not returned yet.
    let seen = unsafe { &*conn.data().cast::<Cell<u8>>() };
    let index = get_field!(event.index);
    if conn.close_requested() {
        seen.set(seen.get() | (1 << index));
    }
}
