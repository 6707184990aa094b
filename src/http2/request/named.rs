//! The fields that `Connection` names: they are meant for one connection only (RFC 9110, section 7.6.1).
#![forbid(unsafe_code)]

use super::{value_of, Line, Unfit};
use crate::http2::fields::trimmed;

/// How many names are remembered: each field is compared with each of them.
const MAX_NAMED: usize = 16;

/// Options that name no field, or a field that has its own rule, or one without which the request would have another meaning.
/// A client can write them, if the configuration passes its `Connection`.
const NO_NAMES: [&[u8]; 14] = [
    b"close",
    b"keep-alive",
    b"upgrade",
    b"te",
    b"proxy-connection",
    b"http2-settings",
    b"transfer-encoding",
    b"host",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"authorization",
    b"cookie",
    b"",
];

/// Names of fields, in upper or lower case.
pub(super) struct Named<'a> {
    names: [&'a [u8]; MAX_NAMED],
    length: usize,
}

impl<'a> Named<'a> {
    /// Reads the names in all `Connection` fields of a head, whose fields are at the beginning of `rest`.
    #[cold]
    pub(super) fn read(mut rest: &'a [u8]) -> Result<Self, Unfit> {
        let mut named = Self { names: [b""; MAX_NAMED], length: 0 };
        while let Some(Line(line, behind)) = Line::read_field(rest) {
            rest = behind;
            for name in names(value_of(line, b"connection").unwrap_or(b"")) {
                *named.names.get_mut(named.length).ok_or(Unfit::Options)? = name;
                named.length += 1;
            }
        }
        Ok(named)
    }

    /// Whether this name, in lower case, is one of them.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.names.iter().take(self.length).any(|named| named.eq_ignore_ascii_case(name))
    }
}

/// Whether the value of `Connection` names any field.
#[inline]
pub(super) fn names_any(value: &[u8]) -> bool {
    // nginx writes `close` if the configuration says nothing else.
    value != b"close" && names(value).next().is_some()
}

fn names(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let options = value.split(|byte| *byte == b',').map(trimmed);
    options.filter(|option| !NO_NAMES.iter().any(|it| option.eq_ignore_ascii_case(it)))
}
