//! A worker of the simulation. It does what the shell does with a lesson: see `ffi/peer/checkout.rs`, `ffi/peer/release.rs`,
//! `ffi/idle/learn.rs`.
#![forbid(unsafe_code)]

use super::world::{Event, Happening, Mind, World};
use crate::base::clock::Msec;
use crate::http1::keep_alive::Hint;
use crate::lessons::{Bound, Change, Expired, Verdict, Witness, BEHIND_WATCH};
use crate::reuse::lifetime::{Limits, Returned};

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Busy,
    Idle,
    WatchesAge,
    WatchesNumber,
    Gone,
}

impl World {
    fn witness(&self, conn: usize) -> Witness {
        Witness { process: 1 + self.conns[conn].worker as u64, is_alive: |_| true }
    }

    fn age(&self, conn: usize) -> Msec {
        self.clock().wrapping_sub(self.conns[conn].since)
    }

    fn tell(&mut self, change: Option<Change>) {
        if let Some(change) = change {
            self.note(Happening::Learned(change.limit));
        }
    }

    fn learn_close(&mut self, conn: usize, age: Msec, requests: usize) {
        self.note(Happening::Closed);
        if self.mind == Mind::Learns {
            let trip = (2 * self.setup.way).div_ceil(1000) as Msec;
            let who = self.witness(conn);
            let change = self.lesson.closed(&who, self.clock(), age, requests, trip);
            self.tell(change);
        }
    }

    pub fn request(&mut self, worker: usize, is_post: bool) {
        match self.checkout(worker, is_post) {
            Some(conn) => {
                self.note(Happening::Reused);
                self.conns[conn].place = Place::Busy;
                self.send(conn, is_post, 0);
            }
            None => self.send_on_new(worker, is_post),
        }
    }

    fn send_on_new(&mut self, worker: usize, is_post: bool) {
        self.note(Happening::Opened);
        let conn = self.open(worker);
        self.send(conn, is_post, 2 * self.setup.way);
    }

    fn send(&mut self, conn: usize, is_post: bool, handshake: u64) {
        let state = &mut self.conns[conn];
        state.requests += 1;
        state.is_post = is_post;
        state.sent = self.now / 1000;
        let arrival = self.arrival() + handshake;
        self.at(arrival, Event::Arrives(conn));
    }

    fn newest(&self, worker: usize) -> Option<usize> {
        self.pools[worker].iter().rev().copied().find(|conn| self.conns[*conn].place == Place::Idle)
    }

    fn checkout(&mut self, worker: usize, is_post: bool) -> Option<usize> {
        let newest = self.newest(worker)?;
        if self.mind == Mind::Learns && is_post {
            let cautious = self.lesson.cautious_age(self.clock());
            if cautious.is_some_and(|age| self.age(newest) > age) {
                return None;
            }
        }
        while let Some(conn) = self.newest(worker) {
            self.take_out(conn);
            let is_outdated = match self.mind {
                Mind::Learns => {
                    !self.lesson.known().is_nothing()
                        && self.lesson.known_with(self.setup.margin).is_too_old(self.age(conn))
                }
                Mind::Knows => {
                    let arrival = self.now + self.setup.way + self.setup.more;
                    self.conns[conn].closes.is_some_and(|(_, earliest)| earliest <= arrival)
                }
                Mind::Hopes => false,
            };
            if !is_outdated {
                return Some(conn);
            }
            self.closed_by_us(conn);
        }
        None
    }

    fn take_out(&mut self, conn: usize) {
        let worker = self.conns[conn].worker;
        self.pools[worker].retain(|other| *other != conn);
    }

    fn close(&mut self, conn: usize) {
        self.take_out(conn);
        self.closed_by_us(conn);
    }

    /// The request on a connection has its answer.
    pub fn release(&mut self, conn: usize) {
        let state = &self.conns[conn];
        let (now, worker, requests) = (self.clock(), state.worker, state.requests);
        if state.end.is_some_and(|end| end <= self.now + 50) {
            self.conns[conn].place = Place::Gone;
            return self.learn_close(conn, 0, requests);
        }
        self.conns[conn].since = now;
        self.conns[conn].place = Place::Idle;
        self.conns[conn].timer += 1;
        if self.mind == Mind::Learns {
            if !self.keep(conn) {
                return self.closed_by_us(conn);
            }
        } else if self.mind == Mind::Knows
            && self.conns[conn].closes_after.is_some_and(|(_, lowest)| requests >= lowest as usize)
        {
            return self.closed_by_us(conn);
        } else {
            self.set_timer(conn, self.setup.timeout);
        }
        self.pools[worker].push(conn);
    }

    /// Whether the connection stays in the pool. Sets its timer.
    fn keep(&mut self, conn: usize) -> bool {
        let margin = self.setup.margin;
        let limits = Limits {
            requests: usize::MAX,
            time: Msec::MAX,
            timeout: self.setup.timeout,
            margin: Some(margin),
            learns: true,
        };
        let returned = Returned {
            failed: false,
            broken: false,
            requests: self.conns[conn].requests,
            allowed: usize::MAX,
            opened: self.clock(),
            keepalive: true,
            request_sent: true,
            exiting: false,
        };
        let hint =
            Hint { timeout: self.setup.server.announces.map(|announced| announced * 1000), requests: None };
        let lesson = Some(self.lesson).filter(|lesson| !lesson.known().is_nothing());
        let trip = (2 * self.setup.way).div_ceil(1000) as Msec;
        let Ok(rest) = limits.remaining((returned.requests, returned.allowed), &hint, lesson, || trip) else {
            return false;
        };
        self.conns[conn].is_hinted = rest.is_hinted;
        let mut timeout = rest.idle;
        if lesson.is_some() {
            match self.part_at_number(conn) {
                Some(false) => {}
                Some(true) => {
                    self.conns[conn].place = Place::WatchesNumber;
                    timeout = BEHIND_WATCH;
                }
                None => return false,
            }
        }
        self.set_timer(conn, timeout);
        true
    }

    fn part_at_number(&mut self, conn: usize) -> Option<bool> {
        let Some(Bound::Limit(number) | Bound::Watch(number)) = self.lesson.requests() else {
            return Some(false);
        };
        let requests = self.conns[conn].requests;
        if requests < number as usize {
            return Some(false);
        }
        let (verdict, change) = self.lesson.reach(&self.witness(conn), self.clock(), requests, true);
        self.tell(change);
        match verdict {
            Verdict::Keep(_) => Some(false),
            Verdict::Watch(_) => Some(true),
            Verdict::Close => None,
        }
    }

    fn set_timer(&mut self, conn: usize, after: Msec) {
        let timer = self.conns[conn].timer;
        // The timers of nginx count whole milliseconds from the time that its clock shows.
        let at = (self.now / 1000 + after.max(1) as u64) * 1000;
        self.at(at, Event::Timer(conn, timer));
    }

    pub fn on_timer(&mut self, conn: usize, timer: u32) {
        let place = self.conns[conn].place;
        if self.conns[conn].timer != timer || matches!(place, Place::Busy | Place::Gone) {
            return;
        }
        let (age, who, now) = (self.age(conn), self.witness(conn), self.clock());
        if self.mind != Mind::Learns {
            return self.close(conn);
        }
        if place == Place::WatchesNumber {
            let change = self.lesson.serves_more(&who, now, self.conns[conn].requests);
            self.tell(change);
            return self.close(conn);
        }
        if age >= self.setup.timeout {
            return self.close(conn);
        }
        let expired = Expired {
            age,
            is_announced: self.conns[conn].is_hinted,
            is_watching: place == Place::WatchesAge,
            margin: self.setup.margin,
            longest: self.setup.timeout,
        };
        let (verdict, change) = self.lesson.expire(&who, now, &expired);
        self.tell(change);
        let sleeps_to = match verdict {
            Verdict::Keep(next) => next.map_or(self.setup.timeout, |next| next.min(self.setup.timeout)),
            Verdict::Watch(next) => {
                self.conns[conn].place = Place::WatchesAge;
                next.min(self.setup.timeout)
            }
            Verdict::Close => return self.close(conn),
        };
        self.set_timer(conn, sleeps_to.saturating_sub(age));
    }

    /// The end of a connection has come: from the server, or from its TCP, which does not know it any more.
    pub fn ended(&mut self, conn: usize) {
        let state = &self.conns[conn];
        let (place, is_post, requests) = (state.place, state.is_post, state.requests);
        let (age, worker, is_lost, sent) = (self.age(conn), state.worker, state.is_lost, state.sent);
        match place {
            Place::Gone => return,
            Place::Idle | Place::WatchesAge | Place::WatchesNumber => {
                self.take_out(conn);
                self.conns[conn].place = Place::Gone;
                return self.learn_close(conn, age, requests);
            }
            Place::Busy => {}
        }
        self.conns[conn].place = Place::Gone;
        if is_lost {
            self.note(Happening::Lost { is_post });
        } else {
            self.note(Happening::Stale { is_post, sent });
            // It may be this request that made the server close.
            self.learn_close(conn, age, 0);
        }
        if !(is_lost && is_post) {
            self.send_on_new(worker, is_post);
        }
    }
}
