//! A connection that was used again and failed before the first byte of the response: what that says of the server, and
//! whether the request can have arrived.
//!
//! ```text
//!   nginx   request ------>            the server closed before it received
//!                     <--X--- FIN      any of the request: the FIN is there,
//!                                      and no byte is acknowledged
//!
//!   nginx   request ------>            the server received the request, and
//!                     <--X--- ACK FIN  closed then: it may have acted on it
//! ```
//!
//! A server that ends its half of the connection only, and goes on reading, looks like the first; it could not answer.
//!
//! The kernel tells the state of a connection and its counts in one call, but not of one moment: it reads the state before
//! it locks the connection, and the counts after. A FIN that comes in between is in the counts, and not in the state. So
//! no state is taken to be as new as the counts that came with it, but only one that was asked for later.
#![forbid(unsafe_code)]

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The server has closed it: there was a FIN.
    Closed,
    /// It was reset, or failed in another way, without a FIN.
    Reset,
    /// Nothing came for too long.
    TimedOut,
}

/// A request whose connection, a reused one, has failed before the first byte of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFailure {
    /// How the connection ended.
    pub end: FailureKind,
    /// Whether any of the request was written to the connection.
    pub written: bool,
    /// Whether the server's TCP has acknowledged any of it; `None` if that is not known.
    pub acknowledged: Option<bool>,
}

/// What the kernel counts of a TCP connection, in one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpCounters {
    /// Bytes that the other side has acknowledged.
    pub acknowledged: u64,
    /// Bytes that have come from it; a FIN counts for one.
    pub received: u64,
}

/// A connection as a request takes it, before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What was counted first.
    pub counts: TcpCounters,
    /// Whether a FIN was there when the connection was looked at, *after* it was counted. If not, the counts have none.
    pub has_fin: bool,
}

/// A connection that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What is counted now.
    pub counts: TcpCounters,
    /// Whether its state says that a FIN has come. After a reset it says nothing.
    pub has_fin: bool,
    /// How many of the bytes that have come since it was taken were read.
    pub read: u64,
}

/// What has come since a connection was taken that was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadInput {
    /// Nothing, and no FIN.
    Nothing,
    /// A FIN; it is not known when.
    Fin,
    /// A FIN if there is nothing to read, otherwise a byte.
    OneByte,
    /// More than that.
    Bytes,
}

impl Failed {
    /// What tells whether the server has closed the connection.
    pub fn unread(&self, taken: &Taken) -> UnreadInput {
        let received = self.counts.received.wrapping_sub(taken.counts.received);
        match received.wrapping_sub(self.read) {
            _ if taken.has_fin || self.has_fin => UnreadInput::Fin,
            0 => UnreadInput::Nothing,
            1 => UnreadInput::OneByte,
            _ => UnreadInput::Bytes,
        }
    }

    /// Whether any of what was written to it since it was taken was acknowledged.
    pub fn has_acknowledged(&self, taken: &Taken) -> bool {
        self.counts.acknowledged != taken.counts.acknowledged
    }
}

/// `keepalive_stale_retry`: which requests are sent again, whatever their method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleRetry {
    /// None but those that nginx repeats by itself.
    Off,
    /// Those that have not arrived, as TCP proves.
    #[default]
    Safe,
    /// Those too that have not been acknowledged before a reset. That is no proof: a program that closes or dies with the
    /// request in its hands resets the connection, and an acknowledgement that was not sent by then never comes.
    Always,
}

impl StaleRetry {
    /// Reads the value of the directive.
    pub fn parse(word: &[u8]) -> Option<Self> {
        match word {
            b"off" => Some(Self::Off),
            b"safe" => Some(Self::Safe),
            b"always" => Some(Self::Always),
            _ => None,
        }
    }

    /// Whether the request is to be sent again though its method, or `proxy_next_upstream`, would not let it. RFC 9110,
    /// section 9.2.2, keeps proxies from sending again what the server may have acted on, which it cannot if nothing
    /// has arrived.
    pub fn repeats(self, failure: &ConnectionFailure) -> bool {
        let unread = failure.acknowledged == Some(false);
        match (self, failure.end) {
            (Self::Off, _) | (_, FailureKind::TimedOut) => false,
            _ if !failure.written => true,
            (_, FailureKind::Closed) => unread,
            (Self::Always, FailureKind::Reset) => unread,
            (Self::Safe, FailureKind::Reset) => false,
        }
    }
}

impl ConnectionFailure {
    /// Whether it says nothing of the server. A server that has received the request and does not answer is slow or
    /// hangs; one that acknowledges nothing does not know of the connection any more.
    pub fn is_about_connection(&self) -> bool {
        self.end != FailureKind::TimedOut || self.acknowledged == Some(false)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::StaleRetry::{Always, Off, Safe};
    use super::*;

    const ENDS: [FailureKind; 3] = [FailureKind::Closed, FailureKind::Reset, FailureKind::TimedOut];
    const KNOWN: [Option<bool>; 3] = [Some(false), Some(true), None];

    fn failures() -> impl Iterator<Item = ConnectionFailure> {
        ENDS.into_iter().flat_map(|end| {
            KNOWN.into_iter().flat_map(move |acknowledged| {
                [true, false].map(|written| ConnectionFailure { end, written, acknowledged })
            })
        })
    }

    #[test]
    fn nothing_is_repeated_that_may_have_arrived() {
        for failure in failures().filter(|failure| failure.written && failure.acknowledged != Some(false)) {
            for retry in [Off, Safe, Always] {
                assert!(!retry.repeats(&failure), "{retry:?} {failure:?}");
            }
        }
    }

    #[test]
    fn a_fin_proves_and_a_reset_does_not() {
        let failure = |end| ConnectionFailure { end, written: true, acknowledged: Some(false) };
        assert!(Safe.repeats(&failure(FailureKind::Closed)));
        assert!(!Safe.repeats(&failure(FailureKind::Reset)));
        assert!(Always.repeats(&failure(FailureKind::Closed)));
        assert!(Always.repeats(&failure(FailureKind::Reset)));
    }

    #[test]
    fn what_was_not_written_has_not_arrived() {
        for failure in failures().filter(|failure| !failure.written) {
            for retry in [Safe, Always] {
                assert_eq!(
                    retry.repeats(&failure),
                    failure.end != FailureKind::TimedOut,
                    "{retry:?} {failure:?}"
                );
            }
            assert!(!Off.repeats(&failure));
        }
    }

    #[test]
    fn more_is_repeated_from_one_value_to_the_next() {
        for failure in failures() {
            assert!(Off.repeats(&failure) <= Safe.repeats(&failure));
            assert!(Safe.repeats(&failure) <= Always.repeats(&failure));
        }
    }

    #[test]
    fn a_server_that_takes_the_request_and_is_silent_has_failed() {
        for failure in failures() {
            let silent = failure.end == FailureKind::TimedOut && failure.acknowledged != Some(false);
            assert_eq!(failure.is_about_connection(), !silent, "{failure:?}");
        }
    }

    #[test]
    fn reads_its_values() {
        assert_eq!(StaleRetry::parse(b"off"), Some(Off));
        assert_eq!(StaleRetry::parse(b"safe"), Some(Safe));
        assert_eq!(StaleRetry::parse(b"always"), Some(Always));
        for word in ["", "on", "SAFE", "safe "] {
            assert_eq!(StaleRetry::parse(word.as_bytes()), None, "{word}");
        }
    }
}
