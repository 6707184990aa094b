//! The arguments of directives: accepted ones have the value that is written, and the message names a refused one.
#![forbid(unsafe_code)]

use keepalive::auth::{is_same_header, parse_header, parse_status, parse_uri, OnError};
use keepalive::directive::{
    Allowed, Http2, Http2Mode, Invalid, Keepalive, KeepaliveDrain, KeepaliveHint, Queue, MAX_CONNECTIONS,
    MAX_STREAMS,
};
use keepalive::http1::keep_alive::Margin;
use keepalive::pool::{Limit, MAX_CAPACITY};
use keepalive::queue::MAX_WAITERS;
use keepalive::reuse::stale::StaleRetry;

/// The name of a directive and its arguments, separated by spaces.
pub fn target(data: &[u8]) {
    let mut words = data.split(|byte| *byte == b' ');
    let (Some(name), Some(first)) = (words.next(), words.next()) else { return };
    let others: Vec<&[u8]> = words.collect();
    match name {
        b"keepalive" => keepalive(first, &others),
        b"queue" => queue(first, &others),
        b"keepalive_drain" => drain(first, &others),
        b"keepalive_hint" => hint(first, &others),
        b"keepalive_stale_retry" => stale_retry(first),
        b"http2" => http2(first, &others),
        b"auth_subrequest" => uri(first),
        b"auth_subrequest_error" => on_error(first),
        b"auth_subrequest_pass_status" => status(first),
        b"auth_subrequest_copy" => header(first, &others),
        _ => {}
    }
}

/// A simple version of the parsers that the shell gets from nginx: only digits.
fn number(word: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(word).ok()?;
    let digits = !text.is_empty() && text.chars().all(|digit| digit.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

/// The first error of the parameters. `read` returns the error of a parameter, or which parameter it is.
fn first_wrong<'a>(
    words: &[&'a [u8]],
    read: impl Fn(&'a [u8]) -> Result<&'static str, Invalid<'a>>,
) -> Option<Invalid<'a>> {
    let mut seen = Vec::new();
    words.iter().find_map(|word| match read(word) {
        Ok(which) if seen.contains(&which) => Some(Invalid::Duplicate(word)),
        Ok(which) => {
            seen.push(which);
            None
        }
        Err(wrong) => Some(wrong),
    })
}

/// The value of the parameter with this name.
fn value<'a>(words: &[&'a [u8]], name: &str) -> Option<&'a [u8]> {
    words.iter().find_map(|word| word.strip_prefix(name.as_bytes()))
}

fn positive_time(word: &[u8], value: &[u8]) -> Result<&'static str, ()> {
    debug_assert!(word.ends_with(value));
    number(value).filter(|time| *time > 0).map(|_| "timeout").ok_or(())
}

fn timeout_only(word: &[u8]) -> Result<&'static str, Invalid<'_>> {
    let value = word.strip_prefix(b"timeout=").ok_or(Invalid::Parameter(word, ANY))?;
    positive_time(word, value).map_err(|()| Invalid::Value(word, ANY))
}

/// What is allowed is not compared.
const ANY: Allowed = Allowed::Words("");

fn without_allowed(wrong: Invalid<'_>) -> Invalid<'_> {
    match wrong {
        Invalid::Argument(directive, word, _) => Invalid::Argument(directive, word, ANY),
        Invalid::Header(directive, word, _) => Invalid::Header(directive, word, ANY),
        Invalid::Value(word, _) => Invalid::Value(word, ANY),
        Invalid::Parameter(word, _) => Invalid::Parameter(word, ANY),
        wrong @ (Invalid::Repeated(..) | Invalid::Duplicate(_)) => wrong,
    }
}

/// Asserts that the message names the refused argument.
fn named<T>(result: &Result<T, Invalid<'_>>, words: &[&[u8]]) {
    if let Err(wrong) = result {
        let said = wrong.to_string();
        assert!(words.iter().any(|word| said.contains(&format!("\"{}\"", text(word)))), "{said}");
    }
}

fn keepalive(first: &[u8], others: &[&[u8]]) {
    let parsed = Keepalive::parse(first, others.iter().copied());
    named(&parsed, &[&[first], others].concat());
    let parsed = parsed.map_err(without_allowed);
    let connections = match number(first).filter(|number| *number <= MAX_CAPACITY) {
        Some(number) => number,
        None => return assert_eq!(parsed, Err(Invalid::Argument("keepalive", first, ANY))),
    };
    let wrong = first_wrong(others, |word| match word {
        b"local" => Ok("local"),
        b"per_server" => Ok("per_server"),
        _ => Err(Invalid::Parameter(word, ANY)),
    });
    let expected = match wrong {
        Some(wrong) => Err(wrong),
        None => {
            let [local, per_server] = ["local", "per_server"].map(|word| others.contains(&word.as_bytes()));
            Ok(Keepalive { connections, local, per_server })
        }
    };
    assert_eq!(parsed, expected);
    let Ok(parsed) = parsed else { return };
    assert_eq!(parsed.limit().is_none(), connections == 0);
    if let Some(limit) = parsed.limit() {
        assert!((1..=MAX_CAPACITY).contains(&limit.capacity()));
        assert!(limit.capacity() >= connections);
        assert_eq!(matches!(limit, Limit::PerServer(_)), parsed.per_server);
    }
}

fn queue(first: &[u8], others: &[&[u8]]) {
    let parsed = Queue::parse(first, others.iter().copied(), number);
    named(&parsed, &[&[first], others].concat());
    let parsed = parsed.map_err(without_allowed);
    let wrong = first_wrong(others, |word| match word.strip_prefix(b"status=") {
        Some(b"502" | b"503" | b"504") => Ok("status"),
        Some(_) => Err(Invalid::Value(word, ANY)),
        None => timeout_only(word),
    });
    let expected = match (number(first).filter(|number| (1..=MAX_WAITERS).contains(number)), wrong) {
        (None, _) => Err(Invalid::Argument("queue", first, ANY)),
        (_, Some(wrong)) => Err(wrong),
        (Some(limit), None) => Ok(Queue {
            number: limit,
            timeout: value(others, "timeout=").and_then(number).unwrap_or(60_000),
            status: value(others, "status=").and_then(number).unwrap_or(502) as u16,
        }),
    };
    assert_eq!(parsed, expected);
}

fn drain(first: &[u8], others: &[&[u8]]) {
    let bytes = |word| number(word).map(|size| size as u64);
    let parsed = KeepaliveDrain::parse(first, others.iter().copied(), bytes, number);
    named(&parsed, &[&[first], others].concat());
    let parsed = parsed.map_err(without_allowed);
    let expected = match (bytes(first), first_wrong(others, timeout_only)) {
        (None, _) => Err(Invalid::Argument("keepalive_drain", first, ANY)),
        (_, Some(wrong)) => Err(wrong),
        (Some(size), None) => {
            Ok(KeepaliveDrain { size, timeout: value(others, "timeout=").and_then(number).unwrap_or(1000) })
        }
    };
    assert_eq!(parsed, expected);
}

fn hint(first: &[u8], others: &[&[u8]]) {
    let parsed = KeepaliveHint::parse(first, others.iter().copied(), number);
    named(&parsed, &[&[first], others].concat());
    let parsed = parsed.map_err(without_allowed);
    let wrong = first_wrong(others, |word| match word.strip_prefix(b"margin=") {
        Some(value) if matches!(first, b"learn" | b"on") => {
            number(value).map(|_| "margin").ok_or(Invalid::Value(word, ANY))
        }
        _ => Err(Invalid::Parameter(word, ANY)),
    });
    let expected = match (first, wrong) {
        (b"learn" | b"on" | b"off", Some(wrong)) => Err(wrong),
        (b"learn" | b"on", None) => Ok(KeepaliveHint {
            margin: Some(value(others, "margin=").and_then(number).map_or(Margin::Share, Margin::Fixed)),
            learns: first == b"learn",
        }),
        (b"off", None) => Ok(KeepaliveHint { margin: None, learns: false }),
        _ => Err(Invalid::Argument("keepalive_hint", first, ANY)),
    };
    assert_eq!(parsed, expected);
}

fn http2(first: &[u8], others: &[&[u8]]) {
    let parsed = Http2::parse(first, others.iter().copied());
    named(&parsed, &[&[first], others].concat());
    let parsed = parsed.map_err(without_allowed);
    let in_range =
        |value, largest: u32| number(value).filter(|number| (1..=largest as usize).contains(number));
    let wrong = first_wrong(others, |word| {
        let value = |name: &[u8]| word.strip_prefix(name).filter(|_| first != b"off");
        let (which, number) = match (value(b"streams="), value(b"connections=")) {
            (Some(value), _) => ("streams", in_range(value, MAX_STREAMS)),
            (_, Some(value)) => ("connections", in_range(value, MAX_CONNECTIONS)),
            _ => return Err(Invalid::Parameter(word, ANY)),
        };
        number.map(|_| which).ok_or(Invalid::Value(word, ANY))
    });
    let mode = match first {
        b"on" => Http2Mode::On,
        b"off" => Http2Mode::Off,
        b"auto" => Http2Mode::Auto,
        _ => return assert_eq!(parsed, Err(Invalid::Argument("http2", first, ANY))),
    };
    let of = |name, default| value(others, name).and_then(number).unwrap_or(default) as u32;
    let expected = match wrong {
        Some(wrong) => Err(wrong),
        None => Ok(Http2 { mode, streams: of("streams=", 100), connections: of("connections=", 2) }),
    };
    assert_eq!(parsed, expected);
    assert_eq!(parsed.is_ok_and(|parsed| parsed.is_on()), expected.is_ok() && mode != Http2Mode::Off);
}

fn stale_retry(word: &[u8]) {
    let printed = StaleRetry::parse(word).map(|value| format!("{value:?}").to_lowercase());
    let known = ["off", "safe", "always"].iter().find(|known| known.as_bytes() == word);
    assert_eq!(printed.as_deref(), known.copied());
}

fn uri(word: &[u8]) {
    let parsed = parse_uri(word);
    named(&parsed, &[word]);
    let is_path = word.starts_with(b"/") && !word.contains(&b'$');
    assert_eq!(parsed.is_ok(), is_path);
    if let Ok((path, arguments)) = parsed {
        assert!(!path.contains(&b'?'));
        let joined = arguments.map_or(path.to_vec(), |arguments| [path, b"?", arguments].concat());
        assert_eq!(joined, word);
    }
}

fn on_error(word: &[u8]) {
    let parsed = OnError::parse(word);
    named(&parsed, &[word]);
    let printed = parsed.ok().map(|value| match value {
        OnError::Status(status) => status.to_string(),
        OnError::Pass => "pass".to_owned(),
        OnError::Allow => "allow".to_owned(),
    });
    let known = ["500", "503", "pass", "allow"].iter().find(|known| known.as_bytes() == word);
    assert_eq!(printed.as_deref(), known.copied());
}

fn status(word: &[u8]) {
    let parsed = parse_status(word);
    named(&parsed, &[word]);
    let expected = number(word).filter(|status| matches!(status, 300..=498 | 500..=599));
    assert_eq!(parsed.ok().map(usize::from), expected);
}

fn header(word: &[u8], others: &[&[u8]]) {
    const FRAMING: &[u8] =
        b"host content-length transfer-encoding connection upgrade expect te trailer keep-alive";
    let parsed = parse_header("d", word);
    named(&parsed, &[word]);
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#%&'*+-.^_`|~".contains(byte);
    let frames = FRAMING.split(|byte| *byte == b' ').any(|name| may_be(name, word));
    let is_fine = !word.is_empty() && word.iter().all(is_token) && !frames;
    assert_eq!(parsed.is_ok(), is_fine);
    for other in others {
        assert_eq!(is_same_header(word, other), may_be(word, other));
    }
}

/// Whether a program may take the name that was sent for `name`: all positions in `name` are followed at once. A byte that is
/// not ASCII stands for any part of it, and for more if a bracket follows.
fn may_be(name: &[u8], sent: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for (at, byte) in sent.iter().enumerate() {
        if *byte == b'[' && reached[name.len()] {
            return true;
        }
        let Some(first) = reached.iter().position(|is_reached| *is_reached) else { return false };
        if !byte.is_ascii() {
            if sent[at..].contains(&b'[') {
                return true;
            }
            reached[first..].fill(true);
            continue;
        }
        let is_same = |expected: &u8| spelling(*expected) == spelling(*byte);
        let next = name.iter().zip(&reached).map(|(expected, is_reached)| *is_reached && is_same(expected));
        reached = std::iter::once(false).chain(next).collect();
    }
    reached[name.len()]
}

/// As a program sees a byte of a name that it writes as a variable.
fn spelling(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => byte - b'a' + b'A',
        b'A'..=b'Z' | b'0'..=b'9' => byte,
        _ => b'_',
    }
}
