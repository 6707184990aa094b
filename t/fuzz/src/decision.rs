//! Decisions from numbers and flags: whether a connection is kept, whether a request is sent again, and what the response of an
//! authorisation server means.
#![forbid(unsafe_code)]

use keepalive::auth::{Answer, Verdict};
use keepalive::reuse::lifetime::{Limits, NotKept, Returned};
use keepalive::reuse::stale::{ConnectionFailure, FailureKind, StaleRetry};

use crate::input::Input;

/// Flags, then numbers.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    stale(&mut input);
    kept(&mut input);
    verdict(&mut input);
}

fn stale(input: &mut Input<'_>) {
    let failure = ConnectionFailure {
        end: input.one_of(&[FailureKind::Closed, FailureKind::Reset, FailureKind::TimedOut]),
        written: input.flag(),
        acknowledged: input.one_of(&[None, Some(false), Some(true)]),
    };
    let retry = input.one_of(&[StaleRetry::Off, StaleRetry::Safe, StaleRetry::Always]);
    let may_have_arrived = failure.written && failure.acknowledged != Some(false);
    let reset_proves = retry == StaleRetry::Always || !failure.written;
    let expected = retry != StaleRetry::Off
        && !may_have_arrived
        && match failure.end {
            FailureKind::Closed => true,
            FailureKind::Reset => reset_proves,
            FailureKind::TimedOut => false,
        };
    assert_eq!(retry.repeats(&failure), expected, "{retry:?} {failure:?}");
    assert!(!expected || failure.is_about_connection());
}

fn kept(input: &mut Input<'_>) {
    let flags = [(); 5].map(|()| input.flag());
    let [failed, broken, keepalive, request_sent, exiting] = flags;
    let (requests, opened, now) = (input.number(), input.number(), input.number());
    let conn =
        Returned { failed, broken, requests, allowed: usize::MAX, opened, keepalive, request_sent, exiting };
    let limits =
        Limits { requests: input.number(), time: input.number(), timeout: 0, margin: None, learns: false };
    // The clock wraps around.
    let age = (now as u128 + (1 << usize::BITS) - opened as u128) % (1 << usize::BITS);
    let why: Vec<NotKept> = [
        (failed, NotKept::Failed),
        (broken, NotKept::Broken),
        (requests >= limits.requests, NotKept::Requests),
        (age > limits.time as u128, NotKept::Time),
        (!keepalive, NotKept::NotKeepalive),
        (!request_sent, NotKept::RequestUnsent),
        (exiting, NotKept::Exiting),
    ]
    .into_iter()
    .filter_map(|(is, why)| is.then_some(why))
    .collect();
    assert_eq!(limits.refusal(&conn, now), why.first().copied());
}

fn verdict(input: &mut Input<'_>) {
    let made_up = input.flag();
    let status = input.number() as u16;
    let passed: Vec<u16> = (0..input.below(4)).map(|_| input.number() as u16).collect();
    let verdict = Answer { status, made_up }.verdict(&passed);
    let success = (200..300).contains(&status);
    assert_eq!(verdict == Verdict::Allow, success);
    let is_passed = passed.contains(&status) && !made_up;
    let expected = match status {
        _ if success => Verdict::Allow,
        _ if is_passed => Verdict::Deny(status),
        _ if (300..500).contains(&status) => Verdict::Unexpected(status),
        _ => Verdict::Failure(status),
    };
    assert_eq!(verdict, expected);
}
