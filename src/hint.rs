//! The `Keep-Alive` header of a response: what the server says of its connection (RFC 2068, section 19.7.1.1; it is in
//! no later RFC, but servers send it).
#![forbid(unsafe_code)]

use crate::lifetime::Msec;

/// What a server says of a connection that it has answered on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// `timeout=N`: it closes the connection when that is idle for so long, in milliseconds.
    pub timeout: Option<Msec>,
    /// `max=N`: it answers so many more requests on it.
    pub requests: Option<usize>,
}

impl Hint {
    /// Adds the value of a header: parameters with commas between them, in any case. Those that are unknown or broken are
    /// passed over, and of several the smallest counts.
    pub fn read(&mut self, value: &[u8]) {
        for parameter in value.split(|byte| *byte == b',') {
            let mut halves = parameter.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
            let (Some(name), Some(number)) = (halves.next(), halves.next().and_then(decimal)) else {
                continue;
            };
            if name.eq_ignore_ascii_case(b"timeout") {
                // What is too large to be counted is no limit.
                smallest(&mut self.timeout, number.checked_mul(1000));
            } else if name.eq_ignore_ascii_case(b"max") {
                smallest(&mut self.requests, Some(number));
            }
        }
    }
}

fn smallest(known: &mut Option<usize>, new: Option<usize>) {
    *known = (*known).into_iter().chain(new).min();
}

/// Decimal digits and nothing else; `None` also for a number that is too large.
fn decimal(word: &[u8]) -> Option<usize> {
    crate::directive::decimal(word)
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

    proptest! {
        #[test]
        fn any_bytes_will_do(value in prop::collection::vec(any::<u8>(), 0..64)) {
            Hint::default().read(&value);
        }
    }
}
