//! What was learned, as a line for the error log.
#![forbid(unsafe_code)]

use super::Limited;
use crate::base::clock::Msec;

/// The line about a server whose limit was learned, or forgotten. `timeout` is `keepalive_timeout`; times are in milliseconds.
pub fn change(server: &str, what: Limited, limit: Option<u32>, timeout: Msec) -> String {
    match (what, limit) {
        (Limited::Age, Some(age)) => {
            let (age, timeout) = (seconds(age as Msec), seconds(timeout));
            format!("server {server} closes idle connections after {age} (learned); keepalive_timeout is {timeout}")
        }
        (Limited::Age, None) => format!("server {server} no longer closes idle connections as learned"),
        (Limited::Requests, Some(requests)) => {
            format!("server {server} closes connections after {requests} requests (learned)")
        }
        (Limited::Requests, None) => {
            format!("server {server} no longer closes connections after as many requests as learned")
        }
    }
}

/// A time in seconds: with one decimal from a second on, unless it is whole and not measured.
fn seconds(time: Msec) -> String {
    match time {
        0..1000 => format!("{:.2}s", time as f64 / 1000.0),
        _ if time % 1000 == 0 && time >= 10_000 => format!("{}s", time / 1000),
        _ => format!("{:.1}s", time as f64 / 1000.0),
    }
}
