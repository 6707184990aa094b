//! The values of the directives that have parameters, and their defaults.
#![forbid(unsafe_code)]

mod http2;

use std::fmt;

use crate::base::clock::Msec;
use crate::base::decimal::decimal;
use crate::http1::keep_alive::Margin;
use crate::pool::{Limit, MAX_CAPACITY};
use crate::queue::MAX_WAITERS;

pub use http2::{Http2, Http2Mode, MAX_CONNECTIONS, MAX_STREAMS};

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

/// What is wrong with the arguments of a directive. Displayed in nginx's style; nginx adds the file
/// and the line.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid<'a> {
    /// An argument is not valid. Fields: the directive, the argument.
    Argument(&'static str, &'a [u8]),
    /// An argument is not a header name, or one that the directive does not accept. Fields: the directive, the argument.
    Header(&'static str, &'a [u8]),
    /// An argument is there twice. Fields: the directive, the argument.
    Repeated(&'static str, &'a [u8]),
    /// The value of a parameter is not valid.
    Value(&'a [u8]),
    /// The directive has no such parameter.
    Parameter(&'a [u8]),
    /// A parameter is there twice.
    Duplicate(&'a [u8]),
}

impl fmt::Display for Invalid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |word| String::from_utf8_lossy(word);
        match self {
            Self::Argument(directive, word) => {
                write!(f, "invalid value \"{}\" in \"{directive}\" directive", text(word))
            }
            Self::Header(directive, word) => {
                write!(f, "invalid header name \"{}\" in \"{directive}\" directive", text(word))
            }
            Self::Repeated(directive, word) => {
                write!(f, "duplicate value \"{}\" in \"{directive}\" directive", text(word))
            }
            Self::Value(word) => write!(f, "invalid value \"{}\"", text(word)),
            Self::Parameter(word) => write!(f, "invalid parameter \"{}\"", text(word)),
            Self::Duplicate(word) => write!(f, "duplicate parameter \"{}\"", text(word)),
        }
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
        let connections = decimal(number).filter(|n| *n <= MAX_CAPACITY);
        let connections = connections.ok_or(Invalid::Argument("keepalive", number))?;
        let mut keepalive = Self { connections, local: false, per_server: false };
        for word in parameters {
            let parameter = match word {
                b"local" => &mut keepalive.local,
                b"per_server" => &mut keepalive.per_server,
                _ => return Err(Invalid::Parameter(word)),
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
        let limit = decimal(number).filter(|n| (1..=MAX_WAITERS).contains(n));
        let number = limit.ok_or(Invalid::Argument("queue", number))?;
        let (mut timeout, mut status) = (None, None);
        for word in parameters {
            let is_duplicate = if let Some(value) = word.strip_prefix(b"timeout=") {
                let value = time(value).filter(|time| *time > 0).ok_or(Invalid::Value(word))?;
                timeout.replace(value).is_some()
            } else if let Some(value) = word.strip_prefix(b"status=") {
                let value =
                    STATUSES.into_iter().find(|(text, _)| *text == value).ok_or(Invalid::Value(word))?;
                status.replace(value.1).is_some()
            } else {
                return Err(Invalid::Parameter(word));
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
        let size = bytes(size).ok_or(Invalid::Argument("keepalive_drain", size))?;
        let mut timeout = None;
        for word in parameters {
            let value = word.strip_prefix(b"timeout=").ok_or(Invalid::Parameter(word))?;
            let value = time(value).filter(|time| *time > 0).ok_or(Invalid::Value(word))?;
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
        let (on, learns) = match switch {
            b"learn" => (true, true),
            b"on" => (true, false),
            b"off" => (false, false),
            _ => return Err(Invalid::Argument("keepalive_hint", switch)),
        };
        let mut margin = None;
        for word in parameters {
            let value = word.strip_prefix(b"margin=").filter(|_| on).ok_or(Invalid::Parameter(word))?;
            if margin.replace(Margin::Fixed(time(value).ok_or(Invalid::Value(word))?)).is_some() {
                return Err(Invalid::Duplicate(word));
            }
        }
        Ok(Self { margin: on.then(|| margin.unwrap_or_default()), learns })
    }
}

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
            let said = format!("invalid value \"{word}\" in \"keepalive\" directive");
            assert_eq!(parse(word, &[]), Err(said));
        }
    }

    #[test]
    fn refuses_unknown_and_repeated_parameters() {
        assert_eq!(parse("1", &["lokal"]), Err("invalid parameter \"lokal\"".into()));
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
            assert_eq!(queue(word, &[]), Err(format!("invalid value \"{word}\" in \"queue\" directive")));
        }
        for word in ["timeout=0", "timeout=", "timeout=x", "status=999", "status=", "status=200"] {
            assert_eq!(queue("1", &[word]), Err(format!("invalid value \"{word}\"")));
        }
        assert_eq!(queue("1", &["slow"]), Err("invalid parameter \"slow\"".into()));
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
        assert_eq!(drain(&["x"]), Err("invalid value \"x\" in \"keepalive_drain\" directive".into()));
        assert_eq!(drain(&["7", "timeout=0"]), Err("invalid value \"timeout=0\"".into()));
        assert_eq!(drain(&["7", "x"]), Err("invalid parameter \"x\"".into()));
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
        assert_eq!(hint(&["yes"]), Err("invalid value \"yes\" in \"keepalive_hint\" directive".into()));
        assert_eq!(hint(&["on", "margin=x"]), Err("invalid value \"margin=x\"".into()));
        assert_eq!(hint(&["on", "x"]), Err("invalid parameter \"x\"".into()));
        assert_eq!(hint(&["off", "margin=1"]), Err("invalid parameter \"margin=1\"".into()));
        assert_eq!(hint(&["on", "margin=1", "margin=1"]), Err("duplicate parameter \"margin=1\"".into()));
    }
}
