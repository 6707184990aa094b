//! The `Keep-Alive` header of a response: how long the server keeps the connection (RFC 2068, section 19.7.1.1; no later
//! RFC has it, but servers send it).
#![forbid(unsafe_code)]

use crate::base::clock::Msec;
use crate::base::decimal::decimal;

/// What a server announces about a connection in `Keep-Alive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// `timeout=N`: how long the server keeps the connection idle, in milliseconds.
    pub timeout: Option<Msec>,
    /// `max=N`: how many more requests the server answers on it.
    pub requests: Option<usize>,
}

impl Hint {
    /// Reads a value that is written as most servers write it: `timeout=N`, or `timeout=N, max=N`. `None` if it is written
    /// otherwise.
    pub fn of_usual(value: &[u8]) -> Option<Self> {
        let (seconds, rest) = number(value.strip_prefix(b"timeout=")?)?;
        let requests = match rest {
            [] => None,
            rest => {
                let (requests, rest) = number(rest.strip_prefix(b", max=")?)?;
                Some(requests).filter(|_| rest.is_empty()).map(Some)?
            }
        };
        Some(Self { timeout: Some(seconds * 1000), requests })
    }

    /// Reads the value of a header: parameters separated by commas, in upper or lower case. Unknown or malformed
    /// parameters are ignored. The smallest of several values counts.
    pub fn read(&mut self, value: &[u8]) {
        for parameter in value.split(|byte| *byte == b',') {
            let mut halves = parameter.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
            let (Some(name), Some(number)) = (halves.next(), halves.next().and_then(decimal)) else {
                continue;
            };
            if name.eq_ignore_ascii_case(b"timeout") {
                // A value that does not fit is no limit.
                smallest(&mut self.timeout, number.checked_mul(1000));
            } else if name.eq_ignore_ascii_case(b"max") {
                smallest(&mut self.requests, Some(number));
            }
        }
    }
}

/// The number at the beginning of some bytes, and the rest. `None` if there is none, or one that is very large.
#[inline(always)]
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = bytes.split_at_checked(digits)?;
    let is_short = (1..=MOST_DIGITS).contains(&digits);
    is_short.then(|| (number.iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0')), rest))
}

/// With so many digits nothing overflows.
const MOST_DIGITS: usize = 9;

/// `keepalive_hint`: how much earlier than the server nginx closes a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Margin {
    /// The round trip, plus a tenth of the announced time, but at most a second. The round trip is needed because the server
    /// counts from the time it sent the response, nginx from the time it read it, and the next request must arrive in
    /// time. The tenth is for busy workers and servers.
    #[default]
    Share,
    /// A fixed time, in milliseconds.
    Fixed(Msec),
}

impl Margin {
    /// The upper limit of the tenth in [`Margin::Share`], in milliseconds.
    const LARGEST: Msec = 1000;

    /// How long the connection may be idle if the server announced `announced`. `round_trip` is called only if it is
    /// needed. All times are in milliseconds. `None` if no time is left.
    pub fn left(self, announced: Msec, round_trip: impl FnOnce() -> Msec) -> Option<Msec> {
        let margin = match self {
            Self::Share => (announced / 10).min(Self::LARGEST).saturating_add(round_trip()),
            Self::Fixed(margin) => margin,
        };
        announced.checked_sub(margin).filter(|left| *left > 0)
    }
}

/// Keeps the smaller of two limits. `None` is no limit.
fn smallest(known: &mut Option<usize>, new: Option<usize>) {
    *known = (*known).into_iter().chain(new).min();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(values: &[&str]) -> (Option<Msec>, Option<usize>) {
        let mut hint = Hint::default();
        values.iter().for_each(|value| hint.read(value.as_bytes()));
        (hint.timeout, hint.requests)
    }

    #[test]
    fn reads_what_servers_send() {
        assert_eq!(read(&["timeout=5"]), (Some(5000), None));
        assert_eq!(read(&["timeout=5, max=100"]), (Some(5000), Some(100)));
        assert_eq!(read(&["max=7,timeout=65"]), (Some(65_000), Some(7)));
        assert_eq!(read(&["Timeout = 5 ,\tMAX= 0"]), (Some(5000), Some(0)));
        assert_eq!(read(&["timeout=0"]), (Some(0), None));
    }

    #[test]
    fn ignores_what_is_broken() {
        for value in [
            "",
            ",",
            "=",
            "timeout",
            "timeout=",
            "timeout=x",
            "timeout=-5",
            "timeout=5.5",
            "timeout=5s",
            "=5",
            "timeout==5",
            "timeout=5=6",
            "time out=5",
            "300",
            "a=b",
            "timeout=99999999999999999999999",
            "max=1e3",
        ] {
            assert_eq!(read(&[value]), (None, None), "{value}");
        }
        assert_eq!(read(&["timeout=x, max=3"]), (None, Some(3)));
        // Seconds that do not fit into milliseconds.
        assert_eq!(read(&["timeout=18446744073709551615"]), (None, None));
    }

    #[test]
    fn of_several_the_smallest_counts() {
        assert_eq!(read(&["timeout=9, timeout=5, timeout=7"]), (Some(5000), None));
        assert_eq!(read(&["timeout=9", "max=4", "timeout=x", "timeout=3, max=8"]), (Some(3000), Some(4)));
    }

    #[test]
    fn a_share_is_left_of_whatever_the_server_says() {
        let left = |seconds: Msec, round_trip| Margin::Share.left(seconds * 1000, || round_trip);
        assert_eq!(
            [1, 2, 5, 10, 60].map(|seconds| left(seconds, 1)),
            [899, 1799, 4499, 8999, 58_999].map(Some)
        );
        assert_eq!(
            [0, 1, 200, 899, 900].map(|trip| left(1, trip)),
            [Some(900), Some(899), Some(700), Some(1), None]
        );
        assert_eq!(left(0, 0), None);
        assert_eq!(Margin::Share.left(Msec::MAX, || Msec::MAX), None);
    }

    #[test]
    fn a_margin_that_was_written_holds() {
        let left =
            |announced, margin| Margin::Fixed(margin).left(announced, || unreachable!("it is not asked for"));
        assert_eq!(left(5000, 1000), Some(4000));
        assert_eq!(left(1000, 999), Some(1));
        assert_eq!(left(1000, 1000), None);
        assert_eq!(left(1000, Msec::MAX), None);
        assert_eq!(left(1000, 0), Some(1000));
        assert_eq!(left(0, 0), None);
    }

    #[test]
    fn the_usual_values_are_read_in_short() {
        let usual = |value: &str| Hint::of_usual(value.as_bytes()).map(|hint| (hint.timeout, hint.requests));
        assert_eq!(usual("timeout=5"), Some((Some(5000), None)));
        assert_eq!(usual("timeout=75, max=1000"), Some((Some(75_000), Some(1000))));
        assert_eq!(
            usual("timeout=999999999, max=999999999"),
            Some((Some(999_999_999_000), Some(999_999_999)))
        );
        for other in [
            "",
            "timeout=",
            "timeout=5,max=3",
            "timeout=5, max=",
            "timeout=5, max=3 ",
            "timeout=5,",
            "max=3",
            "timeout=1234567890",
        ] {
            assert_eq!(usual(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_in_short_is_what_is_read(value in "(timeout=)?[0-9]{0,10}(, max=[0-9]{0,3})?[a-z,= ]?") {
            let mut hint = Hint::default();
            hint.read(value.as_bytes());
            if let Some(usual) = Hint::of_usual(value.as_bytes()) {
                prop_assert_eq!(usual, hint);
            }
        }

        #[test]
        fn any_bytes_will_do(value in prop::collection::vec(any::<u8>(), 0..64)) {
            Hint::default().read(&value);
        }
    }
}
