//! Which format a client gets: the one that it names, or else the one that it likes best.

use super::Format;

/// The formats, the preferred one first, with their media types.
const FORMATS: [(Format, &str, &str); 3] = [
    (Format::Html, "text", "html"),
    (Format::Json, "application", "json"),
    (Format::Prometheus, "text", "plain"),
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
    let ranges =
        || accept.clone().flat_map(|value| value.split(|byte| *byte == b',')).filter_map(Range::read);
    if ranges().next().is_none() {
        return Some(Format::Html);
    }
    let mut best = None;
    for (format, kind, subtype) in FORMATS {
        // The most exact range that fits tells how much the type is liked.
        let quality = ranges().filter_map(|range| range.fits(kind, subtype)).max().map_or(0, |(_, it)| it);
        if quality > best.map_or(0, |(_, best)| best) {
            best = Some((format, quality));
        }
    }
    best.map(|(format, _)| format)
}

/// A media range, and how much it is liked, in thousandths.
struct Range<'a> {
    kind: &'a [u8],
    subtype: &'a [u8],
    quality: u16,
}

impl<'a> Range<'a> {
    fn read(range: &'a [u8]) -> Option<Self> {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let media = parts.next()?;
        let slash = media.iter().position(|byte| *byte == b'/')?;
        let quality = parts.filter_map(|part| match part {
            [b'q' | b'Q', b'=', quality @ ..] => Some(read_quality(quality)),
            _ => None,
        });
        Some(Self {
            kind: media.get(..slash)?,
            subtype: media.get(slash + 1..)?,
            quality: quality.fold(1000, |_, last| last),
        })
    }

    /// How exactly it names a media type, if it does, and how much it is liked.
    fn fits(&self, kind: &str, subtype: &str) -> Option<(u8, u16)> {
        let is = |one: &[u8], other: &str| one.eq_ignore_ascii_case(other.as_bytes());
        match (self.kind, self.subtype) {
            (b"*", b"*") => Some((0, self.quality)),
            (of, b"*") if is(of, kind) => Some((1, self.quality)),
            (of, sub) if is(of, kind) && is(sub, subtype) => Some((2, self.quality)),
            _ => None,
        }
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
