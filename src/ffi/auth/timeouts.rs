//! The timeouts of auth subrequests (`auth_subrequest_timeout`). Those with equal timeouts end in the order in which they began. So
//! one timer of nginx is enough for all of them, and what a request costs does not depend on how many are under way.

use std::cell::Cell;
use std::ptr::NonNull;

use nginx_sys::{ngx_event_t, ngx_msec_t};

use super::abort::abort;
use super::context::AuthContext;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::timer::Alarm;

/// The auth subrequests with one timeout that are under way: a list of their contexts, in the order in which they began.
pub(super) struct Timeouts {
    /// In milliseconds.
    pub(super) after: ngx_msec_t,
    oldest: Link,
    newest: Link,
    /// Set while there are any: for the time when the oldest one ends, or for an earlier one.
    alarm: Alarm,
}

/// A context in the list, which it leaves before it is dropped.
type Link = Cell<Option<NonNull<AuthContext>>>;

/// The place of a context in the list.
pub(super) struct Place {
    older: Link,
    newer: Link,
}

impl Place {
    pub(super) const fn new() -> Self {
        Self { older: Cell::new(None), newer: Cell::new(None) }
    }
}

/// The context to which a link points.
#[inline]
fn context<'a>(link: &Link) -> Option<&'a AuthContext> {
    // SAFETY: a context is in the list only while it lives, and only its cells change.
    link.get().map(|ctx| unsafe { ctx.as_ref() })
}

impl Timeouts {
    pub(super) fn new(after: ngx_msec_t) -> Self {
        Self { after, oldest: Cell::new(None), newest: Cell::new(None), alarm: Alarm::new() }
    }

    /// Adds the context of an auth subrequest that has just begun.
    #[inline]
    pub(super) fn add(&self, ctx: &AuthContext) {
        let link = Some(NonNull::from(ctx));
        let place = &ctx.place;
        ctx.is_timed.set(true);
        place.older.set(self.newest.get());
        match context(&self.newest) {
            Some(before) => before.place.newer.set(link),
            None => self.oldest.set(link),
        }
        self.newest.set(link);
        // A worker that exits waits for those that are under way.
        self.alarm.set_cancelable(false);
        if !self.alarm.is_set() {
            self.start();
        }
    }

    #[cold]
    #[inline(never)]
    fn start(&self) {
        self.alarm.prepare(timeouts_handler, NonNull::from(self).as_ptr().cast(), false);
        self.alarm.set(self.after);
    }

    /// Removes a context that is in the list. nginx's timer stays as it is: it costs less to find nothing to do once than to move
    /// it for each request.
    #[inline]
    pub(super) fn remove(&self, ctx: &AuthContext) {
        let place = &ctx.place;
        ctx.is_timed.set(false);
        let (older, newer) = (place.older.take(), place.newer.take());
        match context(&Cell::new(older)) {
            Some(ctx) => ctx.place.newer.set(newer),
            None => self.oldest.set(newer),
        }
        match context(&Cell::new(newer)) {
            Some(ctx) => ctx.place.older.set(older),
            None => self.newest.set(older),
        }
        if newer.is_none() && older.is_none() {
            self.alarm.set_cancelable(true);
        }
    }

    /// Aborts those whose time is over.
    fn expire(&self) {
        while let Some(ctx) = context(&self.oldest) {
            let left = ctx.started_at().wrapping_add(self.after).wrapping_sub(now());
            if (left as isize) > 0 {
                return self.alarm.set(left);
            }
            self.remove(ctx);
            abort(ctx);
        }
    }
}

/// The handler of the timer.
unsafe extern "C" fn timeouts_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx calls this with the event of the alarm.
    let data = unsafe { (*event).data };
    guard((), || {
        // SAFETY: `start` has set it; it lies in the pool of a cycle, which cancels the alarm before it is destroyed.
        let timeouts = unsafe { &*data.cast::<Timeouts>() };
        timeouts.expire();
    });
}
