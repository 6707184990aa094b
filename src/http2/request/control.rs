//! The control data of a request, which is in its first line (RFC 9112, section 3).
#![forbid(unsafe_code)]

use super::{cut_off, Unfit};
use crate::http2::fields;

/// The control data.
pub(super) struct Control<'a> {
    pub method: &'a [u8],
    /// The authority in the target.
    pub authority: Option<&'a [u8]>,
    /// The path and the query, or `*`.
    pub path: &'a [u8],
    /// Whether the version is HTTP/1.0.
    pub is_1_0: bool,
}

impl<'a> Control<'a> {
    /// Reads the first line. Returns what is behind it too.
    pub(super) fn read(head: &'a [u8]) -> Result<(Self, &'a [u8]), Unfit> {
        let (method, rest) = head.split_at(fields::token_length(head));
        let target = rest.strip_prefix(b" ").filter(|_| !method.is_empty()).ok_or(Unfit::RequestLine)?;
        let (target, rest) = target.split_at(fields::visible_length::<b'!'>(target));
        let version = rest.strip_prefix(b" HTTP/1.").ok_or(Unfit::RequestLine)?;
        let (is_1_0, rest) = match version {
            [b'1', rest @ ..] => (false, rest),
            [b'0', rest @ ..] => (true, rest),
            _ => return Err(Unfit::RequestLine),
        };
        let rest = rest.strip_prefix(b"\r\n").ok_or_else(|| cut_off(rest, Unfit::RequestLine))?;
        let (authority, path) = match target {
            [b'/', ..] => (None, target),
            b"*" if method == b"OPTIONS" => (None, target),
            _ => absolute(method, target).ok_or(Unfit::Target)?,
        };
        // CONNECT has no path (RFC 9113, section 8.5).
        if method == b"CONNECT" {
            return Err(Unfit::Target);
        }
        Ok((Self { method, authority, path, is_1_0 }, rest))
    }
}

/// The authority and the path of a target in absolute form (RFC 9112, section 3.2.2). Without a path it is `/`, with OPTIONS
/// `*` (RFC 9113, section 8.3.1). `None` if it has another form, or a query without a path.
fn absolute<'a>(method: &[u8], target: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    let behind = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest = behind(b"http://").or_else(|| behind(b"https://"))?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = match path {
        [b'/', ..] => path,
        [] if method == b"OPTIONS" => b"*",
        [] => b"/",
        _ => return None,
    };
    (!authority.is_empty()).then_some((Some(authority), path))
}
