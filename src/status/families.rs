//! The metric families of [`super::prometheus`].
#![forbid(unsafe_code)]

use crate::lessons::View;
use crate::metrics::{Count, HandoverCount, Http2Count, Http2Gauge, QueueCount, ServerCounters};

use super::in_seconds;

/// A metric family.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    pub(super) source: Source,
}

/// Where the samples of a family come from.
pub(super) enum Source {
    Workers,
    Limit,
    Hint,
    Phases,
    Server(fn(&ServerCounters) -> u64),
    Closed,
    NotStored,
    Learned(fn(&View) -> Option<f64>),
    InTransit,
    Handover(HandoverCount),
    Dropped,
    Http2Gauge(Http2Gauge),
    Http2(Http2Count),
    Queue(QueueCount),
    QueueLimit,
    QueueTimes,
    Decisions,
    AuthTimes,
}

impl Source {
    /// Whether the samples are about single servers.
    pub(super) fn is_about_servers(&self) -> bool {
        use Source::{Closed, InTransit, Learned, NotStored, Phases, Server};
        matches!(self, Phases | Server(_) | Closed | NotStored | Learned(_) | InTransit)
    }
}

const fn family(name: &'static str, kind: &'static str, help: &'static str, source: Source) -> Family {
    Family { name, kind, help, source }
}

/// All families, in the order in which they are written.
pub(super) const FAMILIES: [Family; 41] = [
    family("nginx_upstream_keepalive_workers", "gauge", "Worker processes that are alive.", Source::Workers),
    family(
        "nginx_upstream_keepalive_limit",
        "gauge",
        "Idle connections that each worker may keep.",
        Source::Limit,
    ),
    family(
        "nginx_upstream_keepalive_hint",
        "gauge",
        "1 if nearly no request reuses a connection, by why.",
        Source::Hint,
    ),
    family("nginx_upstream_keepalive_connections", "gauge", "Connections, by what they do.", Source::Phases),
    family(
        "nginx_upstream_keepalive_requests_total",
        "counter",
        "Requests that got a connection.",
        Source::Server(ServerCounters::requests),
    ),
    family(
        "nginx_upstream_keepalive_opened_total",
        "counter",
        "Connections opened for a request.",
        Source::Server(|numbers| numbers.count(Count::Opened)),
    ),
    family(
        "nginx_upstream_keepalive_reused_total",
        "counter",
        "Requests that got a connection from the pool.",
        Source::Server(|numbers| numbers.count(Count::Reused)),
    ),
    family(
        "nginx_upstream_keepalive_given_total",
        "counter",
        "Connections handed over to another worker.",
        Source::Server(|numbers| numbers.count(Count::Given)),
    ),
    family(
        "nginx_upstream_keepalive_taken_total",
        "counter",
        "Connections taken over from another worker.",
        Source::Server(|numbers| numbers.count(Count::Taken)),
    ),
    family(
        "nginx_upstream_keepalive_stale_total",
        "counter",
        "Connections from the pool that failed before the first byte of a response.",
        Source::Server(|numbers| numbers.count(Count::Stale)),
    ),
    family(
        "nginx_upstream_keepalive_repeats_total",
        "counter",
        "Requests sent again over a new connection because the first one was stale.",
        Source::Server(|numbers| numbers.count(Count::Repeats)),
    ),
    family(
        "nginx_upstream_keepalive_closed_total",
        "counter",
        "Connections that were kept, or could have been, by why they ended.",
        Source::Closed,
    ),
    family(
        "nginx_upstream_keepalive_not_stored_total",
        "counter",
        "Connections that could not be kept, by why not.",
        Source::NotStored,
    ),
    family(
        "nginx_upstream_keepalive_learned_idle_timeout_seconds",
        "gauge",
        "The idle time after which the server closes connections, as learned.",
        Source::Learned(|learned| learned.age.map(|(lowest, _)| in_seconds(lowest))),
    ),
    family(
        "nginx_upstream_keepalive_learned_idle_timeout_closes",
        "gauge",
        "How many of the last eight closes agree about this time.",
        Source::Learned(|learned| learned.age.map(|(_, closes)| closes.into())),
    ),
    family(
        "nginx_upstream_keepalive_learned_requests",
        "gauge",
        "The number of requests after which the server closes a connection, as learned.",
        Source::Learned(|learned| learned.requests.map(|(number, _)| number.into())),
    ),
    family(
        "nginx_upstream_keepalive_learned_requests_closes",
        "gauge",
        "How many of the last eight closes agree about this number.",
        Source::Learned(|learned| learned.requests.map(|(_, closes)| closes.into())),
    ),
    family(
        "nginx_upstream_keepalive_in_transit",
        "gauge",
        "Connections that are handed over and have not arrived yet.",
        Source::InTransit,
    ),
    family(
        "nginx_upstream_keepalive_asked_total",
        "counter",
        "Questions to other workers for an idle connection.",
        Source::Handover(HandoverCount::Asked),
    ),
    family(
        "nginx_upstream_keepalive_answered_total",
        "counter",
        "Questions that were answered with a connection.",
        Source::Handover(HandoverCount::Answered),
    ),
    family(
        "nginx_upstream_keepalive_dropped_total",
        "counter",
        "Connections from other workers that were not taken over, by why not.",
        Source::Dropped,
    ),
    family(
        "nginx_upstream_http2_carriers",
        "gauge",
        "Connections that carry many requests.",
        Source::Http2Gauge(Http2Gauge::Carriers),
    ),
    family(
        "nginx_upstream_http2_streams",
        "gauge",
        "Requests on them.",
        Source::Http2Gauge(Http2Gauge::Streams),
    ),
    family(
        "nginx_upstream_http2_opened_total",
        "counter",
        "Requests sent over a connection that carries many.",
        Source::Http2(Http2Count::Opened),
    ),
    family(
        "nginx_upstream_http2_refused_total",
        "counter",
        "Requests that the server has not processed.",
        Source::Http2(Http2Count::Refused),
    ),
    family(
        "nginx_upstream_http2_reset_sent_total",
        "counter",
        "Requests reset by nginx.",
        Source::Http2(Http2Count::ResetSent),
    ),
    family(
        "nginx_upstream_http2_reset_received_total",
        "counter",
        "Requests reset by the server, those that it refused left out.",
        Source::Http2(Http2Count::ResetReceived),
    ),
    family(
        "nginx_upstream_http2_goaways_total",
        "counter",
        "GOAWAY frames of servers.",
        Source::Http2(Http2Count::Goaways),
    ),
    family(
        "nginx_upstream_http2_pings_total",
        "counter",
        "PING frames sent to servers.",
        Source::Http2(Http2Count::Pings),
    ),
    family(
        "nginx_upstream_http2_pings_lost_total",
        "counter",
        "PING frames that were not answered in time.",
        Source::Http2(Http2Count::PingsLost),
    ),
    family(
        "nginx_upstream_http2_stalls_total",
        "counter",
        "How often a request body had to wait for the server to allow more.",
        Source::Http2(Http2Count::Stalls),
    ),
    family(
        "nginx_upstream_http2_waits_total",
        "counter",
        "Requests that had to wait because all streams were taken.",
        Source::Http2(Http2Count::Waits),
    ),
    family(
        "nginx_upstream_http2_repeats_total",
        "counter",
        "Requests sent again because the server had not processed them.",
        Source::Http2(Http2Count::Repeats),
    ),
    family("nginx_upstream_queue_size", "gauge", "Requests that wait.", Source::Queue(QueueCount::Size)),
    family(
        "nginx_upstream_queue_limit",
        "gauge",
        "Requests that may wait in each worker.",
        Source::QueueLimit,
    ),
    family(
        "nginx_upstream_queue_requests_total",
        "counter",
        "Requests that have come to wait.",
        Source::Queue(QueueCount::Requests),
    ),
    family(
        "nginx_upstream_queue_overflows_total",
        "counter",
        "Requests for which the queue was full.",
        Source::Queue(QueueCount::Overflows),
    ),
    family(
        "nginx_upstream_queue_timeouts_total",
        "counter",
        "Requests that have waited for too long.",
        Source::Queue(QueueCount::Timeouts),
    ),
    family(
        "nginx_upstream_queue_wait_seconds",
        "histogram",
        "How long requests have waited.",
        Source::QueueTimes,
    ),
    family(
        "nginx_auth_subrequest_decisions_total",
        "counter",
        "Requests, by what was decided about them.",
        Source::Decisions,
    ),
    family(
        "nginx_auth_subrequest_duration_seconds",
        "histogram",
        "How long decisions have taken.",
        Source::AuthTimes,
    ),
];
