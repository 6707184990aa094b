//! What one request has asked, and what it was told.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::ngx_http_request_t;

use crate::auth::{Answer, Verdict};
use crate::lifetime::Msec;
use crate::metrics::Decision;

use super::super::alarm::{now, Alarm};
use super::super::memory::{add_cleanup, allocate};
use super::super::request::Request;
use super::ask::is_ours;
use super::capture::Capture;
use super::conf::{LocConf, MainConf, Uri};

/// Lies in the request's pool. It is remembered over internal redirects, which take from a request what modules
/// have attached to it: then it is found among what the pool cleans up.
pub(super) struct Auth {
    pub(super) r: Request,
    uri: Uri,
    pub(super) stage: Cell<Stage>,
    /// The request that asks; it lives as long as the main one.
    pub(super) sub: Cell<Option<Request>>,
    pub(super) status: Cell<u16>,
    pub(super) timed_out: Cell<bool>,
    since: Cell<Msec>,
    took: Cell<Msec>,
    /// Headers of a denial are in the response already.
    pub(super) denied: Cell<bool>,
    /// The error log tells of it already.
    pub(super) logged: Cell<bool>,
    counted: Cell<bool>,
    pub(super) capture: Capture,
    /// Calls `stop`.
    pub(super) alarm: Alarm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    New,
    /// The body of the client is read, to be sent along.
    Reading,
    Read,
    Asking,
    Done,
}

impl Auth {
    /// The last one of the client's request.
    pub(super) fn of<'a>(r: Request) -> Option<&'a Self> {
        let main = r.main();
        if let Some(context) = main.context() {
            // SAFETY: `begin` has put it there; it lies in the pool of the live request, and only its cells change.
            return Some(unsafe { context.cast().as_ref() });
        }
        if !main.is_redirected() {
            return None;
        }
        let auth = remembered(main)?;
        main.set_context(auth.as_ptr().cast());
        // SAFETY: as above.
        Some(unsafe { auth.as_ref() })
    }

    /// A new one, for a location that asks `uri`. `None` if there is no memory.
    pub(super) fn begin<'a>(r: Request, conf: &LocConf, uri: &Uri) -> Option<&'a Self> {
        // SAFETY: the pool of a live request.
        let memory = unsafe { allocate::<Self>(r.pool(), 1) }?.cast::<Self>();
        // SAFETY: as above; no memory of nginx's choosing is asked for.
        let cleanup = unsafe { add_cleanup(r.pool(), 0) }?;
        let auth = Self {
            r,
            uri: *uri,
            stage: Cell::new(Stage::New),
            sub: Cell::new(None),
            status: Cell::new(0),
            timed_out: Cell::new(false),
            since: Cell::new(now()),
            took: Cell::new(0),
            denied: Cell::new(false),
            logged: Cell::new(false),
            counted: Cell::new(false),
            capture: Capture::new(conf),
            alarm: Alarm::new(),
        };
        // SAFETY: allocated above.
        unsafe { memory.write(auth) };
        // SAFETY: a new cleanup record of the pool.
        unsafe { (*cleanup.as_ptr()).data = memory.as_ptr().cast() };
        // SAFETY: as above.
        unsafe { (*cleanup.as_ptr()).handler = Some(drop_auth) };
        r.set_context(memory.as_ptr().cast());
        // SAFETY: written above; lies in the pool of the live request.
        Some(unsafe { memory.as_ref() })
    }

    /// The one of which the request is the question.
    #[inline]
    pub(super) fn of_subrequest<'a>(sub: Request) -> Option<&'a Self> {
        if sub.main() == sub {
            return None;
        }
        // SAFETY: a live request; reads one field.
        let post = NonNull::new(unsafe { (*sub.as_ptr()).post_subrequest })?;
        // SAFETY: lies in the request's pool.
        let post = unsafe { post.as_ref() };
        // SAFETY: `ask` has put it there; it lies in the same pool, and only its cells change.
        is_ours(post.handler).then(|| unsafe { &*post.data.cast() })
    }

    pub(super) fn is_about(&self, uri: &Uri) -> bool {
        self.uri.is(uri)
    }

    /// The question is sent.
    pub(super) fn start(&self) {
        self.since.set(now());
        self.stage.set(Stage::Asking);
    }

    /// The answer is there, or its time is over.
    pub(super) fn finish(&self, status: u16) {
        self.status.set(status);
        self.took.set(now().wrapping_sub(self.since.get()));
        self.stage.set(Stage::Done);
        self.alarm.cancel();
    }

    /// How long it took, in milliseconds; until now if it is not there yet, and `None` if nobody was asked.
    pub(super) fn took(&self) -> Option<Msec> {
        match self.stage.get() {
            Stage::Done => Some(self.took.get()),
            Stage::Asking => Some(now().wrapping_sub(self.since.get())),
            Stage::New | Stage::Reading | Stage::Read => None,
        }
    }

    /// Counts what was decided; once, though the request may be redirected.
    pub(super) fn count(&self, decision: Decision) {
        let meters = MainConf::of(self.r).and_then(|main| main.meters.get());
        if let Some(meter) = meters.and_then(|meters| meters.get(self.uri.number)) {
            if !self.counted.replace(true) {
                meter.decide(decision, self.took.get());
            }
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let status = self.status.get();
        let from_server =
            |sub: Request| sub.upstream().is_none_or(|u| u.response_status() == usize::from(status));
        let made_up = status >= 500 && !self.sub.get().is_some_and(from_server);
        Answer { status, made_up: made_up || self.timed_out.get() }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.stage.get() == Stage::Done && self.answer().verdict(&[]) == Verdict::Allow
    }
}

/// The last one that the request's pool will clean up.
#[cold]
fn remembered(main: Request) -> Option<NonNull<Auth>> {
    // SAFETY: the pool of a live request.
    let mut next = unsafe { (*main.pool()).cleanup };
    while let Some(cleanup) = NonNull::new(next) {
        // SAFETY: a record of the pool; reads one field.
        let handler = unsafe { (*cleanup.as_ptr()).handler };
        if handler.map(|handler| handler as usize) == Some(drop_auth as *const () as usize) {
            // SAFETY: as above.
            return NonNull::new(unsafe { (*cleanup.as_ptr()).data }.cast());
        }
        // SAFETY: as above.
        next = unsafe { (*cleanup.as_ptr()).next };
    }
    None
}

/// Called by nginx when the request ends. It also tells our records from those of other modules.
unsafe extern "C" fn drop_auth(data: *mut c_void) {
    // SAFETY: what `begin` has written, which nobody else drops.
    unsafe { data.cast::<Auth>().drop_in_place() };
}

/// Whether the request is one that asks, or a part of such a one.
pub(super) fn is_part_of_question(r: Request) -> bool {
    let mut next = Some(r);
    while let Some(r) = next {
        if Auth::of_subrequest(r).is_some() {
            return true;
        }
        next = r.parent();
    }
    false
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        let one: *mut ngx_http_request_t = self.as_ptr();
        one == other.as_ptr()
    }
}
