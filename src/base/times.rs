//! The values of variables that have one entry for each attempt of a request, in the format of nginx's `$upstream_*`
//! variables.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use crate::base::clock::Msec;

/// An element of `r->upstream_states`, with the value to write for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedAttempt<T> {
    /// Whether a server was asked. An element without a server separates two groups of servers.
    pub peer: bool,
    /// The value to write.
    pub what: T,
}

/// Writes each attempt by `one`, separated as `ngx_http_upstream_response_time_variable()` does: `, ` between servers
/// and ` : ` between groups.
///
/// # Errors
/// The errors of `to`.
pub fn write<T, W: Write>(
    to: &mut W,
    attempts: impl IntoIterator<Item = LoggedAttempt<T>>,
    mut one: impl FnMut(&mut W, T) -> fmt::Result,
) -> fmt::Result {
    let mut attempts = attempts.into_iter();
    let mut separator = "";
    while let Some(mut attempt) = attempts.next() {
        if !separator.is_empty() && !attempt.peer {
            separator = " : ";
            match attempts.next() {
                Some(next) => attempt = next,
                None => return to.write_str(separator),
            }
        }
        to.write_str(separator)?;
        one(to, attempt.what)?;
        separator = ", ";
    }
    Ok(())
}

/// The longest time that [`write_time`] writes, in bytes.
pub const MAX_TIME: usize = MAX_SECONDS + 4;

/// The digits of the largest number of seconds.
const MAX_SECONDS: usize = 20;

/// Writes a time in seconds, with three decimals.
///
/// # Errors
/// The errors of `to`.
pub fn write_time(to: &mut impl Write, time: Msec) -> fmt::Result {
    write!(to, "{}.{:03}", time / 1000, time % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: LoggedAttempt<Msec> = LoggedAttempt { peer: false, what: 0 };

    fn peer(what: Msec) -> LoggedAttempt<Msec> {
        LoggedAttempt { peer: true, what }
    }

    fn written(attempts: &[LoggedAttempt<Msec>]) -> String {
        let mut text = String::new();
        write(&mut text, attempts.iter().copied(), write_time).unwrap();
        text
    }

    #[test]
    fn writes_seconds_with_milliseconds() {
        assert_eq!(written(&[peer(0)]), "0.000");
        assert_eq!(written(&[peer(1234)]), "1.234");
        assert_eq!(written(&[peer(61_007)]), "61.007");
    }

    #[test]
    fn separates_servers_and_groups_as_nginx_does() {
        assert_eq!(written(&[peer(1), peer(20), GROUP, peer(300)]), "0.001, 0.020 : 0.300");
        assert_eq!(written(&[peer(1), GROUP]), "0.001 : ");
        assert_eq!(written(&[]), "");
    }
}
