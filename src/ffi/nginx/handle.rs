//! What all handles have in common: one field, or one bit, is read or written at a time, and no reference to a structure of
//! nginx outlives the line that needs it: nginx reaches the same memory from elsewhere, also while one of our hooks calls it.

/// A copyable pointer to a structure of nginx.
///
/// # Safety
/// It points at a structure that is alive as long as the handle is used; the type says why.
pub(crate) unsafe trait Handle: Copy {
    /// The structure.
    type Of;

    /// Where it is.
    fn as_ptr(self) -> *mut Self::Of;
}

/// Makes a type that holds a `NonNull` a handle.
macro_rules! handle {
    ($type:ty, $of:ty) => {
        // SAFETY: the type's own invariant, which its constructors ask for.
        unsafe impl $crate::ffi::nginx::handle::Handle for $type {
            type Of = $of;

            #[inline]
            fn as_ptr(self) -> *mut $of {
                self.0.as_ptr()
            }
        }
    };
}

/// `get_field!(handle.a.b)`: reads a field.
macro_rules! get_field {
    ($handle:ident . $($field:ident).+) => {{
        let pointer = $crate::ffi::nginx::handle::Handle::as_ptr($handle);
        // SAFETY: a handle points at what is alive; copies one field, and makes no reference.
        unsafe { (*pointer).$($field).+ }
    }};
}

/// `set_field!(handle.a.b = value)`: writes a field.
macro_rules! set_field {
    ($handle:ident . $($field:ident).+ = $value:expr) => {{
        let (pointer, value) = ($crate::ffi::nginx::handle::Handle::as_ptr($handle), $value);
        // SAFETY: a handle points at what is alive, and only this thread writes it; makes no reference.
        unsafe { (*pointer).$($field).+ = value }
    }};
}

/// `field_ptr!(handle.a.b)`: where a field is.
macro_rules! field_ptr {
    ($handle:ident . $($field:ident).+) => {{
        let pointer = $crate::ffi::nginx::handle::Handle::as_ptr($handle);
        // SAFETY: a handle points at what is alive; tells an address, and makes no reference.
        unsafe { &raw mut (*pointer).$($field).+ }
    }};
}

/// `get_bit!(handle: ngx_event_t::eof_raw)`: whether a bit is set.
macro_rules! get_bit {
    ($handle:ident : $get:path) => {{
        let pointer = $crate::ffi::nginx::handle::Handle::as_ptr($handle);
        // SAFETY: a handle points at what is alive; reads one bit-field, and makes no reference.
        unsafe { $get(pointer) != 0 }
    }};
}

/// `set_bit!(handle: ngx_event_t::set_eof_raw, value)`: writes a bit.
macro_rules! set_bit {
    ($handle:ident : $set:path, $value:expr) => {{
        let (pointer, value) = ($crate::ffi::nginx::handle::Handle::as_ptr($handle), $value);
        // SAFETY: a handle points at what is alive, and only this thread writes it; makes no reference.
        unsafe { $set(pointer, value) }
    }};
}

pub(crate) use {field_ptr, get_bit, get_field, handle, set_bit, set_field};
