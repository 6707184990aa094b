//! Each sentence of the rule, each constant at its edge.
#![forbid(unsafe_code)]

mod memory;
mod opinions;
mod records;
mod requests;

use super::*;
use crate::base::atomic::AtomicU64;
use crate::http1::keep_alive::Margin;

const ALIVE: Witness = Witness { process: 7, is_alive: |_| true };

/// A moment by the clock of nginx.
const NOW: Msec = 5_000_000;

fn words(servers: usize) -> &'static [AtomicU64] {
    Vec::leak((0..Lessons::size(servers)).map(|_| AtomicU64::new(0)).collect())
}

fn lessons() -> Lessons {
    Lessons::new(words(1), Box::new(()))
}

fn lesson() -> Lesson {
    lessons().of(b"server", NOW)
}

impl Lesson {
    /// The server closes idle connections of these ages, one per second. Returns the moment of the last one.
    fn closes(self, from: Msec, ages: &[Msec]) -> Msec {
        let mut now = from;
        for age in ages {
            now = now.wrapping_add(1000);
            self.closed(&ALIVE, now, *age, 3, 0);
        }
        now
    }

    /// The lowest age at which the server closes, if that is believed.
    fn believes(self, now: Msec) -> Option<u32> {
        self.view(now).age.map(|(age, _)| age)
    }

    fn limit(self) -> Option<u32> {
        match self.age(Margin::Share) {
            Some(Bound::Limit(limit)) => Some(limit),
            _ => None,
        }
    }

    fn watched(self) -> Option<u32> {
        match self.age(Margin::Share) {
            Some(Bound::Watch(watch)) => Some(watch),
            _ => None,
        }
    }

    fn expires(self, now: Msec, age: Msec) -> Verdict {
        let conn =
            Expired { age, is_announced: false, is_watching: false, margin: Margin::Share, longest: 60_000 };
        self.expire(&ALIVE, now, &conn).0
    }

    /// A watcher has lived to this age.
    fn outlives(self, now: Msec, age: Msec) -> Option<Change> {
        let conn =
            Expired { age, is_announced: false, is_watching: true, margin: Margin::Share, longest: 60_000 };
        let (verdict, change) = self.expire(&ALIVE, now, &conn);
        assert_eq!(verdict, Verdict::Close);
        change
    }
}

#[test]
fn tells_what_was_learned() {
    let tell = |what, limit| text::change("10.0.0.1:80", what, limit, 60_000);
    assert_eq!(
        tell(Limited::Age, Some(5002)),
        "server 10.0.0.1:80 closes idle connections after 5.0s (learned); keepalive_timeout is 60s"
    );
    assert!(tell(Limited::Age, Some(999)).contains("after 1.00s (learned)"));
    assert!(tell(Limited::Age, Some(305)).contains("after 0.30s (learned)"));
    assert!(tell(Limited::Age, Some(10_000)).contains("after 10s (learned)"));
    assert!(tell(Limited::Age, Some(10_001)).contains("after 10.0s (learned)"));
    assert_eq!(tell(Limited::Age, None), "server 10.0.0.1:80 no longer closes idle connections as learned");
    assert_eq!(
        tell(Limited::Requests, Some(100)),
        "server 10.0.0.1:80 closes connections after 100 requests (learned)"
    );
    assert_eq!(
        tell(Limited::Requests, None),
        "server 10.0.0.1:80 no longer closes connections after as many requests as learned"
    );
}
