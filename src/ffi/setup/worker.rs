//! The master has read a configuration, and starts the workers that share it.

use nginx_sys::{ngx_connection_t, ngx_cycle_t, ngx_event_t, ngx_int_t, NGX_OK};

use crate::ffi::auth::conf::MainConf as AuthConf;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::process::{worker_number, worker_processes};
use crate::ffi::shared::main_conf::MainConf;

/// Runs in the master, when the configuration has been read. It returns no error: that would end the master, and with it the
/// workers of the previous configuration.
pub(crate) unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        // SAFETY: nginx passes the new cycle, whose configuration has been read.
        let Some(main) = (unsafe { MainConf::of_cycle(cycle) }) else { return NGX_OK as ngx_int_t };
        // SAFETY: the new cycle, whose configuration has been read.
        let number = unsafe { worker_processes(cycle) };
        // SAFETY: the configuration was found in this cycle.
        unsafe { main.workers.open(cycle, number) };
        // SAFETY: the configuration was found in this cycle.
        unsafe { main.zone.open(cycle, number) };
        NGX_OK as ngx_int_t
    })
}

/// Runs in each process that nginx starts.
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
        // SAFETY: nginx passes the event that `Workers::enter` has added; reads one field.
        let conn: *mut ngx_connection_t = unsafe { (*event).data }.cast();
        // SAFETY: the connection that nginx made for the event; reads one field.
        let fd = unsafe { (*conn).fd };
        let mut rings = 0u64;
        // SAFETY: an open descriptor, and a buffer of the given size.
        unsafe { libc::read(fd, (&raw mut rings).cast(), size_of_val(&rings)) };
        // SAFETY: nginx sets it before any event, and only its one thread reads it here.
        let cycle = unsafe { nginx_sys::ngx_cycle };
        // SAFETY: the worker's cycle, whose configuration has been read.
        if let Some(main) = unsafe { MainConf::of_cycle(cycle) } {
            main.workers.answer();
        }
    });
}
