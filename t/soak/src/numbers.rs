//! What the module has counted, and what the servers have.

use std::io;
use std::net::SocketAddr;

use crate::client::get;

const PREFIX: &str = "nginx_upstream_keepalive_";

/// The numbers of `keepalive_status`.
#[derive(Clone, Debug, Default)]
pub struct Status(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Status {
    pub async fn ask(nginx: SocketAddr) -> io::Result<Self> {
        get(nginx, "/status?format=prometheus").await.map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of all samples of this name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let has = |sample: &Sample, name: &str, value: &str| {
            sample.labels.iter().any(|label| label.0 == name && label.1 == value)
        };
        self.0
            .iter()
            .filter(|sample| {
                sample.name == name && labels.iter().all(|(name, value)| has(sample, name, value))
            })
            .map(|sample| sample.value as i64)
            .sum()
    }

    /// The upstreams' servers.
    pub fn servers(&self) -> Vec<(String, String)> {
        let name = format!("{PREFIX}opened_total");
        let label = |sample: &Sample, wanted: &str| {
            let found = sample.labels.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let opened = self.0.iter().filter(|sample| sample.name == name);
        opened.map(|sample| (label(sample, "upstream"), label(sample, "server"))).collect()
    }

    pub fn of_server(&self, upstream: &str, server: &str) -> Counted {
        let of = [("upstream", upstream), ("server", server)];
        let total = |name: &str| self.sum(&format!("{PREFIX}{name}_total"), &of);
        let not_stored = |reason: &str| {
            self.sum(&format!("{PREFIX}not_stored_total"), &[of[0], of[1], ("reason", reason)])
        };
        Counted {
            requests: total("requests"),
            opened: total("opened"),
            reused: total("reused"),
            stale: total("stale"),
            unconnected: not_stored("connect"),
            failed: not_stored("error"),
            ended: total("closed") + total("not_stored"),
            given: total("given"),
            taken: total("taken"),
        }
    }

    /// Requests to an upstream that a server of HTTP/2 may not have seen: those that were sent again, and those that ended before.
    pub fn unseen(&self, upstream: &str) -> i64 {
        ["refused", "repeats", "reset_sent"]
            .iter()
            .map(|name| self.sum(&format!("nginx_upstream_http2_{name}_total"), &[("upstream", upstream)]))
            .sum()
    }

    /// All that must be zero when nobody asks anything and all idle connections have had their time.
    pub fn not_zero(&self) -> Vec<String> {
        let gauges = [
            format!("{PREFIX}connections"),
            "nginx_upstream_queue_size".into(),
            "nginx_upstream_http2_carriers".into(),
            "nginx_upstream_http2_streams".into(),
        ];
        let busy = self.0.iter().filter(|sample| gauges.contains(&sample.name) && sample.value != 0.0);
        busy.map(|sample| format!("{} {:?} is {}", sample.name, sample.labels, sample.value)).collect()
    }
}

/// `name{a="x",b="y"} 1`; our names have no quotes in them.
fn sample(line: &str) -> Option<Sample> {
    let (key, value) = line.rsplit_once(' ')?;
    let (name, labels) = key.split_once('{').unwrap_or((key, ""));
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(name, value)| (name.into(), value.trim_matches('"').into()))
        .collect();
    Some(Sample { name: name.into(), labels, value: value.parse().ok()? })
}

/// What the module has counted at a server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    pub requests: i64,
    pub opened: i64,
    pub reused: i64,
    pub stale: i64,
    /// Connections that were never established.
    pub unconnected: i64,
    /// Connections that failed.
    pub failed: i64,
    /// Connections that have ended, for whatever reason.
    pub ended: i64,
    /// Connections that a worker has handed over to another one.
    pub given: i64,
    /// Connections that a worker has taken over.
    pub taken: i64,
}

impl Counted {
    /// Whether its numbers agree with each other.
    pub fn agrees(self) -> bool {
        self.opened + self.taken == self.ended + self.given && self.requests == self.opened + self.reused
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            opened: self.opened - before.opened,
            reused: self.reused - before.reused,
            stale: self.stale - before.stale,
            unconnected: self.unconnected - before.unconnected,
            failed: self.failed - before.failed,
            ended: self.ended - before.ended,
            given: self.given - before.given,
            taken: self.taken - before.taken,
        }
    }
}

/// What a server has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    pub address: String,
    pub accepted: i64,
    pub open: i64,
    pub requests: i64,
    /// Requests that it works at.
    pub busy: i64,
    /// Rules of HTTP/2 that its clients have broken; -1 if it does not look.
    pub violations: i64,
}

/// The listeners of a scripted backend, in their order.
pub async fn served(control: SocketAddr) -> io::Result<Vec<Served>> {
    Ok(get(control, "/stats").await?.lines().map(line).collect())
}

fn line(line: &str) -> Served {
    let after = |name: &str| line.split_once(&format!("\"{name}\":")).map_or("", |(_, rest)| rest);
    let number = |name: &str| {
        let digits: String = after(name).chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(-1)
    };
    Served {
        address: after("addr").trim_start_matches('"').split('"').next().unwrap_or("").into(),
        accepted: number("accepted"),
        open: number("open"),
        requests: number("requests"),
        busy: number("busy"),
        violations: number("violations"),
    }
}

/// What nginx's `stub_status` tells of the server that speaks TLS. Each question is a connection and a request too.
pub async fn front(status: SocketAddr, address: &str) -> io::Result<Served> {
    let text = get(status, "/").await?;
    let numbers: Vec<i64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        // Active connections; accepted, handled, requests; reading, writing, waiting.
        [open, accepted, _, requests, ..] => Ok(Served {
            address: address.into(),
            accepted,
            open: open - 1,
            requests,
            busy: 0,
            violations: -1,
        }),
        _ => Err(io::Error::other(format!("no status: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_metrics() {
        let status = Status::parse(
            "# HELP x y\n\
             nginx_upstream_keepalive_opened_total{upstream=\"a\",server=\"127.0.0.1:1\"} 3\n\
             nginx_upstream_keepalive_not_stored_total{upstream=\"a\",server=\"127.0.0.1:1\",reason=\"connect\"} 1\n\
             nginx_upstream_keepalive_not_stored_total{upstream=\"a\",server=\"127.0.0.1:1\",reason=\"error\"} 2\n\
             nginx_upstream_queue_size{upstream=\"a\"} 1\n",
        );
        assert_eq!(status.servers(), [("a".to_string(), "127.0.0.1:1".to_string())]);
        let counted = status.of_server("a", "127.0.0.1:1");
        assert_eq!(counted, Counted { opened: 3, unconnected: 1, failed: 2, ended: 3, ..Counted::default() });
        assert_eq!(status.not_zero().len(), 1);
    }

    #[test]
    fn reads_statistics() {
        let served =
            line(r#"{"addr":"127.0.0.1:1","accepted":4,"open":0,"max_open":2,"requests":9,"busy":0}"#);
        assert_eq!(
            served,
            Served {
                address: "127.0.0.1:1".into(),
                accepted: 4,
                open: 0,
                requests: 9,
                busy: 0,
                violations: -1
            }
        );
    }
}
