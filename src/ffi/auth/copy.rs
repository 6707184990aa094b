//! `auth_subrequest_copy_header`: what the server behind is told about the user comes from the answer, and
//! never from the client.

use std::mem::offset_of;

use nginx_sys::{
    ngx_hash_find, ngx_http_core_main_conf_t, ngx_http_header_t, ngx_http_headers_in_t, ngx_http_request_t,
    ngx_int_t, ngx_str_t, ngx_table_elt_t, NGX_DECLINED, NGX_ERROR, NGX_HTTP_INTERNAL_SERVER_ERROR,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use crate::auth::is_same_header;

use super::client_headers::{keep_originals, remove_on_the_way};
use super::conf::{Copied, LocConf, MainConf};
use super::context::{is_part_of_question, Auth};
use super::header_list::change_headers;
use super::header_list::element;
use super::server::SrvConf;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::headers::{Header, Headers};
use crate::ffi::nginx::request::{HttpUpstream, Request};

/// Between access and content, for every request of the location: also for one that nobody has asked about,
/// because `satisfy any` let it pass, and for subrequests. The question itself has what the client sent.
pub(super) unsafe extern "C" fn copy_headers_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        if SrvConf::copied(r).is_empty() || is_part_of_question(r) {
            return NGX_DECLINED as ngx_int_t;
        }
        if remove_on_the_way(r).and_then(|()| copy(r, LocConf::of(r).copy_header())).is_some() {
            return NGX_DECLINED as ngx_int_t;
        }
        NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t
    })
}

/// Sets the headers of the request to those of the answer, if that is a permission, and removes them otherwise.
pub(super) fn copy(r: Request, copied: &'static [Copied]) -> Option<()> {
    if copied.is_empty() {
        return Some(());
    }
    // If the location asks another one, but has let the request pass without, there is no answer for it.
    let asks_another = |auth: &&Auth| LocConf::of(r).uri().is_some_and(|uri| !auth.is_about(uri));
    let auth = Auth::of(r).filter(|auth| auth.is_allowed() && !asks_another(auth));
    let answer = auth.and_then(answer_headers);
    let values = copied.iter().flat_map(|copied| {
        let is_it = |name: &[u8]| name.eq_ignore_ascii_case(copied.name.as_bytes());
        let all = answer.clone().into_iter().flatten();
        all.filter(move |header| header.is_there() && is_it(header.name()))
            .map(move |it| element(copied, it.value()))
    });
    let is_copied = |name: &[u8]| copied.iter().any(|copied| is_same_header(copied.name.as_bytes(), name));
    keep_originals(r, is_copied)?;
    change_headers(r, is_copied, values)?;
    copied.iter().try_for_each(|copied| update(r, copied))
}

/// The headers of the answer, as the server sent them.
fn answer_headers(auth: &Auth) -> Option<Headers> {
    let sub = auth.sub.get()?;
    // After an `error_page` its upstream part may be that of another response.
    let is_it = |u: &HttpUpstream| u.response_status() == usize::from(auth.status.get());
    let list = sub.upstream().filter(is_it).map_or(sub.response_headers(), |u| u.response_headers());
    // SAFETY: both live as long as the main request, and are complete.
    Some(unsafe { Headers::of(list) })
}

/// What nginx knows of a header besides the list: a pointer if it is one of its own, and a variable that may have
/// been evaluated.
pub(super) fn update(r: Request, copied: &Copied) -> Option<()> {
    // SAFETY: a live request.
    let main: &ngx_http_core_main_conf_t = NgxHttpCoreModule::main_conf(unsafe { &*r.as_ptr() })?;
    // SAFETY: of a live request; nobody else has it now.
    let variable = unsafe { &mut *r.variable(copied.variable) };
    variable.set_valid(0);
    variable.set_not_found(0);
    if copied.lowercase.as_bytes() == b"authorization" {
        forget_user(r)?;
    }

    let hash = (&raw const main.headers_in_hash).cast_mut();
    let ngx_str_t { data, len } = copied.lowercase;
    // SAFETY: nginx's table of the headers that it knows; only read.
    let known = unsafe { ngx_hash_find(hash, copied.hash, data, len) }.cast::<ngx_http_header_t>();
    // SAFETY: an entry of the table, or null.
    let Some(known) = (unsafe { known.as_ref() }) else { return Some(()) };
    let headers = r.headers().filter(|header| header.name().eq_ignore_ascii_case(copied.name.as_bytes()));
    // SAFETY: a live request; makes no reference.
    let headers_in = unsafe { &raw mut (*r.as_ptr()).headers_in };
    // SAFETY: the entry says where in this structure nginx has its pointer.
    let place = unsafe { headers_in.byte_add(known.offset) };
    point(r, place.cast(), known.offset, headers.map(Header::as_ptr))
}

/// nginx keeps apart the name of the user, from when it was first asked for (`ngx_http_auth_basic_user()`).
fn forget_user(r: Request) -> Option<()> {
    // SAFETY: a live request; nobody else has its headers now.
    let headers = unsafe { &mut (*r.as_ptr()).headers_in };
    headers.user = ngx_str_t { len: 0, data: std::ptr::null_mut() };
    headers.passwd = ngx_str_t { len: 0, data: std::ptr::null_mut() };
    for index in MainConf::of(r)?.of_user.get().as_slice() {
        // SAFETY: of a live request; nobody else has it now.
        let variable = unsafe { &mut *r.variable(*index) };
        variable.set_valid(0);
        variable.set_not_found(0);
    }
    Some(())
}

/// Lets nginx's pointer be the first of the headers, and each of them point at the next one.
#[cfg(nginx_header_chains)]
fn point(
    _: Request,
    place: *mut *mut ngx_table_elt_t,
    offset: usize,
    headers: impl Iterator<Item = *mut ngx_table_elt_t>,
) -> Option<()> {
    const { assert!(offset_of!(ngx_http_headers_in_t, headers) == 0) };
    if offset == 0 {
        // It has none.
        return Some(());
    }
    let mut place = place;
    for header in headers {
        // SAFETY: nginx's pointer, or the link of a header that was put into the list by us.
        unsafe { *place = header };
        // SAFETY: as above; makes no reference.
        place = unsafe { &raw mut (*header).next };
    }
    // SAFETY: as above.
    unsafe { *place = std::ptr::null_mut() };
    Some(())
}

/// Before headers were linked, nginx had arrays of pointers for two that come several times.
#[cfg(not(nginx_header_chains))]
fn point(
    r: Request,
    place: *mut *mut ngx_table_elt_t,
    offset: usize,
    mut headers: impl Iterator<Item = *mut ngx_table_elt_t>,
) -> Option<()> {
    use std::ptr::NonNull;

    use nginx_sys::{ngx_array_create, ngx_array_t};

    use crate::ffi::nginx::memory::{or_fail, push_to_array};
    const COOKIES: usize = offset_of!(ngx_http_headers_in_t, cookies);
    const FORWARDED: usize = offset_of!(ngx_http_headers_in_t, x_forwarded_for);
    match offset {
        0 => {}
        COOKIES | FORWARDED => {
            // SAFETY: the pool of a live request.
            let array = or_fail(std::ptr::null_mut(), || unsafe {
                ngx_array_create(r.pool(), 1, size_of::<*mut ngx_table_elt_t>())
            });
            for header in headers {
                let array = NonNull::new(array)?.as_ptr();
                // SAFETY: made above.
                let element = unsafe { push_to_array::<*mut ngx_table_elt_t>(array) }?;
                // SAFETY: a new element.
                unsafe { element.write(header) };
            }
            // SAFETY: made above, or null.
            let array: &ngx_array_t = unsafe { array.as_ref() }?;
            // SAFETY: at this offset nginx has an array; a subrequest has its own copy.
            unsafe { place.cast::<ngx_array_t>().copy_from_nonoverlapping(array, 1) };
        }
        // SAFETY: nginx's pointer.
        _ => unsafe { *place = headers.next().unwrap_or(std::ptr::null_mut()) },
    }
    Some(())
}
