//! An event of our own: nginx calls its handler at the end of the present round of events, or after a
//! time.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::zeroed;

use nginx_sys::{
    ngx_add_timer, ngx_del_timer, ngx_delete_posted_event, ngx_event_t, ngx_msec_t, ngx_post_event,
    ngx_posted_accept_events, ngx_posted_events, ngx_posted_next_events,
};

use super::process::{cycle_log, now};

/// Stays where it is once it is set or posted, as nginx then has its address.
pub(crate) struct Alarm(UnsafeCell<ngx_event_t>);

/// What nginx calls, with the event whose `data` was given to [`Alarm::prepare`].
pub(crate) type Handler = unsafe extern "C" fn(event: *mut ngx_event_t);

impl Alarm {
    pub(crate) fn new() -> Self {
        // SAFETY: for a C structure of numbers, bit-fields and pointers zero is a valid value.
        Self(UnsafeCell::new(unsafe { zeroed() }))
    }

    /// Says what is called, and whether an exiting worker need not wait for the timer.
    pub(crate) fn prepare(&self, handler: Handler, data: *mut c_void, cancelable: bool) {
        let event = self.0.get();
        // SAFETY: the event is ours, and no reference to it is made anywhere.
        unsafe { (*event).data = data };
        // SAFETY: as above.
        unsafe { (*event).handler = Some(handler) };
        // SAFETY: as above.
        unsafe { (*event).log = cycle_log() };
        // SAFETY: as above.
        unsafe { ngx_event_t::set_cancelable_raw(event, cancelable.into()) };
    }

    pub(crate) fn is_set(&self) -> bool {
        // SAFETY: the event is ours; reads one bit.
        unsafe { ngx_event_t::timer_set_raw(self.0.get()) != 0 }
    }

    /// Calls the handler after so many milliseconds, or sooner if that was asked for before.
    pub(crate) fn set(&self, after: ngx_msec_t) {
        // SAFETY: the event is ours; reads one field.
        let set_for = unsafe { (*self.0.get()).timer.key };
        if self.is_set() && set_for.wrapping_sub(now().wrapping_add(after)) as isize <= 0 {
            return;
        }
        // SAFETY: prepared by the caller before; `Drop` takes it out of the timer tree.
        unsafe { ngx_add_timer(self.0.get(), after) };
    }

    /// The handler is not called for time.
    pub(crate) fn clear(&self) {
        if self.is_set() {
            // SAFETY: `timer_set` says that the event is in the timer tree.
            unsafe { ngx_del_timer(self.0.get()) };
        }
    }

    /// Calls the handler as soon as the present handler and those posted before have returned.
    pub(crate) fn post(&self) {
        let queue = &raw mut ngx_posted_events;
        // SAFETY: prepared by the caller before; `Drop` takes it out of the queue, which is nginx's.
        unsafe { ngx_post_event(self.0.get(), queue) };
    }

    /// Calls the handler when nginx has looked after other events.
    pub(crate) fn post_next(&self) {
        let queue = &raw mut ngx_posted_next_events;
        // SAFETY: as above.
        unsafe { ngx_post_event(self.0.get(), queue) };
    }

    /// Calls the handler before nginx looks at its timers again.
    pub(crate) fn post_first(&self) {
        let queue = &raw mut ngx_posted_accept_events;
        // SAFETY: as above.
        unsafe { ngx_post_event(self.0.get(), queue) };
    }

    /// Whether the handler is about to be called.
    pub(crate) fn is_posted(&self) -> bool {
        // SAFETY: the event is ours; reads one bit.
        unsafe { ngx_event_t::posted_raw(self.0.get()) != 0 }
    }

    /// Whether the handler is called for time; the next time is asked anew.
    pub(crate) fn timed_out(&self) -> bool {
        // SAFETY: the event is ours; reads one bit.
        let timed_out = unsafe { ngx_event_t::timedout_raw(self.0.get()) != 0 };
        // SAFETY: as above; writes one bit.
        unsafe { ngx_event_t::set_timedout_raw(self.0.get(), 0) };
        timed_out
    }

    /// The handler is not called any more.
    pub(crate) fn cancel(&self) {
        self.clear();
        if self.is_posted() {
            // SAFETY: `posted` says that the event is in a queue.
            unsafe { ngx_delete_posted_event(self.0.get()) };
        }
    }
}

impl Drop for Alarm {
    /// In a worker the events end with the process. With `master_process off` they outlive the cycle.
    fn drop(&mut self) {
        self.cancel();
    }
}
