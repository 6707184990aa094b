//! The headers in a list of nginx. A list consists of parts; each part is an array.

use std::ptr::NonNull;

use nginx_sys::{ngx_list_part_t, ngx_list_t, ngx_str_t, ngx_table_elt_t};

use super::handle::{get_field, handle};

/// The headers of a list, one by one.
#[derive(Clone)]
pub(crate) struct Headers {
    part: *const ngx_list_part_t,
    at: usize,
}

/// A header.
///
/// # Invariants
/// Points at an element of a list whose pool is live.
#[derive(Clone, Copy)]
pub(crate) struct Header(NonNull<ngx_table_elt_t>);

impl Headers {
    /// # Safety
    /// The list is live, and does not change, while the iterator and its headers are used.
    pub(crate) unsafe fn of(list: *const ngx_list_t) -> Self {
        // SAFETY: the caller says that the list is live; makes no reference.
        Self { part: unsafe { &raw const (*list).part }, at: 0 }
    }
}

/// Whether a list may have a header whose name has one of these hashes; if `false`, it has none.
///
/// # Safety
/// The list is live, and does not change meanwhile.
#[inline(always)]
pub(crate) unsafe fn may_have<const N: usize>(list: *const ngx_list_t, hashes: [usize; N]) -> bool {
    // SAFETY: the caller says the same.
    unsafe { find(list, |header| hashes.contains(&header.hash)) }.is_some()
}

/// The header whose name has one of these hashes, if there is exactly one.
///
/// # Safety
/// The list is live, and does not change while the header is used.
pub(crate) unsafe fn only<const N: usize>(list: *const ngx_list_t, hashes: [usize; N]) -> Option<Header> {
    let mut number = 0;
    let mut found = None;
    let mut count = |header: &ngx_table_elt_t| {
        if hashes.contains(&header.hash) {
            number += 1;
            found = Some(Header(NonNull::from(header)));
        }
        false
    };
    // SAFETY: the caller says the same.
    unsafe { find(list, &mut count) };
    found.filter(|_| number == 1)
}

/// The first header for which `is` returns true.
///
/// # Safety
/// The list is live, and does not change meanwhile.
#[inline(always)]
unsafe fn find(list: *const ngx_list_t, mut is: impl FnMut(&ngx_table_elt_t) -> bool) -> Option<Header> {
    // SAFETY: the caller says that the list is live; makes no reference.
    let mut part = unsafe { &raw const (*list).part };
    // SAFETY: null, or a part of the list, which the caller says is live.
    while let Some(ngx_list_part_t { elts, nelts, next }) = unsafe { part.as_ref() } {
        let first: NonNull<ngx_table_elt_t> = NonNull::new(elts.cast()).unwrap_or(NonNull::dangling());
        // SAFETY: a part has `nelts` elements; the caller says that the list does not change meanwhile.
        let headers = unsafe { std::slice::from_raw_parts(first.as_ptr(), *nelts) };
        if let Some(header) = headers.iter().find(|header| is(header)) {
            return Some(Header(NonNull::from(header)));
        }
        part = *next;
    }
    None
}

impl Iterator for Headers {
    type Item = Header;

    fn next(&mut self) -> Option<Header> {
        // SAFETY: null, or a part of a list that is live as long as the iterator is used, as `of` demands.
        while let Some(part) = unsafe { self.part.as_ref() } {
            if self.at < part.nelts {
                let all = part.elts.cast::<ngx_table_elt_t>();
                // SAFETY: the index is below the number of elements of the part.
                let header = unsafe { all.add(self.at) };
                self.at += 1;
                return NonNull::new(header).map(Header);
            }
            *self = Self { part: part.next, at: 0 };
        }
        None
    }
}

handle!(Header, ngx_table_elt_t);

impl Header {
    /// # Safety
    /// `ptr` is null, or points at a header in a pool that is live as long as the handle is used.
    #[inline]
    pub(crate) unsafe fn from_ptr(ptr: *mut ngx_table_elt_t) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    pub(crate) fn name<'a>(self) -> &'a [u8] {
        bytes(get_field!(self.key))
    }

    pub(crate) fn value(self) -> ngx_str_t {
        get_field!(self.value)
    }

    /// Whether this is its name, which is given in lower case; of a header whose name nginx has written in lower case too.
    pub(crate) fn is_named(self, name: &[u8]) -> bool {
        let own = ngx_str_t { data: get_field!(self.lowcase_key), ..get_field!(self.key) };
        !own.data.is_null() && bytes(own) == name
    }

    /// Whether the header is sent: nginx removes a header by setting its hash to 0.
    pub(crate) fn is_there(self) -> bool {
        get_field!(self.hash) != 0
    }

    pub(crate) fn as_ptr(self) -> *mut ngx_table_elt_t {
        self.0.as_ptr()
    }
}

/// The bytes of a string of nginx; an empty one may have no address.
pub(crate) fn bytes<'a>(text: ngx_str_t) -> &'a [u8] {
    if text.len == 0 {
        return &[];
    }
    // SAFETY: a string of nginx has `len` bytes at `data`, in the pool of a request or a cycle, or in a constant.
    unsafe { std::slice::from_raw_parts(text.data, text.len) }
}

/// nginx's hash of a name in lower case. Mirrors `ngx_hash_key()`.
pub(crate) const fn hash_of(name: &[u8]) -> usize {
    let (mut hash, mut at) = (0usize, 0);
    while at < name.len() {
        hash = hash.wrapping_mul(31).wrapping_add(name[at] as usize);
        at += 1;
    }
    hash
}
