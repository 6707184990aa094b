//! Which format a client gets: the one that it names, or else the one that it prefers.
#![forbid(unsafe_code)]

use super::Format;

/// The formats, the preferred one first, with the type, subtype and parameters of their media type.
const FORMATS: [(Format, &str, &str, &[&str]); 3] = [
    (Format::Html, "text", "html", &["charset=utf-8"]),
    (Format::Json, "application", "json", &[]),
    (Format::Prometheus, "text", "plain", &["version=0.0.4", "charset=utf-8"]),
];

/// The format for the query argument `format`, or without it for the values of the header `Accept` (RFC 9110, section
/// 12.5.1). `None` if no format matches.
pub fn choose<'a>(argument: Option<&[u8]>, accept: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Format> {
    match argument {
        Some(b"html") => Some(Format::Html),
        Some(b"json") => Some(Format::Json),
        Some(b"prometheus") => Some(Format::Prometheus),
        Some(_) => None,
        None => by_accept(accept),
    }
}

/// The format for the values of `Accept`.
fn by_accept<'a>(accept: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Format> {
    let ranges = || accept.clone().flat_map(|value| Parts(value, b',')).filter_map(Range::read);
    if ranges().next().is_none() {
        return Some(Format::Html);
    }
    let mut best = None;
    for (format, kind, subtype, parameters) in FORMATS {
        // The most specific range that matches determines the quality of a type.
        let fits = |range: Range| range.fits(kind, subtype, parameters);
        let quality = ranges().filter_map(fits).max().map_or(0, |(_, quality)| quality);
        if quality > best.map_or(0, |(_, best)| best) {
            best = Some((format, quality));
        }
    }
    best.map(|(format, _)| format)
}

/// The parts of a header value between separators. Separators in quoted strings do not count (RFC 9110, section 5.6.4).
#[derive(Clone)]
struct Parts<'a>(&'a [u8], u8);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let ends = |byte: &u8| {
            let is_end = !quoted && *byte == self.1;
            quoted ^= *byte == b'"' && !escaped;
            escaped = quoted && !escaped && *byte == b'\\';
            is_end
        };
        let end = self.0.iter().position(ends).unwrap_or(self.0.len());
        let (part, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or(&[]);
        Some(part.trim_ascii())
    }
}

/// A media range and its quality, in thousandths.
struct Range<'a> {
    kind: &'a [u8],
    subtype: &'a [u8],
    parameters: Parts<'a>,
    quality: u16,
}

impl<'a> Range<'a> {
    /// Parses a media range. `None` if it has no type and subtype.
    fn read(range: &'a [u8]) -> Option<Self> {
        let mut parts = Parts(range, b';');
        let media = parts.next()?;
        let slash = media.iter().position(|byte| *byte == b'/')?;
        let quality = parts.clone().find_map(quality_of).unwrap_or(1000);
        let (kind, subtype) = (media.get(..slash)?, media.get(slash + 1..)?);
        Some(Self { kind, subtype, parameters: parts, quality })
    }

    /// How specific the range is for a media type, and its quality. `None` if it does not match.
    fn fits(&self, kind: &str, subtype: &str, parameters: &[&str]) -> Option<(usize, u16)> {
        let is = |one: &[u8], other: &str| one.eq_ignore_ascii_case(other.as_bytes());
        let exactness = match (self.kind, self.subtype) {
            (b"*", b"*") => 0,
            (of, b"*") if is(of, kind) => 1,
            (of, sub) if is(of, kind) && is(sub, subtype) => 2,
            _ => return None,
        };
        let mut asked = self.parameters.clone().filter(|it| !it.is_empty() && quality_of(it).is_none());
        let number = asked.clone().count();
        asked
            .all(|it| parameters.iter().any(|ours| is(it, ours)))
            .then_some((exactness + number, self.quality))
    }
}

/// The quality that a parameter `q` sets, in thousandths. `None` for other parameters.
fn quality_of(parameter: &[u8]) -> Option<u16> {
    match parameter {
        [b'q' | b'Q', b'=', quality @ ..] => Some(read_quality(quality)),
        _ => None,
    }
}

/// Parses a quality (RFC 9110, section 12.4.2), in thousandths. A malformed quality counts as 1.
fn read_quality(text: &[u8]) -> u16 {
    let (digits, decimals) = match text {
        [first @ (b'0' | b'1')] => (first, &[][..]),
        [first @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (first, decimals),
        _ => return 1000,
    };
    if !decimals.iter().all(u8::is_ascii_digit) {
        return 1000;
    }
    let decimals = decimals.iter().chain(b"000").take(3);
    let fraction = decimals.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (u16::from(digits - b'0') * 1000 + fraction).min(1000)
}
