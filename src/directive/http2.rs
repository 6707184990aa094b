//! `http2`: many requests over one connection to a server.
#![forbid(unsafe_code)]

use crate::base::decimal::decimal;

use super::{Allowed, Invalid, NO_PARAMETERS};

/// `http2 on | off | auto [streams=number] [connections=number];`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Whether connections carry many requests.
    pub mode: Http2Mode,
    /// How many requests one connection carries at a time at most, from 1 to [`MAX_STREAMS`]. The server may allow fewer
    /// (`SETTINGS_MAX_CONCURRENT_STREAMS`, RFC 9113 section 6.5.2).
    pub streams: u32,
    /// How many such connections to one server a worker opens at most, from 1 to [`MAX_CONNECTIONS`].
    pub connections: u32,
}

/// The first argument of `http2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2Mode {
    /// Each connection carries one request at a time.
    #[default]
    Off,
    /// The servers speak HTTP/2: over plaintext by prior knowledge (RFC 9113 section 3.3), over TLS by ALPN (section 3.2).
    On,
    /// HTTP/2 over TLS if the server chooses it by ALPN, otherwise HTTP/1.1.
    Auto,
}

/// The largest `streams`. RFC 9113 allows 2^30 streams in the life of a connection; so many at a time would be no use.
pub const MAX_STREAMS: u32 = 65_536;

/// The largest `connections`.
pub const MAX_CONNECTIONS: u32 = 1024;

impl Default for Http2 {
    fn default() -> Self {
        Self { mode: Http2Mode::Off, streams: 100, connections: 2 }
    }
}

impl Http2 {
    /// Reads the arguments of `http2`: the mode, and with `on` and `auto` parameters in any order.
    ///
    /// # Errors
    /// [`Invalid::Argument`] unless the first argument is `on`, `off` or `auto`; [`Invalid::Value`] unless a number is decimal
    /// and in its range; [`Invalid::Parameter`] and [`Invalid::Duplicate`] for the parameters.
    pub fn parse<'a>(
        mode: &'a [u8],
        parameters: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, Invalid<'a>> {
        const MODE: Allowed = Allowed::Words("it must be \"on\", \"off\" or \"auto\"");
        const PARAMETERS: &str = "it must be \"streams=number\" or \"connections=number\"";
        let mode = match mode {
            b"on" => Http2Mode::On,
            b"off" => Http2Mode::Off,
            b"auto" => Http2Mode::Auto,
            _ => return Err(Invalid::Argument("http2", mode, MODE)),
        };
        let (mut streams, mut connections) = (None, None);
        for word in parameters {
            let (place, value, largest) = if mode == Http2Mode::Off {
                return Err(Invalid::Parameter(word, Allowed::Words(NO_PARAMETERS)));
            } else if let Some(value) = word.strip_prefix(b"streams=") {
                (&mut streams, value, MAX_STREAMS)
            } else if let Some(value) = word.strip_prefix(b"connections=") {
                (&mut connections, value, MAX_CONNECTIONS)
            } else {
                return Err(Invalid::Parameter(word, Allowed::Words(PARAMETERS)));
            };
            let number = decimal(value).and_then(|number| u32::try_from(number).ok());
            let number = number.filter(|number| (1..=largest).contains(number));
            let number = number.ok_or(Invalid::Value(word, Allowed::Number(1, largest as usize)))?;
            if place.replace(number).is_some() {
                return Err(Invalid::Duplicate(word));
            }
        }
        let default = Self::default();
        Ok(Self {
            mode,
            streams: streams.unwrap_or(default.streams),
            connections: connections.unwrap_or(default.connections),
        })
    }

    /// Whether a connection may carry many requests.
    pub fn is_on(&self) -> bool {
        self.mode != Http2Mode::Off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http2<'a>(mode: &'a str, parameters: &[&'a str]) -> Result<Http2, String> {
        let parameters: Vec<&[u8]> = parameters.iter().map(|word| word.as_bytes()).collect();
        Http2::parse(mode.as_bytes(), parameters).map_err(|err| err.to_string())
    }

    #[test]
    fn is_off_by_default() {
        assert_eq!(http2("off", &[]), Ok(Http2::default()));
        assert!(!Http2::default().is_on());
    }

    #[test]
    fn takes_its_parameters_in_any_order() {
        let on = Http2 { mode: Http2Mode::On, streams: 100, connections: 2 };
        assert_eq!(http2("on", &[]), Ok(on));
        assert_eq!(http2("auto", &[]), Ok(Http2 { mode: Http2Mode::Auto, ..on }));
        let both = Http2 { streams: 7, connections: 1, ..on };
        assert_eq!(http2("on", &["streams=7", "connections=1"]), Ok(both));
        assert_eq!(http2("on", &["connections=1", "streams=7"]), Ok(both));
        let largest = Http2 { streams: 65_536, connections: 1024, ..on };
        assert_eq!(http2("on", &["streams=65536", "connections=1024"]), Ok(largest));
    }

    #[test]
    fn refuses_numbers_out_of_range() {
        for number in ["0", "", "-1", "x", "1k", " 1", "65537", "99999999999999999999", "4294967297"] {
            for (name, most) in [("streams", 65_536), ("connections", 1024)] {
                let word = format!("{name}={number}");
                let said = format!("invalid value \"{word}\", it must be a number from 1 to {most}");
                assert_eq!(http2("on", &[&word]), Err(said.clone()));
                assert_eq!(http2("auto", &[&word]), Err(said));
            }
        }
        let said = "invalid value \"connections=1025\", it must be a number from 1 to 1024";
        assert_eq!(http2("auto", &["connections=1025"]), Err(said.into()));
    }

    #[test]
    fn refuses_what_it_does_not_know_and_what_is_there_twice() {
        for mode in ["yes", "On"] {
            let said = format!(
                "invalid value \"{mode}\" in \"http2\" directive, it must be \"on\", \"off\" or \"auto\""
            );
            assert_eq!(http2(mode, &[]), Err(said));
        }
        let said = "invalid parameter \"stream=1\", it must be \"streams=number\" or \"connections=number\"";
        assert_eq!(http2("on", &["stream=1"]), Err(said.into()));
        assert_eq!(http2("on", &["streams=1", "streams=2"]), Err("duplicate parameter \"streams=2\"".into()));
        assert_eq!(
            http2("on", &["connections=1", "connections=1"]),
            Err("duplicate parameter \"connections=1\"".into())
        );
    }

    #[test]
    fn takes_no_parameters_when_it_is_off() {
        for word in ["streams=1", "connections=1"] {
            let said = format!("invalid parameter \"{word}\", \"off\" takes no parameters");
            assert_eq!(http2("off", &[word]), Err(said));
        }
    }
}
