//! Headers that the client must not send: those that only the response of an auth subrequest sets.
//!
//! `copy` removes them before the content phase, in each location with `auth_subrequest_copy_header`. But a request may leave
//! such a location earlier: nginx refuses it (too large, `deny`, `limit_req`) or rewrites its URI, and an `error_page` or another
//! location without such a list serves it. So each location that a request with such a header has entered is recorded, together
//! with its list. Other modules that read the headers in between (`auth_basic`, `auth_request`, `$http_name`) still see them: the
//! headers are removed just before the content phase, which each request passes.

use std::ffi::c_void;

use nginx_sys::{
    ngx_http_request_t, ngx_int_t, ngx_list_t, ngx_table_elt_t, NGX_DECLINED, NGX_ERROR,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_MAX_URI_CHANGES, NGX_OK,
};

use crate::auth::is_same_header;

use super::conf::{CopiedHeader, LocConf};
use super::context::is_in_auth_subrequest;
use super::copy::update;
use super::header_list::change_headers;
use super::memory::Mark;
use super::server::AuthSrvConf;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::get_field;
use crate::ffi::nginx::headers::{Header, Headers};
use crate::ffi::nginx::request::Request;

/// A location that a request has entered with a header that some location of the server copies. It is recorded in the request's
/// pool, because an internal redirect clears what modules have attached to a request.
struct Visit {
    r: Request,
    /// How often nginx still allowed the request to change its URI.
    changes_left: u32,
    /// The headers that the location copies. If the request was in an unknown location before (nginx has refused it there before
    /// our handler ran), the headers that any location of the server copies.
    copied: &'static [CopiedHeader],
}

/// The first handler of the rewrite phase, which a request passes in each location.
pub(super) unsafe extern "C" fn note_location_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx calls the handlers of a phase with a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let all = AuthSrvConf::copied(r);
        if !sends_any(r, all) || is_in_auth_subrequest(r) || record_location(r, all).is_some() {
            return NGX_DECLINED as ngx_int_t;
        }
        NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t
    })
}

/// The first handler of the log phase: it removes the headers from a request that was refused, so that the log has none of them.
pub(super) unsafe extern "C" fn log_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx calls the handlers of a phase with a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let all = AuthSrvConf::copied(r);
        if sends_any(r, all) && !is_in_auth_subrequest(r) {
            // Without a recorded location nginx has refused the request before it had one.
            let copied = if visits(r).next().is_none() { all } else { &[] };
            if remove(r, copied).is_none() {
                r.log_error(c"no memory to remove headers");
            }
        }
        NGX_OK as ngx_int_t
    })
}

/// Removes the headers of the client that any location on the request's way copies. `None` if there is no memory.
pub(super) fn remove_from_client(r: Request) -> Option<()> {
    if visits(r).next().is_none() {
        return Some(());
    }
    remove(r, &[])
}

/// Removes the headers of the client that are in `copied`, or that a recorded location copies. `None` if there is no memory.
fn remove(r: Request, copied: &'static [CopiedHeader]) -> Option<()> {
    let all = AuthSrvConf::copied(r);
    let is_removed = |name: &[u8]| {
        (matches_any(name, copied) || visits(r).any(|visit| matches_any(name, visit.copied)))
            && !is_from_response(name, all)
    };
    if !r.headers().any(|header| is_removed(header.name())) {
        return Some(());
    }
    save_originals(r, is_removed)?;
    change_headers(r, is_removed, [].into_iter())?;
    all.iter().try_for_each(|copied| update(r, copied))
}

/// Whether the header was copied from a response: then its name is a string of the configuration.
fn is_from_response(name: &[u8], all: &[CopiedHeader]) -> bool {
    all.iter().any(|copied| copied.is_named_by(name.as_ptr()))
}

fn sends_any(r: Request, all: &[CopiedHeader]) -> bool {
    !all.is_empty() && r.headers().any(|header| matches_any(header.name(), all))
}

/// Whether the name matches one of the headers.
fn matches_any(name: &[u8], copied: &[CopiedHeader]) -> bool {
    copied.iter().any(|copied| is_same_header(copied.name.as_bytes(), name))
}

/// Records the location of the request. `None` if there is no memory.
fn record_location(r: Request, all: &'static [CopiedHeader]) -> Option<()> {
    let changes_left = r.changes_left();
    let is_own = |visit: &&Visit| visit.r == r;
    let last = visits(r).find(is_own).map_or(NGX_HTTP_MAX_URI_CHANGES + 2, |visit| visit.changes_left);
    // Each redirect uses one change: if more are used, the request has left another location before our handler ran.
    let is_known = changes_left + 1 == last || changes_left == last;
    let copied = if is_known { LocConf::of(r).copy_header() } else { all };
    VISITS.record(r, Visit { r, changes_left, copied }).map(|_| ())
}

/// The recorded locations of a request and of its parents, the latest first. A request of which only the header is needed is itself
/// an auth subrequest, of another module: it sends what the client has sent, so its parents do not count.
fn visits<'a>(r: Request) -> impl Iterator<Item = &'a Visit> {
    let is_on_the_way = move |visit: &&Visit| {
        let mut next = Some(r);
        while let Some(r) = next {
            if visit.r == r {
                return true;
            }
            next = if r.ends_with_header() { None } else { r.parent() };
        }
        false
    };
    VISITS.records(r).filter(is_on_the_way)
}

/// Saves the headers of the client before any of them is removed, for an auth subrequest that may follow. `None` if there is no
/// memory.
pub(super) fn save_originals(r: Request, is_removed: impl Fn(&[u8]) -> bool) -> Option<()> {
    let all = AuthSrvConf::copied(r);
    let is_lost = |name: &[u8]| is_removed(name) && !is_from_response(name, all);
    if r.main() != r || !r.headers().any(|header| is_lost(header.name())) {
        return Some(());
    }
    if ORIGINALS.records(r).next().is_some() {
        return Some(());
    }
    // The parts of the list, and the headers in them, stay in the request's pool.
    ORIGINALS.record(r, get_field!(r.headers_in.headers)).map(|_| ())
}

/// Adds to an auth subrequest the headers of the client that were removed from the request. `None` if there is no memory.
pub(super) fn restore_originals(sub: Request) -> Option<()> {
    let Some(list) = ORIGINALS.records(sub).next() else { return Some(()) };
    let all = AuthSrvConf::copied(sub);
    // SAFETY: the saved list and its headers are in the pool of the live request, and nobody changes them.
    let originals = unsafe { Headers::of(list) };
    let present = sub.headers();
    let is_gone = |header: &Header| {
        matches_any(header.name(), all) && !present.clone().any(|it| it.as_ptr() == header.as_ptr())
    };
    let gone = originals.filter(is_gone).map(|header| {
        // SAFETY: a header of the saved list, in the pool of the live request.
        let copy: ngx_table_elt_t = unsafe { header.as_ptr().read() };
        copy
    });
    change_headers(sub, |name| is_from_response(name, all), gone)?;
    all.iter().try_for_each(|copied| update(sub, copied))
}

// SAFETY: only this mark has the handler, which writes to the visit that it is called with.
static VISITS: Mark<Visit> = unsafe { Mark::new(clear_visit) };

// SAFETY: only this mark has the handler, which writes to the list that it is called with.
static ORIGINALS: Mark<ngx_list_t> = unsafe { Mark::new(clear_originals) };

/// Marks a [`Visit`] among the cleanups of a pool. Nothing has to be cleaned up: it writes a field so that its code, and with it
/// its address, differs from other handlers.
unsafe extern "C" fn clear_visit(data: *mut c_void) {
    // SAFETY: nginx calls this once, with the visit that `Mark::record` has written, when nobody uses it any more.
    unsafe { (*data.cast::<Visit>()).changes_left = 0 };
}

/// Marks the saved headers of the client among the cleanups of a pool. It writes a field for the same reason as [`clear_visit`].
unsafe extern "C" fn clear_originals(data: *mut c_void) {
    // SAFETY: nginx calls this once, with the list that `Mark::record` has written, when nobody uses it any more.
    unsafe { (*data.cast::<ngx_list_t>()).nalloc = 0 };
}
