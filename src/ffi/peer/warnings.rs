//! Warnings about a pool that does not work as configured. Each is written once per upstream and configuration.

use std::ffi::CStr;

use nginx_sys::{ngx_log_error_core, ngx_str_t, NGX_LOG_WARN};

use crate::base::clock::Msec;
use crate::http1::keep_alive::Margin;
use crate::metrics::{Cause, End};

use crate::ffi::shared::main_conf::MainConf;
use crate::ffi::state::hints;
use crate::ffi::state::peer_data::PeerData;
use crate::ffi::state::upstream::RoundTrip;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Warning {
    Http10,
    RequestClose,
    ServerHttp10,
    ServerCloses,
    FastcgiClose,
    HintIsShorter,
    ClosesAtOnce,
    MarginIsLonger,
    RoundTripIsLonger,
    StatefulAuth,
    NtlmHttp2,
}

impl Warning {
    /// The cause of a hint about the upstream, if it becomes one when there are more such connections.
    fn cause(self) -> Option<Cause> {
        match self {
            Self::Http10 => Some(Cause::RequestHttp10),
            Self::RequestClose => Some(Cause::RequestClose),
            Self::ServerHttp10 => Some(Cause::ServerHttp10),
            Self::ServerCloses => Some(Cause::ServerClose),
            Self::FastcgiClose => Some(Cause::FastcgiClose),
            Self::StatefulAuth => Some(Cause::StatefulAuth),
            _ => None,
        }
    }

    /// The format of the line in the error log.
    fn text(self) -> &'static CStr {
        match self {
            Self::Http10 => c"keepalive is on for upstream \"%V\", but requests are sent with HTTP/1.0; set proxy_http_version 1.1 and proxy_set_header Connection \"\"",
            Self::RequestClose => c"keepalive is on for upstream \"%V\", but requests are sent with \"Connection: close\"; set proxy_set_header Connection \"\"",
            Self::ServerHttp10 => c"keepalive is on for upstream \"%V\", but the server answers with HTTP/1.0",
            Self::ServerCloses => c"keepalive is on for upstream \"%V\", but the server answers \"Connection: close\"",
            Self::FastcgiClose => c"keepalive is on for upstream \"%V\", but requests ask the server to close; set fastcgi_keep_conn on",
            Self::StatefulAuth => c"keepalive is on for upstream \"%V\", but connections are authenticated by NTLM or Negotiate, and closed; set ntlm",
            Self::NtlmHttp2 => c"ntlm is on for upstream \"%V\", but a client of HTTP/2 or HTTP/3 has authenticated, and such connections are closed",
            Self::HintIsShorter => {
                c"keepalive_timeout %M%s of upstream \"%V\" is longer than the %M%s that the server announces"
            }
            Self::ClosesAtOnce => {
                c"keepalive is on for upstream \"%V\", but the server announces \"Keep-Alive: timeout=0\": no connection is used again"
            }
            Self::MarginIsLonger => {
                c"keepalive_hint margin=%M%s of upstream \"%V\" leaves nothing of the %M%s that the server announces: no connection is used again"
            }
            Self::RoundTripIsLonger => {
                c"a round trip of %M%s to upstream \"%V\" leaves nothing of the %M%s that the server announces: no connection is used again"
            }
        }
    }
}

/// Writes the warning the first time, and notes the cause for the hint. Returns `end`.
#[cold]
pub(crate) fn warn(kp: &PeerData, warning: Warning, end: End) -> End {
    if let Some(cause) = warning.cause() {
        hints::note(kp.upstream(), cause);
    }
    write_first(kp, warning);
    end
}

/// Writes the warning the first time.
pub(super) fn write_first(kp: &PeerData, warning: Warning) {
    if is_first(kp, warning) {
        let name = upstream_name(kp);
        // SAFETY: the log of a live request; `%V` takes a string of nginx.
        unsafe {
            ngx_log_error_core(NGX_LOG_WARN as usize, kp.request().log(), 0, warning.text().as_ptr(), name);
        }
    }
}

/// Warns that the server closes idle connections before `keepalive_timeout`, both in milliseconds.
#[cold]
pub(crate) fn warn_of_hint(kp: &PeerData, timeout: Msec, announced: Msec) {
    warn_of_times(kp, Warning::HintIsShorter, timeout, announced);
}

/// Warns that nothing is left of the time for which the server keeps idle connections, in milliseconds.
#[cold]
pub(crate) fn warn_of_no_time(
    kp: &PeerData,
    margin: Option<Margin>,
    announced: Option<Msec>,
    round_trip: Option<RoundTrip>,
) {
    let announced = announced.unwrap_or(0);
    match (announced, margin, round_trip) {
        (0, ..) => {
            warn(kp, Warning::ClosesAtOnce, End::Hint);
        }
        (_, Some(Margin::Fixed(margin)), _) => {
            warn_of_times(kp, Warning::MarginIsLonger, margin, announced);
        }
        (_, _, round_trip) => {
            let round_trip = round_trip.map_or(0, |it| it.get().into());
            warn_of_times(kp, Warning::RoundTripIsLonger, round_trip, announced);
        }
    }
}

/// A warning about a time of ours and one that the server announces, in milliseconds.
#[cold]
fn warn_of_times(kp: &PeerData, warning: Warning, ours: Msec, announced: Msec) {
    if is_first(kp, warning) {
        let name = upstream_name(kp);
        let ((ours, its_unit), (announced, unit)) = (with_unit(ours), with_unit(announced));
        // SAFETY: the log of a live request; `%M` takes a time in milliseconds, `%s` a string that ends with a null byte, `%V` a string of nginx.
        unsafe {
            ngx_log_error_core(
                NGX_LOG_WARN as usize,
                kp.request().log(),
                0,
                warning.text().as_ptr(),
                ours,
                its_unit.as_ptr(),
                name,
                announced,
                unit.as_ptr(),
            );
        }
    }
}

fn is_first(kp: &PeerData, warning: Warning) -> bool {
    let generation = MainConf::of(kp.request()).and_then(|main| main.zone.generation());
    generation.is_some_and(|it| it.warns(kp.upstream().number.get(), warning as u32))
}

fn upstream_name(kp: &PeerData) -> *const ngx_str_t {
    // SAFETY: the live request keeps the cycle of its upstream alive; tells an address, and makes no reference.
    unsafe { &raw const (*kp.upstream().us.as_ptr()).host }
}

/// A time and its unit, as in a configuration.
fn with_unit(time: Msec) -> (Msec, &'static CStr) {
    match (time / 1000, time % 1000) {
        (seconds, 0) => (seconds, c"s"),
        _ => (time, c"ms"),
    }
}
