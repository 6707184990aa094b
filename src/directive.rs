//! The values of the directives that have parameters, and their defaults.
#![forbid(unsafe_code)]

mod http2;
mod invalid;

use crate::base::clock::Msec;
use crate::base::decimal::decimal;
use crate::http1::keep_alive::Margin;
use crate::pool::{Limit, MAX_CAPACITY};
use crate::queue::MAX_WAITERS;

pub use http2::{Http2, Http2Mode, MAX_CONNECTIONS, MAX_STREAMS};
pub use invalid::{Allowed, Invalid};

/// `keepalive connections [local] [per_server];`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle connections kept per worker; 0 switches the pool off.
    pub connections: usize,
    /// Only requests of the location that opened a connection may reuse it.
    pub local: bool,
    /// The number applies to each server address instead of the whole upstream.
    pub per_server: bool,
}

/// The default since nginx 1.29.7. Earlier versions keep no connections by default.
pub const DEFAULT_SINCE_1_29_7: Keepalive = Keepalive { connections: 32, local: true, per_server: false };

/// `queue number [timeout=time] [status=code];`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait per worker, at least 1.
    pub number: usize,
    /// How long a request may wait, in milliseconds.
    pub timeout: Msec,
    /// The status code of a request that finds the queue full, or has waited for too long.
    pub status: u16,
}

/// `keepalive_drain size [timeout=time];`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveDrain {
    /// How many bytes of an unread response body are read and discarded at most; 0 to close connections instead.
    pub size: u64,
    /// How long that may take, in milliseconds.
    pub timeout: Msec,
}

impl Default for KeepaliveDrain {
    fn default() -> Self {
        Self { size: 64 << 10, timeout: 1000 }
    }
}

/// `keepalive_hint learn | on | off [margin=time];`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveHint {
    /// How much earlier than the server nginx closes a connection; `None` if `Keep-Alive` is ignored.
    pub margin: Option<Margin>,
    /// What the server does not announce is learned: see [`crate::lessons`].
    pub learns: bool,
}

impl Default for KeepaliveHint {
    fn default() -> Self {
        Self { margin: Some(Margin::Share), learns: true }
    }
}

impl Keepalive {
    /// Reads the arguments of `keepalive`: the number, then parameters in any order.
    ///
    /// # Errors
    /// [`Invalid::Argument`] unless the number is decimal and at most [`MAX_CAPACITY`]; [`Invalid::Parameter`] and
    /// [`Invalid::Duplicate`] for the parameters.
    pub fn parse<'a>(
        number: &'a [u8],
        parameters: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, Invalid<'a>> {
        const PARAMETERS: &str = "it must be \"local\" or \"per_server\"";
        let connections = decimal(number).filter(|n| *n <= MAX_CAPACITY);
        let connections =
            connections.ok_or(Invalid::Argument("keepalive", number, Allowed::Number(0, MAX_CAPACITY)))?;
        let mut keepalive = Self { connections, local: false, per_server: false };
        for word in parameters {
            let parameter = match word {
                b"local" => &mut keepalive.local,
                b"per_server" => &mut keepalive.per_server,
                _ => return Err(Invalid::Parameter(word, Allowed::Words(PARAMETERS))),
            };
            if std::mem::replace(parameter, true) {
                return Err(Invalid::Duplicate(word));
            }
        }
        Ok(keepalive)
    }

    /// How many connections the pool keeps; `None` if there is no pool.
    pub fn limit(&self) -> Option<Limit> {
        match self.connections {
            0 => None,
            number if self.per_server => Some(Limit::PerServer(number)),
            number => Some(Limit::Total(number)),
        }
    }
}

impl Queue {
    /// Reads the arguments of `queue`: the number, then parameters in any order. `time` parses a time as nginx does and
    /// returns milliseconds.
    ///
    /// # Errors
    /// [`Invalid::Argument`] unless the number is decimal and from 1 to [`MAX_WAITERS`]; [`Invalid::Value`],
    /// [`Invalid::Parameter`] and [`Invalid::Duplicate`] for the parameters.
    pub fn parse<'a>(
        number: &'a [u8],
        parameters: impl IntoIterator<Item = &'a [u8]>,
        time: impl Fn(&'a [u8]) -> Option<Msec>,
    ) -> Result<Self, Invalid<'a>> {
        const PARAMETERS: &str = "it must be \"timeout=time\" or \"status=code\"";
        const STATUS: &str = "it must be \"status=502\", \"status=503\" or \"status=504\"";
        let limit = decimal(number).filter(|n| (1..=MAX_WAITERS).contains(n));
        let number = limit.ok_or(Invalid::Argument("queue", number, Allowed::Number(1, MAX_WAITERS)))?;
        let (mut timeout, mut status) = (None, None);
        for word in parameters {
            let is_duplicate = if let Some(value) = word.strip_prefix(b"timeout=") {
                let value = time(value).filter(|time| *time > 0).ok_or(Invalid::Value(word, TIMEOUT))?;
                timeout.replace(value).is_some()
            } else if let Some(value) = word.strip_prefix(b"status=") {
                let known = STATUSES.into_iter().find(|(text, _)| *text == value);
                let value = known.ok_or(Invalid::Value(word, Allowed::Words(STATUS)))?;
                status.replace(value.1).is_some()
            } else {
                return Err(Invalid::Parameter(word, Allowed::Words(PARAMETERS)));
            };
            if is_duplicate {
                return Err(Invalid::Duplicate(word));
            }
        }
        Ok(Self { number, timeout: timeout.unwrap_or(60_000), status: status.unwrap_or(502) })
    }
}

impl KeepaliveDrain {
    /// Reads the arguments of `keepalive_drain`: the size, then optionally the timeout. `bytes` and `time` parse a size
    /// and a time as nginx does and return bytes and milliseconds.
    ///
    /// # Errors
    /// [`Invalid::Argument`] unless the first argument is a size; [`Invalid::Value`], [`Invalid::Parameter`] and
    /// [`Invalid::Duplicate`] for the timeout.
    pub fn parse<'a>(
        size: &'a [u8],
        parameters: impl IntoIterator<Item = &'a [u8]>,
        bytes: impl Fn(&'a [u8]) -> Option<u64>,
        time: impl Fn(&'a [u8]) -> Option<Msec>,
    ) -> Result<Self, Invalid<'a>> {
        const SIZE: Allowed = Allowed::Words("it must be a size, such as \"64k\", or \"0\"");
        const PARAMETER: Allowed = Allowed::Words("it must be \"timeout=time\"");
        let size = bytes(size).ok_or(Invalid::Argument("keepalive_drain", size, SIZE))?;
        let mut timeout = None;
        for word in parameters {
            let value = word.strip_prefix(b"timeout=").ok_or(Invalid::Parameter(word, PARAMETER))?;
            let value = time(value).filter(|time| *time > 0).ok_or(Invalid::Value(word, TIMEOUT))?;
            if timeout.replace(value).is_some() {
                return Err(Invalid::Duplicate(word));
            }
        }
        Ok(Self { size, timeout: timeout.unwrap_or(Self::default().timeout) })
    }
}

impl KeepaliveHint {
    /// Reads the arguments of `keepalive_hint`: `learn`, `on` or `off`, and unless it is off, optionally the margin. `time`
    /// parses a time as nginx does and returns milliseconds.
    ///
    /// # Errors
    /// [`Invalid::Argument`] unless the first argument is one of these; [`Invalid::Value`], [`Invalid::Parameter`] and
    /// [`Invalid::Duplicate`] for the margin.
    pub fn parse<'a>(
        switch: &'a [u8],
        parameters: impl IntoIterator<Item = &'a [u8]>,
        time: impl Fn(&'a [u8]) -> Option<Msec>,
    ) -> Result<Self, Invalid<'a>> {
        const SWITCH: Allowed = Allowed::Words("it must be \"learn\", \"on\" or \"off\"");
        const MARGIN: Allowed = Allowed::Words("it must be a time, such as \"margin=500ms\"");
        let (on, learns) = match switch {
            b"learn" => (true, true),
            b"on" => (true, false),
            b"off" => (false, false),
            _ => return Err(Invalid::Argument("keepalive_hint", switch, SWITCH)),
        };
        let allowed = Allowed::Words(if on { "it must be \"margin=time\"" } else { NO_PARAMETERS });
        let mut margin = None;
        for word in parameters {
            let value = word.strip_prefix(b"margin=").filter(|_| on);
            let value = value.ok_or(Invalid::Parameter(word, allowed))?;
            if margin.replace(Margin::Fixed(time(value).ok_or(Invalid::Value(word, MARGIN))?)).is_some() {
                return Err(Invalid::Duplicate(word));
            }
        }
        Ok(Self { margin: on.then(|| margin.unwrap_or_default()), learns })
    }
}

/// The values of the parameter `timeout`.
const TIMEOUT: Allowed = Allowed::Words("it must be a time above 0, such as \"timeout=10s\"");

/// What is allowed after `off`.
const NO_PARAMETERS: &str = "\"off\" takes no parameters";

/// The status codes that `queue` accepts.
const STATUSES: [(&[u8], u16); 3] = [(b"502", 502), (b"503", 503), (b"504", 504)];

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Keepalive = Keepalive { connections: 0, local: false, per_server: false };

    fn parse<'a>(number: &'a str, parameters: &[&'a str]) -> Result<Keepalive, String> {
        let parameters: Vec<&[u8]> = parameters.iter().map(|word| word.as_bytes()).collect();
        Keepalive::parse(number.as_bytes(), parameters).map_err(|err| err.to_string())
    }

    #[test]
    fn reads_what_nginx_reads() {
        assert_eq!(parse("32", &[]), Ok(Keepalive { connections: 32, ..OFF }));
        assert_eq!(parse("8", &["local"]), Ok(Keepalive { connections: 8, local: true, ..OFF }));
        assert_eq!(parse("0", &[]), Ok(OFF));
        assert_eq!(OFF.limit(), None);
    }

    #[test]
    fn takes_parameters_in_any_order() {
        let both = Keepalive { connections: 2, local: true, per_server: true };
        assert_eq!(parse("2", &["local", "per_server"]), Ok(both));
        assert_eq!(parse("2", &["per_server", "local"]), Ok(both));
        assert_eq!(both.limit(), Some(Limit::PerServer(2)));
    }

    #[test]
    fn refuses_what_is_no_number() {
        for word in ["x", "-1", "", "1k", " 1", "1.5", "+1", "99999999999999999999999999", "4294967295"] {
            let said = format!(
                "invalid value \"{word}\" in \"keepalive\" directive, it must be a number from 0 to 4294967294"
            );
            assert_eq!(parse(word, &[]), Err(said));
        }
    }

    #[test]
    fn refuses_unknown_and_repeated_parameters() {
        assert_eq!(
            parse("1", &["lokal"]),
            Err("invalid parameter \"lokal\", it must be \"local\" or \"per_server\"".into())
        );
        assert_eq!(parse("1", &["local", "local"]), Err("duplicate parameter \"local\"".into()));
    }

    fn queue<'a>(number: &'a str, parameters: &[&'a str]) -> Result<Queue, String> {
        let parameters: Vec<&[u8]> = parameters.iter().map(|word| word.as_bytes()).collect();
        Queue::parse(number.as_bytes(), parameters, decimal).map_err(|err| err.to_string())
    }

    #[test]
    fn queue_takes_its_parameters_in_any_order() {
        assert_eq!(queue("7", &[]), Ok(Queue { number: 7, timeout: 60_000, status: 502 }));
        let both = Queue { number: 1, timeout: 500, status: 503 };
        assert_eq!(queue("1", &["timeout=500", "status=503"]), Ok(both));
        assert_eq!(queue("1", &["status=503", "timeout=500"]), Ok(both));
    }

    #[test]
    fn queue_refuses_what_it_cannot_have() {
        for word in ["0", "-1", "x", "", "4294967295", "1k"] {
            let said = format!(
                "invalid value \"{word}\" in \"queue\" directive, it must be a number from 1 to 4294967294"
            );
            assert_eq!(queue(word, &[]), Err(said));
        }
        for word in ["timeout=0", "timeout=", "timeout=x"] {
            let said =
                format!("invalid value \"{word}\", it must be a time above 0, such as \"timeout=10s\"");
            assert_eq!(queue("1", &[word]), Err(said));
        }
        for word in ["status=999", "status=", "status=200", "status=429"] {
            let said = format!(
                "invalid value \"{word}\", it must be \"status=502\", \"status=503\" or \"status=504\""
            );
            assert_eq!(queue("1", &[word]), Err(said));
        }
        let said = "invalid parameter \"slow\", it must be \"timeout=time\" or \"status=code\"";
        assert_eq!(queue("1", &["slow"]), Err(said.into()));
        assert_eq!(
            queue("1", &["status=502", "status=504"]),
            Err("duplicate parameter \"status=504\"".into())
        );
    }

    #[test]
    fn keepalive_drain_takes_a_size_and_a_timeout() {
        let drain = |words: &[&'static str]| {
            let parameters = words[1..].iter().map(|word| word.as_bytes());
            let bytes = |word| decimal(word).map(|size| size as u64);
            KeepaliveDrain::parse(words[0].as_bytes(), parameters, bytes, decimal)
                .map_err(|err| err.to_string())
        };
        assert_eq!(drain(&["0"]), Ok(KeepaliveDrain { size: 0, timeout: 1000 }));
        assert_eq!(drain(&["7", "timeout=50"]), Ok(KeepaliveDrain { size: 7, timeout: 50 }));
        let said = "invalid value \"x\" in \"keepalive_drain\" directive, it must be a size, such as \"64k\", or \"0\"";
        assert_eq!(drain(&["x"]), Err(said.into()));
        let said = "invalid value \"timeout=0\", it must be a time above 0, such as \"timeout=10s\"";
        assert_eq!(drain(&["7", "timeout=0"]), Err(said.into()));
        assert_eq!(drain(&["7", "x"]), Err("invalid parameter \"x\", it must be \"timeout=time\"".into()));
        assert_eq!(drain(&["7", "timeout=1", "timeout=1"]), Err("duplicate parameter \"timeout=1\"".into()));
    }

    #[test]
    fn keepalive_hint_takes_a_switch_and_a_margin() {
        let hint = |words: &[&'static str]| {
            let parameters = words[1..].iter().map(|word| word.as_bytes());
            KeepaliveHint::parse(words[0].as_bytes(), parameters, decimal).map_err(|err| err.to_string())
        };
        let is = |margin, learns| Ok(KeepaliveHint { margin, learns });
        assert_eq!(hint(&["on"]), is(Some(Margin::Share), false));
        assert_eq!(hint(&["learn"]), Ok(KeepaliveHint::default()));
        assert_eq!(hint(&["learn", "margin=200"]), is(Some(Margin::Fixed(200)), true));
        assert_eq!(hint(&["on", "margin=0"]), is(Some(Margin::Fixed(0)), false));
        assert_eq!(hint(&["off"]), is(None, false));
        let refuses = |words: &[&'static str], said: &str| assert_eq!(hint(words), Err(said.into()));
        refuses(
            &["yes"],
            "invalid value \"yes\" in \"keepalive_hint\" directive, it must be \"learn\", \"on\" or \"off\"",
        );
        refuses(
            &["on", "margin=x"],
            "invalid value \"margin=x\", it must be a time, such as \"margin=500ms\"",
        );
        refuses(&["on", "x"], "invalid parameter \"x\", it must be \"margin=time\"");
        refuses(&["off", "margin=1"], "invalid parameter \"margin=1\", \"off\" takes no parameters");
        assert_eq!(hint(&["on", "margin=1", "margin=1"]), Err("duplicate parameter \"margin=1\"".into()));
    }
}
