//! Which format a client gets: the one that it names, or else the one that it likes best.
#![forbid(unsafe_code)]

use super::Format;

/// The formats, the preferred one first, with their media types and the parameters of these.
const FORMATS: [(Format, &str, &str, &[&str]); 3] = [
    (Format::Html, "text", "html", &["charset=utf-8"]),
    (Format::Json, "application", "json", &[]),
    (Format::Prometheus, "text", "plain", &["version=0.0.4", "charset=utf-8"]),
];

/// The format for the argument `format`, if there is one, and the values of the header `Accept` (RFC 9110, section
/// 12.5.1). `None` if there is no such format.
pub fn choose<'a>(argument: Option<&[u8]>, accept: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Format> {
    match argument {
        Some(b"html") => Some(Format::Html),
        Some(b"json") => Some(Format::Json),
        Some(b"prometheus") => Some(Format::Prometheus),
        Some(_) => None,
        None => by_accept(accept),
    }
}

fn by_accept<'a>(accept: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Format> {
    let ranges = || accept.clone().flat_map(|value| Parts(value, b',')).filter_map(Range::read);
    if ranges().next().is_none() {
        return Some(Format::Html);
    }
    let mut best = None;
    for (format, kind, subtype, parameters) in FORMATS {
        // The most exact range that fits tells how much the type is liked.
        let fits = |range: Range| range.fits(kind, subtype, parameters);
        let quality = ranges().filter_map(fits).max().map_or(0, |(_, quality)| quality);
        if quality > best.map_or(0, |(_, best)| best) {
            best = Some((format, quality));
        }
    }
    best.map(|(format, _)| format)
}

/// What stands between separators, but not those in quoted strings (RFC 9110, section 5.6.4).
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

/// A media range, and how much it is liked, in thousandths.
struct Range<'a> {
    kind: &'a [u8],
    subtype: &'a [u8],
    parameters: Parts<'a>,
    quality: u16,
}

impl<'a> Range<'a> {
    fn read(range: &'a [u8]) -> Option<Self> {
        let mut parts = Parts(range, b';');
        let media = parts.next()?;
        let slash = media.iter().position(|byte| *byte == b'/')?;
        let quality = parts.clone().find_map(quality_of).unwrap_or(1000);
        let (kind, subtype) = (media.get(..slash)?, media.get(slash + 1..)?);
        Some(Self { kind, subtype, parameters: parts, quality })
    }

    /// How exactly it names a media type with parameters, if it does, and how much it is liked.
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

fn quality_of(parameter: &[u8]) -> Option<u16> {
    match parameter {
        [b'q' | b'Q', b'=', quality @ ..] => Some(read_quality(quality)),
        _ => None,
    }
}

/// A quality as RFC 9110, section 12.4.2, has it, in thousandths; what is none counts as 1.
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
