//! Why a pool has little effect, as far as that is certain: what has ended most of its last connections before a second request.
#![forbid(unsafe_code)]

use super::lately::Lately;

/// What ends connections before a second request uses them, or keeps requests from those that are idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Requests are sent with HTTP/1.0.
    RequestHttp10,
    /// Requests say `Connection: close`.
    RequestClose,
    /// Requests of FastCGI ask the server to close.
    FastcgiClose,
    /// The server answers with HTTP/1.0.
    ServerHttp10,
    /// The server says `Connection: close` with its first answer.
    ServerClose,
    /// The server closes the connection with its first answer, and does not say so.
    ServerCloses,
    /// The server announces (`Keep-Alive`) no time, or no request, that is of use.
    ServerKeepAlive,
    /// `keepalive_requests` allows one request.
    KeepaliveRequests,
    /// `keepalive_time` ends with the first request.
    KeepaliveTime,
    /// `keepalive_timeout` is shorter than a second.
    KeepaliveTimeout,
    /// The pool has no room.
    PoolFull,
    /// Idle connections to the server have another identity.
    Identity,
    /// Responses are not read to their end.
    BodyUnread,
    /// Requests announce a body that is not sent.
    BodyUnsent,
    /// The server authenticates connections.
    StatefulAuth,
    /// nginx keeps no connections of this protocol.
    Protocol,
}

/// All causes, in their order.
pub(super) const CAUSES: [Cause; 16] = [
    Cause::RequestHttp10,
    Cause::RequestClose,
    Cause::FastcgiClose,
    Cause::ServerHttp10,
    Cause::ServerClose,
    Cause::ServerCloses,
    Cause::ServerKeepAlive,
    Cause::KeepaliveRequests,
    Cause::KeepaliveTime,
    Cause::KeepaliveTimeout,
    Cause::PoolFull,
    Cause::Identity,
    Cause::BodyUnread,
    Cause::BodyUnsent,
    Cause::StatefulAuth,
    Cause::Protocol,
];

impl Cause {
    /// Its name in JSON and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestHttp10 => "request_http_1_0",
            Self::RequestClose => "request_close",
            Self::FastcgiClose => "fastcgi_close",
            Self::ServerHttp10 => "server_http_1_0",
            Self::ServerClose => "server_close",
            Self::ServerCloses => "server_closes_silently",
            Self::ServerKeepAlive => "server_keep_alive",
            Self::KeepaliveRequests => "keepalive_requests",
            Self::KeepaliveTime => "keepalive_time",
            Self::KeepaliveTimeout => "keepalive_timeout",
            Self::PoolFull => "pool_full",
            Self::Identity => "identity",
            Self::BodyUnread => "body_unread",
            Self::BodyUnsent => "body_unsent",
            Self::StatefulAuth => "stateful_auth",
            Self::Protocol => "protocol",
        }
    }

    /// What is wrong, and what mends it.
    pub fn text(self) -> &'static str {
        match self {
            Self::RequestHttp10 => "requests are sent with HTTP/1.0; set proxy_http_version 1.1 and proxy_set_header Connection \"\"",
            Self::RequestClose => "requests are sent with \"Connection: close\"; set proxy_set_header Connection \"\", or \"\" instead of close in a map of $http_upgrade",
            Self::FastcgiClose => "requests ask the server to close; set fastcgi_keep_conn on",
            Self::ServerHttp10 => "the server answers with HTTP/1.0; let it answer with HTTP/1.1",
            Self::ServerClose => "the server answers \"Connection: close\"; switch keep-alive on in the server",
            Self::ServerCloses => "the server closes each connection after the first answer, and does not announce it; switch keep-alive on in the server",
            Self::ServerKeepAlive => "the server announces by \"Keep-Alive\" that it closes connections at once; let it keep them for longer",
            Self::KeepaliveRequests => "keepalive_requests 1 closes each connection after one request; set a higher number",
            Self::KeepaliveTime => "keepalive_time closes connections after the first request; set a longer time",
            Self::KeepaliveTimeout => "keepalive_timeout closes connections before the next request; set a longer time",
            Self::PoolFull => "the pool is full, and idle connections are closed to make room; set a higher keepalive",
            Self::Identity => "idle connections do not fit the next request, as proxy_bind, the name for TLS or the client certificate is another one; use fewer different values, or set a higher keepalive",
            Self::BodyUnread => "responses are not read to their end, as clients leave early or nginx discards them; set a larger keepalive_drain, or proxy_ignore_client_abort on",
            Self::BodyUnsent => "requests announce a body that is not sent; set proxy_set_header Content-Length \"\" beside proxy_pass_request_body off",
            Self::StatefulAuth => "connections are authenticated by NTLM or Negotiate, and closed; set ntlm",
            Self::Protocol => "nginx keeps no connections of uwsgi and SCGI; remove keepalive",
        }
    }

    /// Whether it can come of something else that is wrong, such as different identities.
    fn is_symptom(self) -> bool {
        matches!(self, Self::PoolFull | Self::KeepaliveTimeout)
    }
}

/// What is wrong with a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Why it has little effect.
    pub cause: Cause,
    /// The last requests.
    pub requests: u64,
    /// How many of them got a connection from the pool.
    pub reused: u64,
}

/// Fewer requests prove nothing.
const ENOUGH: u64 = 50;

impl Hint {
    /// The hint for an upstream, if the cause is certain: nearly all of the last requests opened a connection, and most of these
    /// connections have ended for the same cause.
    pub(super) fn of(lately: &Lately) -> Option<Self> {
        let Lately { opened, reused, .. } = *lately;
        let requests = opened.saturating_add(reused);
        if requests < ENOUGH {
            return None;
        }
        let is_rare = |share: u64| reused.saturating_mul(share) < requests;
        // Of connections: three quarters for one cause.
        let is_most = |cause: &Cause| lately.count(*cause).saturating_mul(4) >= opened.saturating_mul(3);
        let all = CAUSES.into_iter().filter(|cause| *cause != Cause::Identity);
        let ends = all.max_by_key(|cause| lately.count(*cause)).filter(is_most);
        let cause = match ends {
            Some(cause) if !cause.is_symptom() => Some(cause).filter(|_| is_rare(20)),
            _ if is_rare(20) && is_most(&Cause::Identity) => Some(Cause::Identity),
            // A pool that is too small still has an effect.
            Some(Cause::PoolFull) => ends.filter(|_| is_rare(2)),
            symptom => symptom.filter(|_| is_rare(20)),
        };
        cause.map(|cause| Self { cause, requests, reused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(opened: u64, reused: u64, causes: &[(Cause, u64)]) -> Option<Cause> {
        let mut lately = Lately { opened, reused, ..Lately::default() };
        causes.iter().for_each(|(cause, number)| lately.counts[*cause as usize] = *number);
        Hint::of(&lately).map(|hint| hint.cause)
    }

    #[test]
    fn each_cause_has_its_place_and_its_name() {
        for (number, cause) in CAUSES.into_iter().enumerate() {
            assert_eq!(cause as usize, number);
            assert_eq!(CAUSES.iter().filter(|other| other.name() == cause.name()).count(), 1);
            assert_eq!(hint(50, 0, &[(cause, 50)]), Some(cause));
        }
    }

    #[test]
    fn few_requests_prove_nothing() {
        assert_eq!(hint(49, 0, &[(Cause::RequestHttp10, 49)]), None);
        assert_eq!(hint(48, 2, &[(Cause::RequestHttp10, 48)]), Some(Cause::RequestHttp10));
    }

    #[test]
    fn a_pool_that_is_of_use_has_no_hint() {
        assert_eq!(hint(50, 3, &[(Cause::ServerClose, 50)]), None);
        assert_eq!(hint(960, 40, &[(Cause::ServerClose, 960)]), Some(Cause::ServerClose));
        assert_eq!(hint(950, 50, &[(Cause::ServerClose, 950)]), None);
        assert_eq!(hint(64, u64::MAX / 2, &[(Cause::ServerClose, 64)]), None);
    }

    #[test]
    fn tunnels_and_errors_are_no_cause() {
        assert_eq!(hint(1000, 0, &[]), None);
        assert_eq!(hint(1000, 0, &[(Cause::RequestClose, 749)]), None);
        assert_eq!(hint(1000, 0, &[(Cause::RequestClose, 750)]), Some(Cause::RequestClose));
        assert_eq!(hint(100, 0, &[(Cause::RequestClose, 50), (Cause::ServerClose, 50)]), None);
    }

    #[test]
    fn different_identities_come_before_what_they_cause() {
        let both = [(Cause::Identity, 90), (Cause::PoolFull, 95)];
        assert_eq!(hint(100, 0, &both), Some(Cause::Identity));
        assert_eq!(
            hint(100, 0, &[(Cause::Identity, 90), (Cause::KeepaliveTimeout, 95)]),
            Some(Cause::Identity)
        );
        // What is certain comes first.
        assert_eq!(
            hint(100, 0, &[(Cause::Identity, 90), (Cause::ServerCloses, 80)]),
            Some(Cause::ServerCloses)
        );
        // A pool that is too small reuses some.
        assert_eq!(hint(60, 40, &both), Some(Cause::PoolFull));
        assert_eq!(hint(50, 50, &both), None);
        assert_eq!(hint(60, 40, &[(Cause::KeepaliveTimeout, 60)]), None);
    }
}
