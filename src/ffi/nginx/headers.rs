//! The headers in a list of nginx, which consists of parts, each an array.

use std::ptr::NonNull;

use nginx_sys::{ngx_list_part_t, ngx_list_t, ngx_str_t, ngx_table_elt_t};

/// The headers of a list, one by one.
#[derive(Clone)]
pub(crate) struct Headers {
    part: *const ngx_list_part_t,
    at: usize,
}

/// A header in a list.
#[derive(Clone, Copy)]
pub(crate) struct Header(NonNull<ngx_table_elt_t>);

impl Headers {
    /// # Safety
    /// The list is live, and does not change, while this and what it yields is used.
    pub(crate) unsafe fn of(list: *const ngx_list_t) -> Self {
        // SAFETY: live, says the caller; makes no reference.
        Self { part: unsafe { &raw const (*list).part }, at: 0 }
    }
}

/// Whether a list may have a header whose name has one of these hashes: `false` is certain.
///
/// # Safety
/// The list is live, and does not change meanwhile.
#[inline]
pub(crate) unsafe fn may_have<const N: usize>(list: *const ngx_list_t, hashes: [usize; N]) -> bool {
    // SAFETY: live, says the caller; makes no reference.
    let mut part = unsafe { &raw const (*list).part };
    // SAFETY: a part of a live list, or null behind the last one.
    while let Some(ngx_list_part_t { elts, nelts, next }) = unsafe { part.as_ref() } {
        let first: NonNull<ngx_table_elt_t> = NonNull::new(elts.cast()).unwrap_or(NonNull::dangling());
        // SAFETY: a part has so many elements.
        let headers = unsafe { std::slice::from_raw_parts(first.as_ptr(), *nelts) };
        if headers.iter().any(|header| hashes.contains(&header.hash)) {
            return true;
        }
        part = *next;
    }
    false
}

impl Iterator for Headers {
    type Item = Header;

    fn next(&mut self) -> Option<Header> {
        // SAFETY: a part of a live list, or null behind the last one.
        while let Some(part) = unsafe { self.part.as_ref() } {
            if self.at < part.nelts {
                let all = part.elts.cast::<ngx_table_elt_t>();
                // SAFETY: below the number of elements.
                let header = unsafe { all.add(self.at) };
                self.at += 1;
                return NonNull::new(header).map(Header);
            }
            *self = Self { part: part.next, at: 0 };
        }
        None
    }
}

impl Header {
    pub(crate) fn name<'a>(self) -> &'a [u8] {
        // SAFETY: a header of a live list; reads one field.
        bytes(unsafe { (*self.0.as_ptr()).key })
    }

    pub(crate) fn value(self) -> ngx_str_t {
        // SAFETY: as above.
        unsafe { (*self.0.as_ptr()).value }
    }

    /// Whether it counts: nginx leaves headers in the list that do not.
    pub(crate) fn is_there(self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0.as_ptr()).hash != 0 }
    }

    pub(crate) fn as_ptr(self) -> *mut ngx_table_elt_t {
        self.0.as_ptr()
    }
}

/// The bytes of a string, which may have none and no start.
pub(crate) fn bytes<'a>(text: ngx_str_t) -> &'a [u8] {
    if text.len == 0 {
        return &[];
    }
    // SAFETY: nginx's strings have as many bytes as they say; those of requests live as long as its pool.
    unsafe { std::slice::from_raw_parts(text.data, text.len) }
}

/// nginx's hash of a name in lower case, `ngx_hash_key()`.
pub(crate) const fn hash_of(name: &[u8]) -> usize {
    let (mut hash, mut at) = (0usize, 0);
    while at < name.len() {
        hash = hash.wrapping_mul(31).wrapping_add(name[at] as usize);
        at += 1;
    }
    hash
}
