//! Whether a connection may be kept when its request ends, and for how long.
#![forbid(unsafe_code)]

use std::fmt;

use crate::base::clock::Msec;
use crate::http1::keep_alive::{Hint, Margin};
use crate::lessons::Lesson;

/// The limits that the directives of one `upstream` set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `keepalive_requests`: how many requests one connection may serve.
    pub requests: usize,
    /// `keepalive_time`: how long after its opening a connection may be kept, in milliseconds.
    pub time: Msec,
    /// `keepalive_timeout`: how long a connection stays open while it is idle, in milliseconds.
    pub timeout: Msec,
    /// `keepalive_hint`: how much earlier than the server nginx closes a connection; `None` if `Keep-Alive` is ignored.
    pub margin: Option<Margin>,
    /// `keepalive_hint learn`: what the server does not announce is learned.
    pub learns: bool,
}

/// A connection when its request ends.
#[derive(Clone, Copy, Debug)]
pub struct Returned {
    /// The balancer was told that the peer failed (`NGX_PEER_FAILED`).
    pub failed: bool,
    /// End of file, an error or a timeout was seen on the connection.
    pub broken: bool,
    /// Requests served, including this one.
    pub requests: usize,
    /// Requests that the server allows on it, as far as it has announced.
    pub allowed: usize,
    /// When the connection was opened.
    pub opened: Msec,
    /// The protocol module found that the connection can serve another request: the response is
    /// complete, and neither side asked to close.
    pub keepalive: bool,
    /// The request was sent to its last byte.
    pub request_sent: bool,
    /// The worker is exiting: no request will use the connection.
    pub exiting: bool,
}

/// What a connection may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// How long it may be idle, in milliseconds.
    pub idle: Msec,
    /// That is less than `keepalive_timeout`, because of what the server has announced.
    pub is_hinted: bool,
    /// Requests that the server allows on it, including those it has served, as far as it has announced.
    pub allowed: usize,
}

/// Why a connection is closed instead of kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// The request failed.
    Failed,
    /// The connection ended, failed or timed out.
    Broken,
    /// It served `keepalive_requests` requests.
    Requests,
    /// It is older than `keepalive_time`.
    Time,
    /// The server has announced that it serves no more requests on it (`Keep-Alive`).
    Hint,
    /// The server has announced that it closes the connection within the margin.
    ClosesSoon,
    /// The protocol does not allow another request on it.
    NotKeepalive,
    /// A part of the request was not sent. The server would take the next request as that part.
    RequestUnsent,
    /// The worker is exiting.
    Exiting,
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "request failed",
            Self::Broken => "connection closed or broken",
            Self::Requests => "keepalive_requests reached",
            Self::Time => "keepalive_time reached",
            Self::Hint => "server keeps it no longer",
            Self::ClosesSoon => "server closes it too soon",
            Self::NotKeepalive => "not a keepalive response",
            Self::RequestUnsent => "request not fully sent",
            Self::Exiting => "worker exiting",
        })
    }
}

impl Limits {
    /// Whether a connection may serve another request after so many.
    #[inline(always)]
    pub fn allows_more(&self, requests: usize) -> bool {
        requests < self.requests
    }

    /// Whether a connection that was opened then may no longer be kept at `now`.
    #[inline(always)]
    pub fn is_too_old(&self, opened: Msec, now: Msec) -> bool {
        now.wrapping_sub(opened) > self.time
    }

    /// Why the connection must not be kept at `now`, or `None` if it may be. The conditions are the ones of nginx's
    /// `ngx_http_upstream_free_keepalive_peer()`.
    #[inline]
    pub fn refusal(&self, conn: &Returned, now: Msec) -> Option<NotKept> {
        if conn.failed {
            Some(NotKept::Failed)
        } else if conn.broken {
            Some(NotKept::Broken)
        } else if !self.allows_more(conn.requests) {
            Some(NotKept::Requests)
        } else if self.is_too_old(conn.opened, now) {
            Some(NotKept::Time)
        } else if !conn.keepalive {
            Some(NotKept::NotKeepalive)
        } else if !conn.request_sent {
            Some(NotKept::RequestUnsent)
        } else if conn.exiting {
            Some(NotKept::Exiting)
        } else {
            None
        }
    }

    /// How long a connection that may be kept can be idle, and how many requests it can serve. It has served `requests`, of `allowed` as
    /// far as the server had announced. `hint` is what the server announced in its last response; `round_trip` returns the round-trip time in milliseconds, and is called only if it
    /// is needed. `lesson` is what was learned of the server, if anything was.
    ///
    /// # Errors
    /// [`NotKept::Hint`] if the server serves no more requests on it, [`NotKept::ClosesSoon`] if it would close it within the
    /// margin.
    #[inline]
    pub fn remaining(
        &self,
        (requests, allowed): (usize, usize),
        hint: &Hint,
        lesson: Option<Lesson>,
        round_trip: impl FnOnce() -> Msec,
    ) -> Result<Remaining, NotKept> {
        let Some(margin) = self.margin else {
            return Ok(Remaining { idle: self.timeout, is_hinted: false, allowed });
        };
        let (idle, is_hinted) = match (hint.timeout, lesson) {
            (Some(announced), lesson) => {
                // The margin that was learned is the better one. Of the two limits the earlier one holds.
                let learned = lesson.and_then(|lesson| lesson.announced(announced, margin));
                let left = match learned {
                    Some(left) => Some(left).filter(|left| *left > 0),
                    None => margin.left(announced, round_trip),
                };
                let left = left.ok_or(NotKept::ClosesSoon)?;
                (left.min(self.timeout), left < self.timeout)
            }
            (None, None) => (self.timeout, false),
            (None, Some(lesson)) => (lesson.known_with(margin).next_look().min(self.timeout), false),
        };
        let more = hint.requests.map_or(usize::MAX, |more| requests.saturating_add(more));
        let allowed = allowed.min(more);
        if requests >= allowed {
            return Err(NotKept::Hint);
        }
        Ok(Remaining { idle, is_hinted, allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        requests: 100,
        time: 1000,
        timeout: 60_000,
        margin: Some(Margin::Fixed(1000)),
        learns: false,
    };
    const GOOD: Returned = Returned {
        failed: false,
        broken: false,
        requests: 1,
        allowed: usize::MAX,
        opened: 5000,
        keepalive: true,
        request_sent: true,
        exiting: false,
    };

    #[test]
    fn keeps_a_healthy_connection() {
        assert_eq!(LIMITS.refusal(&GOOD, 5000), None);
    }

    #[test]
    fn refuses_each_condition_alone() {
        let refusal = |conn: Returned| LIMITS.refusal(&conn, 5000);
        assert_eq!(refusal(Returned { failed: true, ..GOOD }), Some(NotKept::Failed));
        assert_eq!(refusal(Returned { broken: true, ..GOOD }), Some(NotKept::Broken));
        assert_eq!(refusal(Returned { keepalive: false, ..GOOD }), Some(NotKept::NotKeepalive));
        assert_eq!(refusal(Returned { request_sent: false, ..GOOD }), Some(NotKept::RequestUnsent));
        assert_eq!(refusal(Returned { exiting: true, ..GOOD }), Some(NotKept::Exiting));
    }

    #[test]
    fn the_request_that_reaches_the_limit_is_the_last() {
        assert_eq!(LIMITS.refusal(&Returned { requests: 99, ..GOOD }, 5000), None);
        let last = Returned { requests: 100, ..GOOD };
        assert_eq!(LIMITS.refusal(&last, 5000), Some(NotKept::Requests));
        assert_eq!(Limits { requests: 0, ..LIMITS }.refusal(&GOOD, 5000), Some(NotKept::Requests));
    }

    fn rest(
        limits: Limits,
        conn: Returned,
        timeout: Option<Msec>,
        requests: Option<usize>,
    ) -> Option<(Msec, usize)> {
        let rest = limits.remaining((conn.requests, conn.allowed), &Hint { timeout, requests }, None, || 5);
        assert_ne!(rest, Err(NotKept::Requests));
        rest.ok().map(|rest| (rest.idle, rest.allowed))
    }

    #[test]
    fn the_server_limits_the_requests_too() {
        let conn = Returned { requests: 4, ..GOOD };
        assert_eq!(rest(LIMITS, conn, None, None), Some((60_000, usize::MAX)));
        assert_eq!(rest(LIMITS, conn, None, Some(1)), Some((60_000, 5)));
        assert_eq!(rest(LIMITS, conn, None, Some(0)), None);
        assert_eq!(rest(LIMITS, conn, None, Some(usize::MAX)), Some((60_000, usize::MAX)));
        // The limit that it announced before stays, but it can announce a lower one.
        let conn = Returned { allowed: 6, ..conn };
        assert_eq!(rest(LIMITS, conn, None, None), Some((60_000, 6)));
        assert_eq!(rest(LIMITS, conn, None, Some(9)), Some((60_000, 6)));
        assert_eq!(rest(LIMITS, conn, None, Some(1)), Some((60_000, 5)));
        assert_eq!(rest(LIMITS, Returned { requests: 6, ..conn }, None, None), None);
    }

    #[test]
    fn a_connection_is_closed_before_the_server_closes_it() {
        let idle = |limits: Limits, timeout| rest(limits, GOOD, timeout, None).map(|(idle, _)| idle);
        assert_eq!(idle(LIMITS, None), Some(60_000));
        assert_eq!(idle(LIMITS, Some(5000)), Some(4000));
        assert_eq!(idle(LIMITS, Some(1001)), Some(1));
        assert_eq!(idle(LIMITS, Some(1000)), None);
        assert_eq!(idle(LIMITS, Some(0)), None);
        assert_eq!(idle(LIMITS, Some(75_000)), Some(60_000));
        let exactly = Limits { margin: Some(Margin::Fixed(0)), ..LIMITS };
        assert_eq!(idle(exactly, Some(1000)), Some(1000));
        assert_eq!(idle(exactly, Some(0)), None);
        let share = Limits { margin: Some(Margin::Share), ..LIMITS };
        assert_eq!(idle(share, Some(1000)), Some(895));
        assert_eq!(idle(share, Some(75_000)), Some(60_000));
        assert_eq!(idle(share, Some(0)), None);
        let deaf = Limits { margin: None, ..LIMITS };
        assert_eq!(rest(deaf, GOOD, Some(0), Some(0)), Some((60_000, usize::MAX)));
    }

    #[test]
    fn the_two_announcements_of_the_server_are_told_apart() {
        let rest = |timeout, requests| {
            LIMITS.remaining((GOOD.requests, GOOD.allowed), &Hint { timeout, requests }, None, || 5)
        };
        assert_eq!(rest(Some(1000), Some(0)), Err(NotKept::ClosesSoon));
        assert_eq!(rest(Some(2000), Some(0)), Err(NotKept::Hint));
        assert_eq!(rest(None, Some(0)), Err(NotKept::Hint));
    }

    #[test]
    fn age_is_counted_from_the_opening_across_the_wrap_of_the_clock() {
        assert_eq!(LIMITS.refusal(&GOOD, 6000), None);
        assert_eq!(LIMITS.refusal(&GOOD, 6001), Some(NotKept::Time));
        let old = Returned { opened: Msec::MAX - 10, ..GOOD };
        assert_eq!(LIMITS.refusal(&old, 900), None);
        assert_eq!(LIMITS.refusal(&old, 1000), Some(NotKept::Time));
    }
}
