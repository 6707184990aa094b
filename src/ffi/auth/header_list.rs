//! How the headers of a request are changed.
//!
//! A list of nginx consists of parts, each an array. A header is left out by making parts of what is before and behind
//! it: headers stay where they are, as nginx points at them from elsewhere, and a subrequest has the same parts
//! in a list of its own.

use std::ptr::NonNull;

use nginx_sys::{ngx_list_part_t, ngx_pool_t, ngx_str_t, ngx_table_elt_t};

use super::conf::Copied;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::memory::allocate;
use crate::ffi::nginx::request::Request;

/// A header as nginx has it in a list.
pub(super) fn element(copied: &Copied, value: ngx_str_t) -> ngx_table_elt_t {
    ngx_table_elt_t {
        hash: copied.hash,
        key: copied.name,
        value,
        lowcase_key: copied.lowercase.data,
        #[cfg(nginx_header_chains)]
        next: std::ptr::null_mut(),
    }
}

/// A list in the making.
struct Parts {
    pool: *mut ngx_pool_t,
    first: ngx_list_part_t,
    /// The last part behind the first one.
    last: Option<NonNull<ngx_list_part_t>>,
}

impl Parts {
    fn push(&mut self, elts: *mut ngx_table_elt_t, nelts: usize) -> Option<()> {
        let part = ngx_list_part_t { elts: elts.cast(), nelts, next: std::ptr::null_mut() };
        if nelts == 0 {
            // nginx reads the first element of each part but the first one without looking.
            return Some(());
        }
        if self.first.nelts == 0 {
            self.first = part;
            return Some(());
        }
        // SAFETY: the pool of a live request.
        let memory = unsafe { allocate::<ngx_list_part_t>(self.pool, 1) }?.cast::<ngx_list_part_t>();
        // SAFETY: allocated above.
        unsafe { memory.write(part) };
        match self.last {
            // SAFETY: allocated here before.
            Some(last) => unsafe { (*last.as_ptr()).next = memory.as_ptr() },
            None => self.first.next = memory.as_ptr(),
        }
        self.last = Some(memory);
        Some(())
    }
}

/// Leaves out the headers with certain names, and puts new ones behind the others. Others that have the same
/// headers, as the request of which this one is a part, keep theirs. `None` if there is no memory.
pub(super) fn change_headers(
    r: Request,
    leave_out: impl Fn(&[u8]) -> bool,
    new: impl Iterator<Item = ngx_table_elt_t> + Clone,
) -> Option<()> {
    let count = new.clone().count();
    if count == 0 && !r.headers().any(|header| leave_out(header.name())) {
        return Some(());
    }
    let empty = ngx_list_part_t { elts: std::ptr::null_mut(), nelts: 0, next: std::ptr::null_mut() };
    let mut parts = Parts { pool: r.pool(), first: empty, last: None };
    let mut run: Option<(*mut ngx_table_elt_t, usize)> = None;
    for header in r.headers().filter(|header| !leave_out(header.name())) {
        run = match run {
            Some((start, length)) if start.wrapping_add(length) == header.as_ptr() => {
                Some((start, length + 1))
            }
            before => {
                let (start, length) = before.unwrap_or((std::ptr::null_mut(), 0));
                parts.push(start, length)?;
                Some((header.as_ptr(), 1))
            }
        };
    }
    let (start, length) = run.unwrap_or((std::ptr::null_mut(), 0));
    parts.push(start, length)?;
    // An empty list has room for some, lest nginx allocates nothing for the next one.
    let room = if parts.first.nelts == 0 { count.max(4) } else { count };
    // SAFETY: the pool of a live request.
    let memory = unsafe { allocate::<ngx_table_elt_t>(r.pool(), room.max(1)) }?.cast::<ngx_table_elt_t>();
    for (at, header) in new.enumerate() {
        // SAFETY: there is room for so many.
        let place = unsafe { memory.add(at) };
        // SAFETY: as above.
        unsafe { place.write(header) };
    }
    parts.push(memory.as_ptr(), count)?;
    if parts.first.nelts == 0 {
        parts.first.elts = memory.as_ptr().cast();
    }
    set_headers(r, parts, room);
    Some(())
}

fn set_headers(r: Request, parts: Parts, room: usize) {
    // SAFETY: a live request; nobody else has the list now.
    let list = unsafe { &mut (*r.as_ptr()).headers_in.headers };
    list.part = parts.first;
    list.last = parts.last.map_or(&raw mut list.part, NonNull::as_ptr);
    // SAFETY: the last part of the list.
    let last = unsafe { (*list.last).nelts };
    list.nalloc = if last == 0 { room } else { last };
}
