//! What all handles have in common. A handle is a copyable pointer to one of nginx's structures; it reads and writes one
//! field, or one bit-field, at a time. No reference to a structure of nginx outlives the line that needs it: nginx reaches
//! the same memory from elsewhere, also while one of our hooks calls nginx.

use std::ptr::NonNull;

/// A copyable pointer to a structure of nginx.
///
/// # Safety
/// The structure is alive as long as the handle is used; each type says why.
pub(crate) unsafe trait Handle: Copy {
    /// The structure.
    type Of;

    /// The address of the structure.
    fn as_ptr(self) -> *mut Self::Of;
}

/// Makes a type that holds a `NonNull` a handle.
macro_rules! handle {
    ($type:ty, $of:ty) => {
        // SAFETY: the constructors of the type ask for its invariant, which says that the structure is alive.
        unsafe impl $crate::ffi::nginx::handle::Handle for $type {
            type Of = $of;

            #[inline]
            fn as_ptr(self) -> *mut $of {
                self.0.as_ptr()
            }
        }
    };
}

/// A handle for a structure that has no methods here, such as a part of a request.
///
/// # Invariants
/// Points at a structure that is alive as long as the handle is used.
pub(crate) struct Live<T>(NonNull<T>);

impl<T> Clone for Live<T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Live<T> {}

// SAFETY: the constructor asks for a structure that is alive.
unsafe impl<T> Handle for Live<T> {
    type Of = T;

    #[inline]
    fn as_ptr(self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Live<T> {
    /// # Safety
    /// `ptr` is null, or points at a structure that is alive as long as the handle is used.
    #[inline]
    pub(crate) unsafe fn from_ptr(ptr: *mut T) -> Option<Self> {
        NonNull::new(ptr).map(Self)
    }

    /// # Safety
    /// `ptr` points at a structure that is alive as long as the handle is used.
    #[inline]
    pub(crate) unsafe fn new_unchecked(ptr: *mut T) -> Self {
        // SAFETY: the caller says that the pointer is not null.
        Self(unsafe { NonNull::new_unchecked(ptr) })
    }

    /// A copy of the structure.
    pub(crate) fn copy(self) -> T
    where
        T: Copy,
    {
        // SAFETY: alive by the type invariant; makes no reference.
        unsafe { self.0.read() }
    }
}

/// `get_field!(handle.a.b)`: reads a field.
macro_rules! get_field {
    ($handle:ident . $($field:ident).+) => {{
        let pointer = $crate::ffi::nginx::handle::Handle::as_ptr($handle);
        // SAFETY: a handle points at a live structure; copies one field, and makes no reference.
        unsafe { (*pointer).$($field).+ }
    }};
}

/// `set_field!(handle.a.b = value)`: writes a field.
macro_rules! set_field {
    ($handle:ident . $($field:ident).+ = $value:expr) => {{
        let (pointer, value) = ($crate::ffi::nginx::handle::Handle::as_ptr($handle), $value);
        // SAFETY: a handle points at a live structure, which only this thread writes, or the holder of its lock; makes no
        // reference.
        unsafe { (*pointer).$($field).+ = value }
    }};
}

/// `field_ptr!(handle.a.b)`: the address of a field.
macro_rules! field_ptr {
    ($handle:ident . $($field:ident).+) => {{
        let pointer = $crate::ffi::nginx::handle::Handle::as_ptr($handle);
        // SAFETY: a handle points at a live structure; computes an address, and makes no reference.
        unsafe { &raw mut (*pointer).$($field).+ }
    }};
}

/// `get_bits!(handle.a: ngx_event_t::eof_raw)`: the number in a bit-field of the structure, or of a structure in it.
macro_rules! get_bits {
    ($handle:ident : $get:path) => {{
        let holder = $crate::ffi::nginx::handle::Handle::as_ptr($handle);
        // SAFETY: a handle points at a live structure; reads one bit-field, and makes no reference.
        unsafe { $get(holder) }
    }};
    ($handle:ident . $($field:ident).+ : $get:path) => {{
        let holder = $crate::ffi::nginx::handle::field_ptr!($handle.$($field).+);
        // SAFETY: a structure in a live one; reads one bit-field, and makes no reference.
        unsafe { $get(holder) }
    }};
}

/// `get_bit!(handle: ngx_event_t::eof_raw)`: whether a bit-field is not zero.
macro_rules! get_bit {
    ($($bits:tt)+) => {
        $crate::ffi::nginx::handle::get_bits!($($bits)+) != 0
    };
}

/// `set_bit!(handle: ngx_event_t::set_eof_raw, value)`: writes a bit-field of the structure, or of a structure in it.
macro_rules! set_bit {
    ($handle:ident : $set:path, $value:expr) => {{
        let (holder, value) = ($crate::ffi::nginx::handle::Handle::as_ptr($handle), $value);
        // SAFETY: a handle points at a live structure, which only this thread writes; makes no reference.
        unsafe { $set(holder, value) }
    }};
    ($handle:ident . $($field:ident).+ : $set:path, $value:expr) => {{
        let (holder, value) = ($crate::ffi::nginx::handle::field_ptr!($handle.$($field).+), $value);
        // SAFETY: a structure in a live one, which only this thread writes; makes no reference.
        unsafe { $set(holder, value) }
    }};
}

pub(crate) use {field_ptr, get_bit, get_bits, get_field, handle, set_bit, set_field};
