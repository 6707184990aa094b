//! The master has read a configuration, and starts the workers that share it.

use nginx_sys::{ngx_connection_t, ngx_cycle_t, ngx_event_t, ngx_int_t, NGX_OK};

use crate::ffi::auth::conf::MainConf as AuthConf;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::process::{worker_number, worker_processes};
use crate::ffi::shared::main_conf::MainConf;

/// In the master, when the configuration has been read: an error here would end it, and with it the workers of the
/// configuration before.
pub(crate) unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        // SAFETY: nginx passes the new cycle, whose configuration has been read.
        let Some(main) = (unsafe { MainConf::of_cycle(cycle) }) else { return NGX_OK as ngx_int_t };
        // SAFETY: the new cycle; the core module has its configuration at its index.
        let number = unsafe { worker_processes(cycle) };
        // SAFETY: the configuration was found in this cycle.
        unsafe { main.workers.open(cycle, number) };
        // SAFETY: the configuration was found in this cycle.
        unsafe { main.zone.open(cycle, number) };
        NGX_OK as ngx_int_t
    })
}

/// In each process that nginx starts.
pub(crate) unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        let Some(me) = worker_number() else { return NGX_OK as ngx_int_t };
        // SAFETY: nginx passes the worker's cycle, whose configuration has been read.
        let Some(main) = (unsafe { MainConf::of_cycle(cycle) }) else { return NGX_OK as ngx_int_t };
        // SAFETY: the configuration was found in this cycle.
        unsafe { main.workers.enter(cycle, me, bell_handler) };
        // SAFETY: the configuration was found in this cycle.
        let meters = unsafe { main.zone.enter(cycle, me) };
        // SAFETY: the worker's cycle, whose configuration has been read.
        if let (Some(meters), Some(auth)) = (meters, unsafe { AuthConf::of_cycle(cycle) }) {
            let _ = auth.meters.set(meters);
        }
        NGX_OK as ngx_int_t
    })
}

/// Another worker has rung the bell of this one.
unsafe extern "C" fn bell_handler(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: nginx passes the event that `Workers::enter` has added; its connection is nginx's.
        let conn: *mut ngx_connection_t = unsafe { (*event).data }.cast();
        // SAFETY: a connection that nginx made for the event; reads one field.
        let fd = unsafe { (*conn).fd };
        let mut rings = 0u64;
        // SAFETY: an open descriptor, and room for as many bytes as are said.
        unsafe { libc::read(fd, (&raw mut rings).cast(), size_of_val(&rings)) };
        // SAFETY: the worker's cycle, set before any event.
        let cycle = unsafe { nginx_sys::ngx_cycle };
        // SAFETY: a worker's cycle has its configuration.
        if let Some(main) = unsafe { MainConf::of_cycle(cycle) } {
            main.workers.answer();
        }
    });
}
