//! What one request has asked, and what it was told.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{ngx_http_request_t, ngx_pool_cleanup_t};

use crate::auth::{decisive, Answer, Sent, Verdict};
use crate::base::clock::Msec;
use crate::metrics::Decision;

use super::ask::is_ours;
use super::body::body_of;
use super::capture::Capture;
use super::conf::{LocConf, MainConf, Uri};
use super::deny::Denial;
use super::module::module;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::{add_cleanup, allocate};
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::timer::Alarm;

/// Lies in the request's pool. It is remembered over internal redirects, which take from a request what modules
/// have attached to it: then it is found among what the pool cleans up.
pub(super) struct Auth {
    pub(super) r: Request,
    uri: Uri,
    /// Where it was begun.
    place: Place,
    /// What was asked, once it is.
    pub(super) sent: Cell<Sent>,
    pub(super) stage: Cell<AuthStage>,
    /// The request that asks; it lives as long as the main one.
    pub(super) sub: Cell<Option<Request>>,
    pub(super) status: Cell<u16>,
    /// The status is nginx's own.
    made_up: Cell<bool>,
    /// What was heard is no permission, and stays.
    decided: Cell<bool>,
    pub(super) timed_out: Cell<bool>,
    since: Cell<Msec>,
    took: Cell<Msec>,
    /// What the client is to be told.
    pub(super) denial: Cell<Option<Denial>>,
    /// The error log tells of it already.
    pub(super) logged: Cell<bool>,
    counted: Cell<bool>,
    pub(super) capture: Capture,
    /// Calls `stop`.
    pub(super) alarm: Alarm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthStage {
    New,
    /// The body of the client is read, to be sent along.
    Reading,
    Read,
    Asking,
    Done,
}

/// A location, and the URI by which a request is in it: another one after each internal redirect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    conf: *const LocConf,
    uri: *const u8,
}

impl Place {
    pub(super) fn of(r: Request, conf: &LocConf) -> Self {
        // SAFETY: a live request; reads one field.
        Self { conf, uri: unsafe { (*r.as_ptr()).uri.data } }
    }
}

impl Auth {
    /// The one of the client's request: that of its location, or the last one.
    pub(super) fn of<'a>(r: Request) -> Option<&'a Self> {
        let main = r.main();
        if let Some(context) = main.context_of(module()) {
            // SAFETY: `begin` has put it there; it lies in the pool of the live request, and only its cells change.
            return Some(unsafe { context.cast().as_ref() });
        }
        if !main.is_redirected() {
            return None;
        }
        let auth = all(main).next()?;
        main.set_context_of(module(), NonNull::from(auth).as_ptr().cast());
        Some(auth)
    }

    /// The one that is about the very question of a location, of all that the request has.
    pub(super) fn of_location<'a>(r: Request, conf: &LocConf, uri: &Uri) -> Option<&'a Self> {
        let is_it = |auth: &&Self| auth.is_about(uri) && auth.is_as_asked_by(r, conf);
        let last = Self::of(r)?;
        if is_it(&last) {
            return Some(last);
        }
        let auth = all(r).find(is_it)?;
        r.set_context_of(module(), NonNull::from(auth).as_ptr().cast());
        Some(auth)
    }

    /// All that the client's request has, the last one first.
    pub(super) fn all<'a>(main: Request) -> impl Iterator<Item = &'a Self> {
        let context = main.context_of(module());
        // SAFETY: `begin` has put it there; it lies in the pool of the live request, and only its cells change.
        let only = context.filter(|_| !main.is_redirected()).map(|auth| unsafe { auth.cast().as_ref() });
        only.into_iter().chain(main.is_redirected().then(|| all(main)).into_iter().flatten())
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
            place: Place::of(r, conf),
            sent: Cell::new(Sent { body: None, method: 0 }),
            stage: Cell::new(AuthStage::New),
            sub: Cell::new(None),
            status: Cell::new(0),
            made_up: Cell::new(false),
            decided: Cell::new(false),
            timed_out: Cell::new(false),
            since: Cell::new(now()),
            took: Cell::new(0),
            denial: Cell::new(None),
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
        r.set_context_of(module(), memory.as_ptr().cast());
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

    /// Whether it is what a location would ask now. While there is no answer, it is for the place where it was begun.
    fn is_as_asked_by(&self, r: Request, conf: &LocConf) -> bool {
        let is_done = self.stage.get() == AuthStage::Done;
        let is_as_sent = || self.sent.get().is_as(body_of(r).how_to_ask(conf.body as u64), r.method());
        self.place == Place::of(r, conf) || is_done && is_as_sent()
    }

    /// The question is sent.
    pub(super) fn start(&self) {
        self.since.set(now());
        self.stage.set(AuthStage::Asking);
    }

    /// A status of the question has become known: `last`, and what servers have said before it. The first one that is no
    /// permission stays.
    pub(super) fn hear(&self, sub: Request, last: Option<u16>) {
        if self.decided.get() {
            return;
        }
        let said = sub.answers().map(|status| Answer { status, made_up: false });
        let is_from_server =
            |status| sub.upstream().is_none_or(|u| u.response_status() == usize::from(status));
        let last = last.map(|status| Answer { status, made_up: status >= 500 && !is_from_server(status) });
        if let Some(answer) = decisive(said.chain(last)) {
            self.status.set(answer.status);
            self.made_up.set(answer.made_up);
            self.decided.set(!answer.permits());
        }
    }

    /// Whether nothing that is still to come can change the answer: it is no permission.
    pub(super) fn is_decided(&self) -> bool {
        self.decided.get()
    }

    /// Whether the answer is a denial that goes to the client.
    pub(super) fn is_passed(&self) -> bool {
        matches!(self.answer().verdict(self.capture.pass_status()), Verdict::Deny(_))
    }

    /// The answer is there, or its time is over.
    pub(super) fn finish(&self) {
        self.took.set(now().wrapping_sub(self.since.get()));
        self.stage.set(AuthStage::Done);
        self.alarm.cancel();
    }

    /// How long it took, in milliseconds; until now if it is not there yet, and `None` if nobody was asked.
    pub(super) fn took(&self) -> Option<Msec> {
        match self.stage.get() {
            AuthStage::Done => Some(self.took.get()),
            AuthStage::Asking => Some(now().wrapping_sub(self.since.get())),
            AuthStage::New | AuthStage::Reading | AuthStage::Read => None,
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

    /// A denial of which the page did not come in time is none that can be passed, but no permission either.
    pub(super) fn answer(&self) -> Answer {
        let timed_out = self.timed_out.get();
        let status = if timed_out && !self.decided.get() { 504 } else { self.status.get() };
        Answer { status, made_up: self.made_up.get() || timed_out }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.stage.get() == AuthStage::Done && self.answer().verdict(&[]) == Verdict::Allow
    }
}

/// All that a request's pool will clean up, the last one first.
#[cold]
fn all<'a>(main: Request) -> impl Iterator<Item = &'a Auth> {
    // SAFETY: the pool of a live request.
    let mut next = unsafe { (*main.pool()).cleanup };
    std::iter::from_fn(move || {
        while let Some(cleanup) = NonNull::<ngx_pool_cleanup_t>::new(next) {
            // SAFETY: a record of the pool, which nobody writes once it is there.
            let cleanup = unsafe { cleanup.as_ref() };
            next = cleanup.next;
            let handler = cleanup.handler.map(|handler| handler as usize);
            if handler == Some(drop_auth as *const () as usize) {
                // SAFETY: `begin` has put it there; it lies in the pool, and only its cells change.
                return NonNull::new(cleanup.data.cast::<Auth>()).map(|auth| unsafe { auth.as_ref() });
            }
        }
        None
    })
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
