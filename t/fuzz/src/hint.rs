//! The header `Keep-Alive` of a response, and what its connection may still do: a server can shorten what the
//! configuration allows, and never extend it.
#![forbid(unsafe_code)]

use keepalive::base::clock::Msec;
use keepalive::http1::keep_alive::{Hint, Margin};
use keepalive::reuse::lifetime::{Limits, NotKept};

use crate::input::Input;

/// The first line: requests that the connection has served and may serve, `keepalive_timeout`, then the margin, or `off`, or
/// `on` with a round trip. The others: the header's values.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut first = Input(input.line());
    let (requests, allowed, timeout) = (first.number(), first.number(), first.number());
    let (margin, round_trip) = match first.0 {
        [b'o', b'f', ..] => (None, 0),
        [b'o', _, _, rest @ ..] => (Some(Margin::Share), Input(rest).number()),
        _ => (Some(Margin::Fixed(first.number())), 0),
    };
    let values = input.lines();

    let mut hint = Hint::default();
    values.iter().for_each(|value| hint.read(value));
    let mut backwards = Hint::default();
    values.iter().rev().for_each(|value| backwards.read(value));
    assert_eq!(hint, backwards);
    assert_eq!(hint.requests, smallest(&values, "max", 1));
    assert_eq!(hint.timeout, smallest(&values, "timeout", 1000));

    for value in values.iter() {
        let mut one = Hint::default();
        one.read(value);
        assert!(Hint::of_usual(value).is_none_or(|usual| usual == one));
    }

    let limits = Limits { requests: usize::MAX, time: usize::MAX, timeout, margin, learns: false };
    // What has to be left of the server's time.
    let margin = margin.map(|margin| match (margin, hint.timeout) {
        (Margin::Fixed(margin), _) => margin as u128,
        (Margin::Share, Some(announced)) => (announced as u128 / 10).min(1000) + round_trip as u128,
        (Margin::Share, None) => 0,
    });
    match (limits.remaining((requests, allowed), &hint, None, || round_trip), margin) {
        (rest, None) => assert_eq!(rest.map(|rest| (rest.idle, rest.allowed)), Ok((timeout, allowed))),
        (Ok(rest), Some(margin)) => {
            assert!(rest.idle <= timeout && rest.allowed <= allowed && rest.allowed > requests);
            let in_time = |server: Msec| rest.idle as u128 + margin <= server as u128;
            assert!(hint.timeout.is_none_or(in_time));
            assert!(rest.idle > 0 || timeout == 0);
            // And no more than that is lost.
            let is_most = |server: Msec| rest.idle == timeout || rest.idle as u128 + margin == server as u128;
            assert!(hint.timeout.is_none_or(is_most));
            let spoken = hint.timeout.is_some() || hint.requests.is_some();
            assert!(spoken || (rest.idle, rest.allowed) == (timeout, allowed));
        }
        (Err(refusal), Some(margin)) => {
            let too_late = hint.timeout.is_some_and(|server| server as u128 <= margin);
            assert_eq!(refusal, if too_late { NotKept::ClosesSoon } else { NotKept::Hint });
            assert!(too_late || requests >= allowed || hint.requests == Some(0));
        }
    }
}

/// The smallest value of a parameter, computed without regard to time and memory.
fn smallest(values: &[&[u8]], name: &str, unit: u128) -> Option<usize> {
    let all: Vec<String> =
        values.iter().map(|value| value.iter().map(|byte| char::from(*byte)).collect()).collect();
    let parameters = all.iter().flat_map(|value: &String| value.split(','));
    let number = |parameter: &str| {
        let (key, value) = parameter.split_once('=')?;
        let blanks = [' ', '\t', '\n', '\r', '\x0c'];
        let (key, value) = (key.trim_matches(blanks), value.trim_matches(blanks));
        let is_number = !value.is_empty() && value.chars().all(|digit| digit.is_ascii_digit());
        if key.to_ascii_lowercase() != name || !is_number {
            return None;
        }
        // No more digits than fit, and zeros before them.
        let number: u128 = value
            .trim_start_matches('0')
            .parse()
            .or_else(|_| if value.trim_start_matches('0').is_empty() { Ok(0) } else { Err(()) })
            .ok()?;
        usize::try_from(number).ok()?;
        usize::try_from(number.checked_mul(unit)?).ok()
    };
    parameters.filter_map(number).min()
}
