//! Which format a client of the status page gets: by its argument `format`, or by its header `Accept`.
#![forbid(unsafe_code)]

use keepalive::status::{choose, Format};

use crate::input::Input;

/// The first line: the argument, if it begins with a question mark. The others: the header's values.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let argument = input.line().strip_prefix(b"?");
    let values = input.lines();
    let chosen = choose(argument, values.iter().copied());
    if let Some(argument) = argument {
        let formats = [("html", Format::Html), ("json", Format::Json), ("prometheus", Format::Prometheus)];
        let named = formats.iter().find(|(name, _)| name.as_bytes() == argument);
        return assert_eq!(chosen, named.map(|(_, format)| *format));
    }
    assert_eq!(chosen, expected(&values));
    let upper: Vec<Vec<u8>> = values.iter().map(|value| value.to_ascii_uppercase()).collect();
    assert_eq!(choose(None, upper.iter().map(|value| &value[..])), chosen);
    // Lines of one name can be joined (RFC 9110, section 5.2), if no quoted string is left open.
    if !data.contains(&b'"') {
        assert_eq!(choose(None, [&values.join(&b',')[..]].into_iter()), chosen);
    }
}

const OURS: [(Format, &str, &[&str]); 3] = [
    (Format::Html, "text/html", &["charset=utf-8"]),
    (Format::Json, "application/json", &[]),
    (Format::Prometheus, "text/plain", &["version=0.0.4", "charset=utf-8"]),
];

struct Range {
    media: String,
    parameters: Vec<String>,
    quality: u32,
}

fn expected(values: &[&[u8]]) -> Option<Format> {
    let text = |value: &&[u8]| -> String { value.iter().map(|byte| char::from(*byte)).collect() };
    let ranges: Vec<Range> =
        values.iter().flat_map(|value| split(&text(value), ',')).filter_map(|it| range(&it)).collect();
    if ranges.is_empty() {
        return Some(Format::Html);
    }
    let liked: Vec<u32> =
        OURS.iter().map(|(_, media, parameters)| quality(&ranges, media, parameters)).collect();
    let most = *liked.iter().max()?;
    let first = liked.iter().position(|quality| *quality == most)?;
    (most > 0).then_some(OURS[first].0)
}

/// Of the ranges that fit the most exact ones count, and of these the best one.
fn quality(ranges: &[Range], media: &str, parameters: &[&str]) -> u32 {
    let (kind, _) = media.split_once('/').unwrap();
    let exactness = |range: &Range| {
        let of_media = match range.media.as_str() {
            "*/*" => 0,
            of_kind if of_kind == format!("{kind}/*") => 1,
            same if same == media => 2,
            _ => return None,
        };
        let has_all = range.parameters.iter().all(|it| parameters.contains(&it.as_str()));
        has_all.then_some(of_media + range.parameters.len())
    };
    let fitting: Vec<(usize, u32)> =
        ranges.iter().filter_map(|range| Some((exactness(range)?, range.quality))).collect();
    let exact = fitting.iter().map(|(exactness, _)| *exactness).max();
    let best = fitting.iter().filter(|(exactness, _)| Some(*exactness) == exact);
    best.map(|(_, quality)| *quality).max().unwrap_or(0)
}

fn range(text: &str) -> Option<Range> {
    let parts = split(text, ';');
    let (media, parameters) = parts.split_first()?;
    if !media.contains('/') {
        return None;
    }
    let parameters: Vec<String> = parameters.iter().map(|it| it.to_ascii_lowercase()).collect();
    let (qualities, parameters): (Vec<String>, Vec<String>) =
        parameters.into_iter().filter(|it| !it.is_empty()).partition(|it| it.starts_with("q="));
    let quality = qualities.first().map_or(1000, |it| thousandths(&it[2..]));
    Some(Range { media: media.to_ascii_lowercase(), parameters, quality })
}

/// `0`, `1`, and up to three decimals; all else counts as 1.
fn thousandths(text: &str) -> u32 {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_quality = ["0", "1"].contains(&whole)
        && decimals.len() <= 3
        && decimals.chars().all(|digit| digit.is_ascii_digit());
    if !is_quality {
        return 1000;
    }
    format!("{whole}{decimals:0<3}").parse::<u32>().unwrap().min(1000)
}

/// The parts between separators that are not in quoted strings.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut quoted) = (vec![String::new()], false);
    let mut chars = text.chars();
    while let Some(it) = chars.next() {
        if it == separator && !quoted {
            parts.push(String::new());
            continue;
        }
        let part = parts.last_mut().unwrap();
        part.push(it);
        if it == '"' {
            quoted = !quoted;
        } else if it == '\\' && quoted {
            part.extend(chars.next());
        }
    }
    let blanks = [' ', '\t', '\n', '\r', '\x0c'];
    parts.iter().map(|part| part.trim_matches(blanks).to_owned()).collect()
}
