//! The context of one authorisation decision: the auth subrequest of a location, and its answer.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::ngx_http_request_t;

use crate::auth::{decisive_answer, Answer, OnError, SentRequest, Verdict};
use crate::base::clock::Msec;
use crate::metrics::Decision;

use super::body::plan;
use super::capture::Capture;
use super::conf::{LocConf, Uri};
use super::deny::Denial;
use super::indexed::Indexed;
use super::memory::Mark;
use super::module::module;
use super::room::Room;
use super::settings::Settings;
use super::subrequest::is_auth_handler;
use super::timeouts::Place;
use crate::ffi::nginx::handle::{get_field, Handle as _};
use crate::ffi::nginx::process::now;
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::timer::Alarm;

/// The context of a decision. It lies in the request's pool. An internal redirect clears what modules have attached to a
/// request; then the context is found among the pool's cleanups.
pub(super) struct AuthContext {
    /// The client's request.
    pub(super) r: Request,
    /// What the location names.
    pub(super) uri: &'static Uri,
    /// The location that has created the context.
    location: RequestLocation,
    /// The body and the method of the auth subrequest, once it is sent.
    pub(super) sent: Cell<SentRequest>,
    /// The variables on which the decision depends, once it is made.
    pub(super) settings: Settings,
    pub(super) stage: Cell<AuthStage>,
    /// The auth subrequest; it lives as long as the main request.
    pub(super) sub: Cell<Option<Request>>,
    /// The status of the answer so far.
    pub(super) status: Cell<u16>,
    /// nginx made the status itself (see [`Answer::made_up`]).
    pub(super) made_up: Cell<bool>,
    /// The status is no permission, and does not change any more.
    pub(super) refused: Cell<bool>,
    pub(super) timed_out: Cell<bool>,
    started_at: Cell<Msec>,
    /// In milliseconds, once the auth subrequest has ended.
    duration: Cell<Msec>,
    /// The denial that the client gets.
    pub(super) denial: Cell<Option<Denial>>,
    /// The failure is in the error log already.
    pub(super) logged: Cell<bool>,
    /// The response to the client has the cookies of the permission.
    pub(super) cookies_passed: Cell<bool>,
    counted: Cell<bool>,
    pub(super) capture: Capture,
    /// Whether there is an alarm: few contexts need one.
    has_alarm: Cell<bool>,
    /// The place among the auth subrequests with this timeout that are under way, if it is one of them.
    pub(super) place: Place,
    pub(super) is_timed: Cell<bool>,
    /// What else lies in the block of the context.
    pub(super) room: Room,
}

/// The stages of a decision, in their order. Without `auth_subrequest_body` `New` is followed by `Pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthStage {
    New,
    /// nginx reads the client's body, which the auth subrequest will send.
    ReadingBody,
    BodyRead,
    /// The auth subrequest is under way.
    Pending,
    /// The answer has arrived, or its time is over.
    Done,
}

/// A location, and the URI with which the request has entered it: each internal redirect gives the request another URI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestLocation {
    conf: *const LocConf,
    uri: *const u8,
}

impl RequestLocation {
    pub(super) fn of(r: Request, conf: &LocConf) -> Self {
        Self { conf, uri: get_field!(r.uri.data) }
    }
}

// SAFETY: only this mark has the handler, which drops the context that it is called with.
static CONTEXTS: Mark<AuthContext> = unsafe { Mark::new(drop_context) };

impl AuthContext {
    /// The context of the client's request: the one of its location, otherwise the latest one.
    #[inline]
    pub(super) fn of<'a>(r: Request) -> Option<&'a Self> {
        let main = r.main();
        if let Some(context) = attached(main) {
            return Some(context);
        }
        if main.is_redirected() {
            reattach(main)
        } else {
            None
        }
    }

    /// The context whose answer is valid for a location, among all contexts of the client's request `r`.
    #[inline]
    pub(super) fn of_location<'a>(r: Request, conf: &LocConf, uri: &Uri) -> Option<&'a Self> {
        let latest = match attached(r) {
            Some(latest) => latest,
            None if r.is_redirected() => reattach(r)?,
            None => return None,
        };
        if latest.has_uri(uri) && latest.is_valid_for(r, conf) {
            return Some(latest);
        }
        Self::find_for(r, conf, uri)
    }

    #[cold]
    #[inline(never)]
    fn find_for<'a>(r: Request, conf: &LocConf, uri: &Uri) -> Option<&'a Self> {
        let ctx = recorded(r).find(|ctx| ctx.has_uri(uri) && ctx.is_valid_for(r, conf))?;
        attach(r, ctx);
        Some(ctx)
    }

    /// All contexts of the client's request, the latest first.
    pub(super) fn all<'a>(main: Request) -> impl Iterator<Item = &'a Self> {
        let is_redirected = main.is_redirected();
        let only = if is_redirected { None } else { attached(main) };
        only.into_iter().chain(is_redirected.then(|| recorded(main)).into_iter().flatten())
    }

    /// Creates a context for a location with `auth_subrequest uri`. `None` if there is no memory.
    #[inline]
    pub(super) fn create<'a>(r: Request, conf: &'static LocConf, uri: &'static Uri) -> Option<&'a Self> {
        let room = Indexed::in_location(r, conf)?.room;
        let ctx = |room| Self {
            r,
            uri,
            location: RequestLocation::of(r, conf),
            sent: Cell::new(SentRequest { body: None, method: r.method() }),
            settings: Settings::new(),
            stage: Cell::new(AuthStage::New),
            sub: Cell::new(None),
            status: Cell::new(0),
            made_up: Cell::new(false),
            refused: Cell::new(false),
            timed_out: Cell::new(false),
            started_at: Cell::new(0),
            duration: Cell::new(0),
            denial: Cell::new(None),
            logged: Cell::new(false),
            cookies_passed: Cell::new(false),
            counted: Cell::new(false),
            capture: Capture::new(conf),
            has_alarm: Cell::new(false),
            place: Place::new(),
            is_timed: Cell::new(false),
            // SAFETY: `record_with` gives as much memory as it was asked for.
            room: unsafe { Room::new(room) },
        };
        let ctx = CONTEXTS.record_with(r, room, ctx)?;
        r.set_context_of(module(), ctx.as_ptr().cast());
        // SAFETY: `record` has written it to the pool of the live request; only its cells change.
        Some(unsafe { ctx.as_ref() })
    }

    /// The context whose auth subrequest is `sub`.
    #[inline]
    pub(super) fn of_subrequest<'a>(sub: Request) -> Option<&'a Self> {
        if sub.main() == sub {
            return None;
        }
        let post = NonNull::new(get_field!(sub.post_subrequest))?;
        // SAFETY: nginx keeps the record of the module that has created the subrequest, in the pool of the live request.
        let post = unsafe { post.as_ref() };
        // SAFETY: only `super::subrequest` uses our handler, with a context; it lies in the same pool, and only its cells change.
        is_auth_handler(post.handler).then(|| unsafe { &*post.data.cast() })
    }

    /// Whether the context is for a location with `auth_subrequest uri`.
    #[inline]
    pub(super) fn has_uri(&self, uri: &Uri) -> bool {
        self.uri.is_same(uri)
    }

    /// Whether a location would send the same auth subrequest now, to the same effect. A context without an answer is only
    /// valid for the location that has created it.
    fn is_valid_for(&self, r: Request, conf: &LocConf) -> bool {
        let is_done = self.stage.get() == AuthStage::Done;
        let is_as_sent = || self.sent.get().matches(plan(r, conf), r.method());
        (self.location == RequestLocation::of(r, conf) || is_done && is_as_sent())
            && (!r.is_redirected() || self.settings.are_as_in(r, self.sub.get()))
    }

    /// The auth subrequest is sent.
    #[inline]
    pub(super) fn start(&self) {
        self.started_at.set(now());
        self.stage.set(AuthStage::Pending);
        if let Some(timeouts) = self.capture.conf.timeouts {
            timeouts.add(self);
        }
    }

    /// When it was sent.
    pub(super) fn started_at(&self) -> Msec {
        self.started_at.get()
    }

    /// Records the statuses of the auth subrequest that are known now: those that servers have sent, and `last`. The first
    /// one that is no permission stays.
    #[inline]
    pub(super) fn record_status(&self, sub: Request, last: Option<u16>) {
        match last {
            Some(status @ 200..=299) if !self.refused.get() && !sub.may_have_refusals() => {
                self.status.set(status);
                self.made_up.set(false);
            }
            _ => self.record_decisive(sub, last),
        }
    }

    #[cold]
    #[inline(never)]
    fn record_decisive(&self, sub: Request, last: Option<u16>) {
        if self.refused.get() {
            return;
        }
        let from_servers = sub.answers().map(|status| Answer { status, made_up: false });
        let is_from_server =
            |status| sub.upstream().is_none_or(|u| u.response_status() == usize::from(status));
        let last = last.map(|status| Answer { status, made_up: status >= 500 && !is_from_server(status) });
        // If no other server has answered, the refusal of the one that was passed over is the answer.
        let is_unanswered = last.is_none_or(|last| last.made_up);
        let passed_over = is_unanswered.then(|| sub.passed_over()).flatten();
        let passed_over = passed_over.map(|status| Answer { status, made_up: false });
        if let Some(answer) = decisive_answer(from_servers.chain(passed_over).chain(last)) {
            self.status.set(answer.status);
            self.made_up.set(answer.made_up);
            self.refused.set(!answer.permits());
        }
    }

    /// Whether the recorded status is no permission, so that nothing can change it any more.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.get()
    }

    /// Whether the client gets the answer: it is a denial, or a failure that is passed.
    pub(super) fn is_denied(&self) -> bool {
        let conf = self.capture.conf;
        match self.answer().verdict(conf.pass_status()) {
            Verdict::Deny(_) => true,
            Verdict::Failure(_) => conf.on_error() == OnError::Pass,
            Verdict::Allow | Verdict::Unexpected(_) => false,
        }
    }

    /// The answer has arrived, or its time is over.
    #[inline]
    pub(super) fn finish(&self) {
        self.duration.set(now().wrapping_sub(self.started_at.get()));
        self.stage.set(AuthStage::Done);
        self.leave();
        if self.has_alarm.get() {
            self.alarm().cancel();
        }
    }

    /// The alarm of the context.
    #[cold]
    #[inline(never)]
    pub(super) fn alarm(&self) -> &Alarm {
        let alarm = self.room.alarm();
        if !self.has_alarm.replace(true) {
            // SAFETY: the place of an alarm; there was none yet, so no reference to one.
            unsafe { alarm.write(Alarm::new()) };
        }
        // SAFETY: written above, or by an earlier call; only shared references to it exist.
        unsafe { &*alarm }
    }

    /// Leaves those that are under way.
    #[inline]
    fn leave(&self) {
        if self.is_timed.get() {
            if let Some(timeouts) = self.capture.conf.timeouts {
                timeouts.remove(self);
            }
        }
    }

    /// The duration of the auth subrequest in milliseconds; until now if it is pending, `None` if it was not sent.
    pub(super) fn duration(&self) -> Option<Msec> {
        match self.stage.get() {
            AuthStage::Done => Some(self.duration.get()),
            AuthStage::Pending => Some(now().wrapping_sub(self.started_at.get())),
            AuthStage::New | AuthStage::ReadingBody | AuthStage::BodyRead => None,
        }
    }

    /// Counts the decision; once, even if the request is redirected and the context used again.
    pub(super) fn count(&self, decision: Decision) {
        let meters = self.capture.conf.main.and_then(|main| main.meters.get());
        if let Some(meter) = meters.and_then(|meters| meters.get(self.uri.index)) {
            if !self.counted.replace(true) {
                meter.decide(decision, self.duration.get());
            }
        }
    }

    /// The answer. A denial whose error page did not arrive in time is neither a denial to pass nor a permission.
    pub(super) fn answer(&self) -> Answer {
        let timed_out = self.timed_out.get();
        let status = if timed_out && !self.refused.get() { 504 } else { self.status.get() };
        Answer { status, made_up: self.made_up.get() || timed_out }
    }

    /// Whether the auth subrequest has ended with a permission.
    pub(super) fn is_allowed(&self) -> bool {
        self.stage.get() == AuthStage::Done && self.answer().verdict(&[]) == Verdict::Allow
    }
}

impl Drop for AuthContext {
    fn drop(&mut self) {
        self.leave();
        if self.has_alarm.get() {
            self.alarm().cancel();
        }
    }
}

/// The context that is attached to a request.
#[inline]
pub(super) fn attached<'a>(r: Request) -> Option<&'a AuthContext> {
    // SAFETY: this module attaches contexts only; they lie in the pool of the live request, and only their cells change.
    r.context_of(module()).map(|ctx| unsafe { ctx.cast().as_ref() })
}

/// Attaches the latest context to a request that was redirected.
#[cold]
#[inline(never)]
fn reattach<'a>(r: Request) -> Option<&'a AuthContext> {
    let ctx = recorded(r).next()?;
    attach(r, ctx);
    Some(ctx)
}

fn attach(r: Request, ctx: &AuthContext) {
    r.set_context_of(module(), NonNull::from(ctx).as_ptr().cast());
}

/// The contexts in the pool of a request, the latest first.
#[cold]
fn recorded<'a>(r: Request) -> impl Iterator<Item = &'a AuthContext> {
    CONTEXTS.records(r)
}

/// Drops a context when nginx destroys the pool. It also marks the contexts among the cleanups.
unsafe extern "C" fn drop_context(data: *mut c_void) {
    // SAFETY: nginx calls this once, with the context that `Mark::record` has written.
    unsafe { data.cast::<AuthContext>().drop_in_place() };
}

/// Whether the request is an auth subrequest or nested in one.
pub(super) fn is_in_auth_subrequest(r: Request) -> bool {
    let mut next = Some(r);
    while let Some(r) = next {
        if AuthContext::of_subrequest(r).is_some() {
            return true;
        }
        next = r.parent();
    }
    false
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        let this: *mut ngx_http_request_t = self.as_ptr();
        this == other.as_ptr()
    }
}
