//! An event of our own: nginx calls its handler at the end of the present round of events, or after a time.

use std::cell::UnsafeCell;
use std::ffi::c_void;

use nginx_sys::{
    ngx_add_timer, ngx_del_timer, ngx_delete_posted_event, ngx_event_t, ngx_msec_t, ngx_post_event,
    ngx_posted_accept_events, ngx_posted_events, ngx_posted_next_events, ngx_queue_t,
};

use super::handle::{get_bit, get_field, set_bit, set_field, Handle, Live};
use super::memory::Zeroed as _;
use super::process::{cycle_log, now};

/// Does not move once it is set or posted, because nginx then has its address.
pub(crate) struct Alarm(UnsafeCell<ngx_event_t>);

/// The function that nginx calls, with the event whose `data` was given to [`Alarm::prepare`].
pub(crate) type Handler = unsafe extern "C" fn(event: *mut ngx_event_t);

impl Alarm {
    pub(crate) fn new() -> Self {
        Self(UnsafeCell::new(ngx_event_t::zeroed()))
    }

    #[inline]
    fn event(&self) -> Live<ngx_event_t> {
        // SAFETY: the alarm has the event, and lives while it is borrowed.
        unsafe { Live::new_unchecked(self.0.get()) }
    }

    /// Sets the handler and its data, and whether an exiting worker need not wait for the timer.
    pub(crate) fn prepare(&self, handler: Handler, data: *mut c_void, cancelable: bool) {
        let event = self.event();
        set_field!(event.data = data);
        set_field!(event.handler = Some(handler));
        set_field!(event.log = cycle_log());
        set_bit!(event: ngx_event_t::set_cancelable_raw, cancelable.into());
    }

    /// Sets whether an exiting worker need not wait for the timer.
    #[inline]
    pub(crate) fn set_cancelable(&self, cancelable: bool) {
        let event = self.event();
        set_bit!(event: ngx_event_t::set_cancelable_raw, cancelable.into());
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        let event = self.event();
        get_bit!(event: ngx_event_t::timer_set_raw)
    }

    /// Calls the handler after `after` milliseconds, or sooner if it was set for an earlier time before.
    pub(crate) fn set(&self, after: ngx_msec_t) {
        let event = self.event();
        let set_for = get_field!(event.timer.key);
        if self.is_set() && set_for.wrapping_sub(now().wrapping_add(after)) as isize <= 0 {
            return;
        }
        // nginx leaves a timer as it is that would be moved by less than 300 ms (`NGX_TIMER_LAZY_DELAY`).
        self.clear();
        add_timer(event, after);
    }

    /// Cancels the timer.
    pub(crate) fn clear(&self) {
        remove_timer(self.event());
    }

    /// Calls the handler as soon as the present handler and those posted before have returned.
    pub(crate) fn post(&self) {
        post_to(self.event(), &raw mut ngx_posted_events);
    }

    /// Calls the handler when nginx has looked after other events.
    pub(crate) fn post_next(&self) {
        post_to(self.event(), &raw mut ngx_posted_next_events);
    }

    /// Calls the handler before nginx looks at its timers again.
    pub(crate) fn post_first(&self) {
        post_to(self.event(), &raw mut ngx_posted_accept_events);
    }

    /// Whether the handler is about to be called.
    pub(crate) fn is_posted(&self) -> bool {
        let event = self.event();
        get_bit!(event: ngx_event_t::posted_raw)
    }

    /// Whether the handler was called because the timer expired; resets the flag.
    pub(crate) fn timed_out(&self) -> bool {
        let event = self.event();
        let timed_out = get_bit!(event: ngx_event_t::timedout_raw);
        set_bit!(event: ngx_event_t::set_timedout_raw, 0);
        timed_out
    }

    /// Cancels the timer and takes the event out of the queue: the handler is not called any more.
    pub(crate) fn cancel(&self) {
        self.clear();
        remove_posted(self.event());
    }
}

impl Drop for Alarm {
    /// In a worker the events end with the process. With `master_process off` they outlive the cycle.
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Calls the handler of an event after `after` milliseconds.
#[inline(always)]
pub(super) fn add_timer(event: impl Handle<Of = ngx_event_t>, after: ngx_msec_t) {
    // SAFETY: a handle points at a live event. It leaves the timer tree before it is freed: `ngx_close_connection()`
    // deletes the timers of a connection, the end of a wait the timer of a placeholder, `Alarm::drop` the timer of an alarm.
    unsafe { ngx_add_timer(event.as_ptr(), after) };
}

/// Cancels the timer of an event, if it is set.
#[inline(always)]
pub(super) fn remove_timer(event: impl Handle<Of = ngx_event_t>) {
    if get_bit!(event: ngx_event_t::timer_set_raw) {
        // SAFETY: `timer_set` says that the event is in the timer tree.
        unsafe { ngx_del_timer(event.as_ptr()) };
    }
}

/// Posts an event to one of nginx's queues.
pub(super) fn post_to(event: impl Handle<Of = ngx_event_t>, queue: *mut ngx_queue_t) {
    // SAFETY: a handle points at a live event, and the queue is a global of nginx. The event leaves the queue before it
    // is freed: `ngx_close_connection()` removes the events of a connection, the end of a wait the events of a placeholder,
    // `Alarm::drop` the event of an alarm.
    unsafe { ngx_post_event(event.as_ptr(), queue) };
}

/// Takes an event out of the queue in which it is posted, if it is in one.
pub(crate) fn remove_posted(event: impl Handle<Of = ngx_event_t>) {
    if get_bit!(event: ngx_event_t::posted_raw) {
        // SAFETY: `posted` says that the event is in a queue.
        unsafe { ngx_delete_posted_event(event.as_ptr()) };
    }
}
