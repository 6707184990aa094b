//! What a client must not send: the headers that only an answer sets, and the ways round the location that says so.
//!
//! Where `auth_subrequest_copy_header` is in effect, `copy` removes them before the content. But a request may leave
//! before: nginx refuses it (too large, `deny`, `limit_req`), or it is rewritten, and an `error_page` or another location
//! serves it without such a list. So each location in which a request with such a header was is noted, and its list goes
//! with the request. What other modules read in between (`auth_basic`, `auth_request`, `$http_name`) is left alone: the
//! headers go just before the content, which no request reaches without passing there.

use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_http_request_t, ngx_int_t, ngx_list_t, ngx_pool_cleanup_pt, ngx_pool_t, ngx_table_elt_t,
    NGX_DECLINED, NGX_ERROR, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_MAX_URI_CHANGES, NGX_OK,
};

use crate::auth::is_same_header;

use super::conf::{Copied, LocConf};
use super::context::is_part_of_question;
use super::copy::update;
use super::header_list::change_headers;
use super::server::SrvConf;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::headers::{Header, Headers};
use crate::ffi::nginx::memory::{add_cleanup, allocate};
use crate::ffi::nginx::request::Request;

/// A location in which a request was with a header that some location of the server copies. Lies in the request's pool, and
/// is found among what the pool cleans up, as redirects take from a request what modules have attached to it.
struct Visit {
    r: Request,
    /// How many changes of its location nginx still allowed.
    changes_left: u32,
    /// What the location copies; all that the server does if the request was in a location before that is not known:
    /// nginx has refused it before our handler.
    copied: &'static [Copied],
}

/// The first handler of the rewrite phase, through which a request comes in each location.
pub(super) unsafe extern "C" fn note_location_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let all = SrvConf::copied(r);
        if !has_any(r, all) || is_part_of_question(r) || note_location(r, all).is_some() {
            return NGX_DECLINED as ngx_int_t;
        }
        NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t
    })
}

/// The first handler of the log phase: the log of a request that was refused has none of these headers either.
pub(super) unsafe extern "C" fn log_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        let all = SrvConf::copied(r);
        if has_any(r, all) && !is_part_of_question(r) {
            // nginx has refused one that was nowhere before it had a location.
            let copied = if visits(r).next().is_none() { all } else { &[] };
            if remove(r, copied).is_none() {
                r.log_error(c"no memory to remove headers");
            }
        }
        NGX_OK as ngx_int_t
    })
}

/// Removes what the client has sent under the names that were in effect anywhere on the way. `None` if there is no
/// memory.
pub(super) fn remove_on_the_way(r: Request) -> Option<()> {
    if visits(r).next().is_none() {
        return Some(());
    }
    remove(r, &[])
}

fn remove(r: Request, copied: &'static [Copied]) -> Option<()> {
    let all = SrvConf::copied(r);
    let is_removed = |name: &[u8]| {
        (is_named(name, copied) || visits(r).any(|visit| is_named(name, visit.copied)))
            && !is_of_answer(name, all)
    };
    if !r.headers().any(|header| is_removed(header.name())) {
        return Some(());
    }
    keep_originals(r, is_removed)?;
    change_headers(r, is_removed, [].into_iter())?;
    all.iter().try_for_each(|copied| update(r, copied))
}

/// Headers that come from an answer have their names from the configuration.
fn is_of_answer(name: &[u8], all: &[Copied]) -> bool {
    all.iter().any(|copied| copied.is_named(name.as_ptr()))
}

fn has_any(r: Request, all: &[Copied]) -> bool {
    !all.is_empty() && r.headers().any(|header| is_named(header.name(), all))
}

fn is_named(name: &[u8], copied: &[Copied]) -> bool {
    copied.iter().any(|copied| is_same_header(copied.name.as_bytes(), name))
}

fn note_location(r: Request, all: &'static [Copied]) -> Option<()> {
    let changes_left = r.changes_left();
    let is_own = |visit: &&Visit| visit.r == r;
    let last = visits(r).find(is_own).map_or(NGX_HTTP_MAX_URI_CHANGES + 2, |visit| visit.changes_left);
    // Each redirect takes one of them: if more are gone, the request was in a location that it has left before our handler.
    let is_known = changes_left + 1 == last || changes_left == last;
    let copied = if is_known { LocConf::of(r).copy_header() } else { all };
    record(r.pool(), Visit { r, changes_left, copied }, visit_ends)
}

/// The locations of a request, the last one first, and those of the requests of which it is a part. If only its header is
/// key, it is itself a question, of another module's: such a one has what the client sent.
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
    records::<Visit>(r.pool(), visit_ends).filter(is_on_the_way)
}

/// Keeps what the client has sent before something of it is removed, for a question that may come yet. `None` if there is no
/// memory.
pub(super) fn keep_originals(r: Request, is_removed: impl Fn(&[u8]) -> bool) -> Option<()> {
    let all = SrvConf::copied(r);
    let is_lost = |name: &[u8]| is_removed(name) && !is_of_answer(name, all);
    if r.main() != r || !r.headers().any(|header| is_lost(header.name())) {
        return Some(());
    }
    if records::<ngx_list_t>(r.pool(), originals_end).next().is_some() {
        return Some(());
    }
    // SAFETY: a live request; the parts of the list, and what is in them, stay in its pool.
    let list = unsafe { (*r.as_ptr()).headers_in.headers };
    record(r.pool(), list, originals_end)
}

/// Gives a question the headers that the client has sent, should they have been removed from the request by now. `None` if
/// there is no memory.
pub(super) fn restore(sub: Request) -> Option<()> {
    let Some(list) = records::<ngx_list_t>(sub.pool(), originals_end).next() else { return Some(()) };
    let all = SrvConf::copied(sub);
    // SAFETY: in the request's pool; nobody writes it any more.
    let originals = unsafe { Headers::of(list) };
    let present = sub.headers();
    let is_gone = |header: &Header| {
        is_named(header.name(), all) && !present.clone().any(|it| it.as_ptr() == header.as_ptr())
    };
    let gone = originals.filter(is_gone).map(|header| {
        // SAFETY: a header of that list.
        let copy: ngx_table_elt_t = unsafe { header.as_ptr().read() };
        copy
    });
    change_headers(sub, |name| is_of_answer(name, all), gone)?;
    all.iter().try_for_each(|copied| update(sub, copied))
}

/// Marks a [`Visit`] among what a pool cleans up.
unsafe extern "C" fn visit_ends(data: *mut c_void) {
    // SAFETY: a `Visit` of ours, which nobody uses any more; it has nothing to drop, but lets the function differ from others.
    unsafe { data.cast::<Visit>().drop_in_place() };
}

/// Marks the client's headers among what a pool cleans up.
unsafe extern "C" fn originals_end(data: *mut c_void) {
    // SAFETY: a list of ours, which nobody uses any more; writes one field.
    unsafe { (*data.cast::<ngx_list_t>()).nalloc = 0 };
}

/// Leaves something in a request's pool, to be found by its mark. `None` if there is no memory.
fn record<T>(pool: *mut ngx_pool_t, value: T, mark: unsafe extern "C" fn(*mut c_void)) -> Option<()> {
    // SAFETY: the pool of a live request.
    let memory = unsafe { allocate::<T>(pool, 1) }?.cast::<T>();
    // SAFETY: as above; no memory of nginx's choosing is asked for.
    let cleanup = unsafe { add_cleanup(pool, 0) }?;
    // SAFETY: allocated above.
    unsafe { memory.write(value) };
    // SAFETY: a new cleanup record of the pool.
    unsafe { (*cleanup.as_ptr()).data = memory.as_ptr().cast() };
    // SAFETY: as above.
    unsafe { (*cleanup.as_ptr()).handler = Some(mark) };
    Some(())
}

/// What was left in a request's pool with a mark, the last one first.
fn records<'a, T: 'a>(
    pool: *mut ngx_pool_t,
    mark: unsafe extern "C" fn(*mut c_void),
) -> impl Iterator<Item = &'a T> {
    // SAFETY: the pool of a live request; reads one field.
    let mut next = unsafe { (*pool).cleanup };
    let is_marked =
        move |handler: ngx_pool_cleanup_pt| handler.map(|handler| handler as usize) == Some(mark as usize);
    std::iter::from_fn(move || loop {
        let cleanup = NonNull::new(next)?;
        // SAFETY: a record of the pool; reads one field.
        next = unsafe { (*cleanup.as_ptr()).next };
        // SAFETY: as above.
        if is_marked(unsafe { (*cleanup.as_ptr()).handler }) {
            // SAFETY: as above.
            let value = unsafe { (*cleanup.as_ptr()).data }.cast::<T>();
            // SAFETY: `record` has put a `T` there, with this mark; it lives as long as the pool.
            return unsafe { value.as_ref() };
        }
    })
}
