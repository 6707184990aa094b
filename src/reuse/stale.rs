//! A reused connection that failed before the first byte of the response: what that says about the server, and whether the
//! request can have arrived.
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
//! A server that closes only its half of the connection, and goes on reading, looks like the first case. It could not answer.
//!
//! The kernel returns the state of a connection and its counters in one call, but not of the same moment: it reads the state
//! before it locks the connection, and the counters afterwards. A FIN that comes in between is in the counters, but not in
//! the state. So a state never counts as being as new as the counters of the same call. Only the state of a later call does.
#![forbid(unsafe_code)]

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The server has closed it: a FIN came.
    Closed,
    /// It was reset, or failed in another way, without a FIN.
    Reset,
    /// A timeout: nothing came.
    TimedOut,
}

/// The failure of a reused connection before the first byte of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFailure {
    /// How the connection ended.
    pub end: FailureKind,
    /// Whether any byte of the request was written to the connection.
    pub written: bool,
    /// Whether the server's TCP has acknowledged any byte of it; `None` if that is not known.
    pub acknowledged: Option<bool>,
}

/// The kernel's counters of a TCP connection, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpCounters {
    /// Bytes that the server has acknowledged.
    pub acknowledged: u64,
    /// Bytes received from the server. A FIN counts as one byte.
    pub received: u64,
}

/// A connection when a request takes it, before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The counters, read first.
    pub counts: TcpCounters,
    /// Whether a FIN had come, looked up *after* the counters were read. If not, the counters include no FIN.
    pub has_fin: bool,
}

/// A connection that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The counters now.
    pub counts: TcpCounters,
    /// Whether its state says that a FIN has come. After a reset the state does not tell.
    pub has_fin: bool,
    /// How many bytes were read since the request took the connection.
    pub read: u64,
}

/// What has come since a request took the connection and was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadInput {
    /// Nothing, and no FIN.
    Nothing,
    /// A FIN, before or after the request took the connection.
    Fin,
    /// A FIN if there is nothing to read, otherwise one byte.
    OneByte,
    /// More than one byte.
    Bytes,
}

impl Failed {
    /// What has come and was not read: it tells whether the server has closed the connection.
    pub fn unread(&self, taken: &Taken) -> UnreadInput {
        let received = self.counts.received.wrapping_sub(taken.counts.received);
        match received.wrapping_sub(self.read) {
            _ if taken.has_fin || self.has_fin => UnreadInput::Fin,
            0 => UnreadInput::Nothing,
            1 => UnreadInput::OneByte,
            _ => UnreadInput::Bytes,
        }
    }

    /// Whether the server has acknowledged any byte written since the request took the connection.
    pub fn has_acknowledged(&self, taken: &Taken) -> bool {
        self.counts.acknowledged != taken.counts.acknowledged
    }
}

/// `keepalive_stale_retry`: which requests are sent again whatever their method is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleRetry {
    /// None; nginx itself may still send requests again.
    Off,
    /// Requests of which TCP proves that they have not arrived.
    #[default]
    Safe,
    /// These, and requests that were not acknowledged before a reset. That is no proof: a program that closes the connection
    /// or dies after it has received the request resets the connection, and an acknowledgement that was not sent before
    /// never comes.
    Always,
}

impl StaleRetry {
    /// Parses the argument of the directive. `None` if it is not valid.
    pub fn parse(word: &[u8]) -> Option<Self> {
        match word {
            b"off" => Some(Self::Off),
            b"safe" => Some(Self::Safe),
            b"always" => Some(Self::Always),
            _ => None,
        }
    }

    /// Whether the request is to be sent again although its method, or `proxy_next_upstream`, does not allow it. RFC 9110,
    /// section 9.2.2, forbids proxies to repeat a request on which the server may have acted. It cannot have acted if nothing
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
    /// Whether the failure is only about the connection and says nothing about the server. A server that has received the
    /// request and does not answer is slow or hangs. A server that acknowledges nothing does not know the connection any more.
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
