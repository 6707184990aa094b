//! How the headers of a request are removed and added.
//!
//! An `ngx_list_t` consists of parts, each an array. To remove a header, the list is rebuilt: the headers before it and those
//! behind it become separate parts. Headers are not moved, because nginx has pointers to them, and because the list of a
//! subrequest has the same parts.

use std::ptr::NonNull;

use nginx_sys::{ngx_list_part_t, ngx_str_t, ngx_table_elt_t};

use super::conf::CopiedHeader;
use super::memory::allocate_for;
use crate::ffi::nginx::handle::Handle as _;
use crate::ffi::nginx::request::Request;

/// A copied header as an element of nginx's list.
pub(super) fn element(copied: &CopiedHeader, value: ngx_str_t) -> ngx_table_elt_t {
    ngx_table_elt_t {
        hash: copied.hash,
        key: copied.name,
        value,
        lowcase_key: copied.lowercase.data,
        #[cfg(nginx_header_chains)]
        next: std::ptr::null_mut(),
    }
}

/// Builds a list from parts.
struct ListBuilder {
    r: Request,
    first: ngx_list_part_t,
    /// The last part; `None` if that is `first`.
    last: Option<NonNull<ngx_list_part_t>>,
}

impl ListBuilder {
    /// Adds a part. `None` if there is no memory.
    fn push(&mut self, elts: *mut ngx_table_elt_t, nelts: usize) -> Option<()> {
        let part = ngx_list_part_t { elts: elts.cast(), nelts, next: std::ptr::null_mut() };
        if nelts == 0 {
            // nginx does not check whether a part other than the first one is empty.
            return Some(());
        }
        if self.first.nelts == 0 {
            self.first = part;
            return Some(());
        }
        let memory = allocate_for::<ngx_list_part_t>(self.r, 1)?;
        // SAFETY: just allocated for one part.
        unsafe { memory.write(part) };
        match self.last {
            // SAFETY: the previous call of `push` has written this part, and nobody else uses it yet.
            Some(last) => unsafe { (*last.as_ptr()).next = memory.as_ptr() },
            None => self.first.next = memory.as_ptr(),
        }
        self.last = Some(memory);
        Some(())
    }
}

/// Removes the headers for whose name `is_removed` returns true, and adds new ones at the end. The lists of other requests that
/// share the headers, such as the parent of a subrequest, do not change. `None` if there is no memory.
pub(super) fn change_headers(
    r: Request,
    is_removed: impl Fn(&[u8]) -> bool,
    new: impl Iterator<Item = ngx_table_elt_t> + Clone,
) -> Option<()> {
    let count = new.clone().count();
    if count == 0 && !r.headers().any(|header| is_removed(header.name())) {
        return Some(());
    }
    let empty = ngx_list_part_t { elts: std::ptr::null_mut(), nelts: 0, next: std::ptr::null_mut() };
    let mut parts = ListBuilder { r, first: empty, last: None };
    let mut run: Option<(*mut ngx_table_elt_t, usize)> = None;
    for header in r.headers().filter(|header| !is_removed(header.name())) {
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
    // An empty list gets room for some headers: `ngx_list_push()` allocates new parts of `nalloc` elements, which must not be 0.
    let room = if parts.first.nelts == 0 { count.max(4) } else { count };
    let memory = allocate_for::<ngx_table_elt_t>(r, room.max(1))?;
    for (at, header) in new.enumerate() {
        // SAFETY: `at` is below `count`, and there is room for at least as many.
        let place = unsafe { memory.add(at) };
        // SAFETY: inside the memory just allocated, which nobody else uses.
        unsafe { place.write(header) };
    }
    parts.push(memory.as_ptr(), count)?;
    if parts.first.nelts == 0 {
        parts.first.elts = memory.as_ptr().cast();
    }
    set_headers(r, parts, room);
    Some(())
}

fn set_headers(r: Request, parts: ListBuilder, room: usize) {
    // SAFETY: a handle points at a live request; nginx is not called while the reference is in use.
    let list = unsafe { &mut (*r.as_ptr()).headers_in.headers };
    list.part = parts.first;
    list.last = parts.last.map_or(&raw mut list.part, NonNull::as_ptr);
    // SAFETY: the list has just got a last part, in itself or in the pool of the request.
    let last = unsafe { (*list.last).nelts };
    list.nalloc = if last == 0 { room } else { last };
}
