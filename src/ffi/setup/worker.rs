//! The master has read a configuration, and starts the workers that share it.

use nginx_sys::{
    ngx_connection_t, ngx_cycle_t, ngx_event_t, ngx_int_t, ngx_log_error_core, NGX_LOG_WARN, NGX_OK,
};

use crate::ffi::auth::conf::MainConf as AuthConf;
use crate::ffi::handover::heir::give_instead_of_closing;
use crate::ffi::handover::inbox::{close_inbox, inbox_handler, link_handler, settle};
use crate::ffi::idle::close::close_all;
use crate::ffi::nginx::adopt::can_register;
use crate::ffi::nginx::channel::watch_channel;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::process::{event_method, is_worker_of_master, worker_number, worker_processes, Cycle};
use crate::ffi::nginx::timer::Handler;
use crate::ffi::shared::inboxes::Mail;
use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::handover::Handover;

use super::warnings::warn_of_large_pools;

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
        // SAFETY: the configuration was found in this cycle, and the zone with it.
        unsafe { main.learning.open(cycle, &main.zone) };
        // SAFETY: the configuration was found in this cycle.
        unsafe { main.zone.open(cycle, number) };
        // SAFETY: nginx passes the new cycle, whose configuration has been read.
        unsafe { check_event_method(main, cycle) };
        // SAFETY: nginx passes the new cycle, whose configuration has been read.
        unsafe { warn_of_large_pools(main, cycle) };
        if main.zone.any_upstream(|upstream| upstream.hands_over) {
            // SAFETY: the configuration was found in this cycle.
            unsafe { main.mail.open(cycle, number) };
        } else {
            Mail::close();
        }
        NGX_OK as ngx_int_t
    })
}

/// Switches `http2` off if the workers will have an event method that is level-triggered (nginx's `NGX_USE_CLEAR_EVENT` is not
/// set): a request would get its events again and again. It is not known earlier, as `events {}` may follow `http {}`.
///
/// # Safety
/// `cycle` is live, and its configuration, to which `main` belongs, has been read.
unsafe fn check_event_method(main: &MainConf, cycle: *mut ngx_cycle_t) {
    // SAFETY: the caller says the same.
    let method = unsafe { event_method(cycle) };
    if matches!(method.to_bytes(), b"epoll" | b"kqueue") {
        return;
    }
    // As for all other warnings about the configuration: the log of the new cycle shows errors only, unless it is configured
    // otherwise.
    let log = Cycle::current().log();
    main.zone.each_upstream(|upstream| {
        if upstream.http2.take().is_on() {
            let format = c"\"http2\" in upstream \"%V\" needs the event method epoll or kqueue, and not %s; \
                each connection carries one request at a time";
            // SAFETY: `%V` takes a string of nginx, `%s` a string that ends with a null byte; the log is that of the cycle.
            unsafe {
                let name = upstream.name();
                ngx_log_error_core(NGX_LOG_WARN as usize, log, 0, format.as_ptr(), name, method.as_ptr());
            }
        }
    });
}

/// Runs in each process that nginx starts.
pub(crate) unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard(NGX_OK as ngx_int_t, || {
        let Some(me) = worker_number() else {
            // No other process of nginx needs the inboxes of the next configuration.
            Mail::close();
            return NGX_OK as ngx_int_t;
        };
        // SAFETY: nginx passes the worker's cycle, whose configuration has been read.
        let Some(main) = (unsafe { MainConf::of_cycle(cycle) }) else { return NGX_OK as ngx_int_t };
        // SAFETY: the configuration was found in this cycle.
        let is_together = unsafe { main.workers.enter(cycle, me, bell_handler) };
        main.learning.enter();
        main.zone.each_upstream(|upstream| upstream.note_kind());
        // SAFETY: the configuration was found in this cycle.
        let meters = unsafe { main.zone.enter(cycle, me) };
        // SAFETY: the worker's cycle, whose configuration has been read.
        if let (Some(meters), Some(auth)) = (meters, unsafe { AuthConf::of_cycle(cycle) }) {
            let _ = auth.meters.set(meters);
        }
        if !is_together {
            // The inboxes are those of the other process with this number, even if it has ended by now.
            Mail::close();
        } else if is_worker_of_master() {
            // SAFETY: the configuration was found in this cycle, which is the worker's.
            unsafe { join_handover(main, cycle, me) };
        }
        NGX_OK as ngx_int_t
    })
}

/// From here on connections are handed over, if the configuration says so.
///
/// # Safety
/// `cycle` is the worker's cycle, to which `main` belongs.
unsafe fn join_handover(main: &MainConf, cycle: *mut ngx_cycle_t, me: usize) {
    let Some(handover) = main.mail.enter(me, give_instead_of_closing).filter(|_| can_register()) else {
        return;
    };
    // SAFETY: lies in the main configuration, and is only ever shared.
    let own = unsafe { handover.as_ref() };
    let inboxes = own.inboxes().inner_ends(me).map(|inbox| (inbox, inbox_handler as Handler));
    let link = own.link().map(|link| (link, link_handler as Handler));
    for (end, handler) in inboxes.chain(link) {
        // SAFETY: the caller says that it is the worker's cycle; the descriptors are open as long as it.
        if !unsafe { watch_channel(cycle, end, handler) } {
            return;
        }
    }
    main.zone.each_upstream(|upstream| {
        if upstream.hands_over {
            upstream.handover.set(Some(handover));
        }
    });
    main.zone.each_upstream(|upstream| {
        if upstream.hands_over {
            settle(upstream, me);
        }
    });
    // Not before this worker runs: what is sent to it until then, nobody counts.
    own.announcement.prepare(announce, handover.as_ptr().cast(), true);
    own.announcement.post_next();
}

/// The worker has begun to run.
unsafe extern "C" fn announce(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event that `join_handover` has posted; reads one field.
    let handover: *const Handover = unsafe { (*event).data }.cast();
    // SAFETY: `join_handover` has put it there; it lies in the main configuration, and is only ever shared.
    let handover = unsafe { &*handover };
    guard((), || handover.tell_predecessors());
}

/// Runs in each process when it exits.
pub(crate) unsafe extern "C" fn exit_process(cycle: *mut ngx_cycle_t) {
    guard((), || {
        // SAFETY: nginx passes the cycle of the process, whose configuration has been read.
        let main = worker_number().and_then(|_| unsafe { MainConf::of_cycle(cycle) });
        if let Some(main) = main {
            close_inbox(main);
            // What could not be given, or was stored while the worker was exiting: nginx would warn of open sockets.
            main.zone.each_upstream(|upstream| close_all(upstream));
        }
    });
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
