//! `auth_subrequest_copy_header`: headers that tell the server about the user come from the response of the auth subrequest, and
//! never from the client.

use std::mem::offset_of;

use nginx_sys::{
    ngx_hash_find, ngx_http_core_main_conf_t, ngx_http_header_t, ngx_http_headers_in_t, ngx_http_request_t,
    ngx_int_t, ngx_str_t, ngx_table_elt_t, NGX_DECLINED, NGX_ERROR, NGX_HTTP_INTERNAL_SERVER_ERROR,
};
use ngx::http::{HttpModuleMainConf, NgxHttpCoreModule};

use crate::auth::is_same_header;

use super::client_headers::{remove_from_client, save_originals};
use super::conf::{CopiedHeader, LocConf};
use super::context::{is_in_auth_subrequest, AuthContext};
use super::header_list::{change_headers, element};
use super::indexed::Indexed;
use super::server::AuthSrvConf;
use super::variables::invalidate;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{field_ptr, set_field, Handle as _};
use crate::ffi::nginx::headers::{Header, Headers};
use crate::ffi::nginx::request::{HttpUpstream, Request};

/// The handler of the precontent phase. It also runs for requests without an auth subrequest (`satisfy any` has let them pass) and
/// for other subrequests. The auth subrequest itself keeps the headers of the client.
pub(super) unsafe extern "C" fn copy_headers_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_ERROR as ngx_int_t, || {
        // SAFETY: nginx calls the handlers of a phase with a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        if AuthSrvConf::copied(r).is_empty() || is_in_auth_subrequest(r) {
            return NGX_DECLINED as ngx_int_t;
        }
        if remove_from_client(r).and_then(|()| copy(r, LocConf::of(r).copy_header())).is_some() {
            return NGX_DECLINED as ngx_int_t;
        }
        NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t
    })
}

/// Replaces the headers of the request by the headers of the response, if the answer is a permission, and removes them otherwise.
/// `None` if there is no memory.
pub(super) fn copy(r: Request, copied: &'static [CopiedHeader]) -> Option<()> {
    if copied.is_empty() {
        return Some(());
    }
    // The latest context may have another URI than this location, which has let the request pass without an auth subrequest.
    let has_other_uri = |ctx: &&AuthContext| LocConf::of(r).uri().is_some_and(|uri| !ctx.has_uri(uri));
    let ctx = AuthContext::of(r).filter(|ctx| ctx.is_allowed() && !has_other_uri(ctx));
    let response = ctx.and_then(response_headers);
    let values = copied.iter().flat_map(|copied| {
        let is_it = |name: &[u8]| name.eq_ignore_ascii_case(copied.name.as_bytes());
        let all = response.clone().into_iter().flatten();
        all.filter(move |header| header.is_there() && is_it(header.name()))
            .map(move |it| element(copied, it.value()))
    });
    let is_copied = |name: &[u8]| copied.iter().any(|copied| is_same_header(copied.name.as_bytes(), name));
    save_originals(r, is_copied)?;
    change_headers(r, is_copied, values)?;
    copied.iter().try_for_each(|copied| update(r, copied))
}

/// The headers of the response of the auth subrequest, as the server has sent them.
fn response_headers(ctx: &AuthContext) -> Option<Headers> {
    let sub = ctx.sub.get()?;
    // After an `error_page` the upstream request may belong to another response.
    let is_it = |u: &HttpUpstream| u.response_status() == usize::from(ctx.status.get());
    let list = sub.upstream().filter(is_it).map_or(sub.response_headers(), |u| u.response_headers());
    // SAFETY: the auth subrequest and its upstream request live as long as the main request, and its response is complete.
    Some(unsafe { Headers::of(list) })
}

/// Updates what nginx knows of a header besides the list: its pointer to the header, and the variable, which may have been
/// evaluated. `None` if there is no memory.
pub(super) fn update(r: Request, copied: &CopiedHeader) -> Option<()> {
    // SAFETY: a handle points at a live request; the reference is used in this statement only.
    let main: &ngx_http_core_main_conf_t = NgxHttpCoreModule::main_conf(unsafe { &*r.as_ptr() })?;
    invalidate(r, copied.variable);
    if copied.lowercase.as_bytes() == b"authorization" {
        clear_user(r)?;
    }

    let hash = (&raw const main.headers_in_hash).cast_mut();
    let ngx_str_t { data, len } = copied.lowercase;
    // SAFETY: nginx's hash table of known headers, which it only reads; the name has `len` bytes.
    let known = unsafe { ngx_hash_find(hash, copied.hash, data, len) }.cast::<ngx_http_header_t>();
    // SAFETY: null, or an entry of the table, which lives as long as the configuration.
    let Some(known) = (unsafe { known.as_ref() }) else { return Some(()) };
    let headers = r.headers().filter(|header| header.name().eq_ignore_ascii_case(copied.name.as_bytes()));
    let headers_in = field_ptr!(r.headers_in);
    // SAFETY: the entry has the offset of nginx's pointer in `r->headers_in`.
    let place = unsafe { headers_in.byte_add(known.offset) };
    link(r, place.cast(), known.offset, headers.map(Header::as_ptr))
}

/// Clears the user's name and password, which nginx stores when they are first needed (`ngx_http_auth_basic_user()`).
fn clear_user(r: Request) -> Option<()> {
    set_field!(r.headers_in.user = ngx_str_t { len: 0, data: std::ptr::null_mut() });
    set_field!(r.headers_in.passwd = ngx_str_t { len: 0, data: std::ptr::null_mut() });
    for index in &Indexed::of(r)?.of_user {
        invalidate(r, *index);
    }
    Some(())
}

/// Links headers of one name: nginx's pointer at `place` points to the first one, and each header to the next one.
#[cfg(nginx_header_chains)]
fn link(
    _: Request,
    place: *mut *mut ngx_table_elt_t,
    offset: usize,
    headers: impl Iterator<Item = *mut ngx_table_elt_t>,
) -> Option<()> {
    const { assert!(offset_of!(ngx_http_headers_in_t, headers) == 0) };
    if offset == 0 {
        // nginx has no pointer to this header.
        return Some(());
    }
    let mut place = place;
    for header in headers {
        // SAFETY: `place` is nginx's pointer in the live request, or the link of the previous header, which we have added.
        unsafe { *place = header };
        // SAFETY: a header of the live request; tells an address, and makes no reference.
        place = unsafe { &raw mut (*header).next };
    }
    // SAFETY: `place` is nginx's pointer in the live request, or the link of the last header, which we have added.
    unsafe { *place = std::ptr::null_mut() };
    Some(())
}

/// Before nginx linked headers, it had arrays of pointers for the two that may be repeated.
#[cfg(not(nginx_header_chains))]
fn link(
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
            // SAFETY: a handle points at a live request, whose pool is live too.
            let array = or_fail(std::ptr::null_mut(), || unsafe {
                ngx_array_create(r.pool(), 1, size_of::<*mut ngx_table_elt_t>())
            });
            for header in headers {
                let array = NonNull::new(array)?.as_ptr();
                // SAFETY: the new array, of such pointers.
                let element = unsafe { push_to_array::<*mut ngx_table_elt_t>(array) }?;
                // SAFETY: the new element of the array, which nobody else uses.
                unsafe { element.write(header) };
            }
            // SAFETY: null, or the new array.
            let array: &ngx_array_t = unsafe { array.as_ref() }?;
            // SAFETY: at this offset `r->headers_in` has an array; a subrequest has a copy of its own.
            unsafe { place.cast::<ngx_array_t>().copy_from_nonoverlapping(array, 1) };
        }
        // SAFETY: at the offset of the table's entry nginx has its pointer to the header.
        _ => unsafe { *place = headers.next().unwrap_or(std::ptr::null_mut()) },
    }
    Some(())
}
