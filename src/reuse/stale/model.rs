//! Tries all orders of what a server, the packets, the local kernel and the module's own calls do, from the moment a request
//! takes an idle connection to the failure of that connection. In each order it is known what the server has received.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::{Failed, Taken, TcpCounters, UnreadInput};

/// The state of the local end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketState {
    Established,
    CloseWait,
    Closed,
}

/// A packet from the server. All but a reset have the number of bytes that the server has received.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Acknowledgement(u64),
    Fin(u64),
    Reset,
}

/// How a request takes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The state and the counters of one call: the former rule, which is wrong.
    OneCall,
    /// The counters, then a check whether the connection is open.
    CountsThenLook,
    /// The counters, then the state of a second call (`keepalive_check off`).
    CountsThenState,
}

#[derive(Clone, Debug)]
struct World {
    // The local kernel. A segment changes all of this at once, while the kernel has the connection locked.
    state: SocketState,
    counts: TcpCounters,
    // In flight.
    to_us: VecDeque<Segment>,
    request_on_its_way: bool,
    // The server's kernel and its program.
    open: bool,
    got: u64,
    unacknowledged: bool,
    program_has_it: bool,
    /// The server closed the connection before the request came.
    closed_first: bool,
    // The module.
    step: usize,
    loaded: SocketState,
    taken: Taken,
    /// The FIN had come before the module's last call.
    fin_in_time: bool,
}

/// What the module concludes about a request, and what is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    proven: bool,
    arrived: bool,
    /// The FIN was sent before the request arrived, it has come, and all earlier requests were acknowledged before.
    provable: bool,
}

/// Bytes of earlier requests.
const EARLIER: u64 = 7;

impl World {
    fn new(earlier_acknowledged: bool) -> Self {
        let counts = TcpCounters { acknowledged: EARLIER - u64::from(!earlier_acknowledged), received: 100 };
        Self {
            state: SocketState::Established,
            counts,
            to_us: VecDeque::new(),
            request_on_its_way: false,
            open: true,
            got: EARLIER,
            unacknowledged: !earlier_acknowledged,
            program_has_it: false,
            closed_first: false,
            step: 0,
            loaded: SocketState::Established,
            taken: Taken { counts, has_fin: false },
            fin_in_time: false,
        }
    }

    fn has_request(&self) -> bool {
        self.got > EARLIER
    }

    /// Everything that can happen next: one world for each possibility.
    fn next(&self, rule: Rule, outcomes: &mut BTreeMap<Outcome, usize>) -> Vec<World> {
        let mut worlds = Vec::new();
        let mut add = |change: &dyn Fn(&mut World)| {
            let mut world = self.clone();
            change(&mut world);
            worlds.push(world);
        };
        if self.open {
            add(&World::close);
            add(&World::die);
            if self.unacknowledged {
                add(&World::acknowledge);
            }
            if self.has_request() && !self.program_has_it {
                add(&|world| world.program_has_it = true);
            }
        }
        if !self.to_us.is_empty() {
            add(&World::receive);
        }
        if self.request_on_its_way {
            add(&World::deliver_request);
        }
        worlds.extend(self.act(rule, outcomes));
        worlds
    }

    /// The program closes its socket. If it has not read everything, its kernel sends a reset.
    fn close(&mut self) {
        let unread = self.has_request() && !self.program_has_it;
        self.open = false;
        self.unacknowledged = false;
        self.closed_first = !self.has_request();
        self.to_us.push_back(if unread { Segment::Reset } else { Segment::Fin(self.got) });
    }

    fn die(&mut self) {
        self.open = false;
        self.unacknowledged = false;
        self.to_us.push_back(Segment::Reset);
    }

    fn acknowledge(&mut self) {
        self.unacknowledged = false;
        self.to_us.push_back(Segment::Acknowledgement(self.got));
    }

    fn deliver_request(&mut self) {
        self.request_on_its_way = false;
        if self.open {
            self.got += 1;
            self.unacknowledged = true;
        } else {
            self.to_us.push_back(Segment::Reset);
        }
    }

    fn receive(&mut self) {
        let Some(segment) = self.to_us.pop_front() else { return };
        if self.state == SocketState::Closed {
            return;
        }
        match segment {
            Segment::Acknowledgement(got) => self.counts.acknowledged = got,
            Segment::Fin(got) => {
                self.counts.acknowledged = got;
                self.counts.received += 1;
                self.state = SocketState::CloseWait;
            }
            Segment::Reset => self.state = SocketState::Closed,
        }
    }

    /// The module's next call; `None` if it has finished, or waits.
    fn act(&self, rule: Rule, outcomes: &mut BTreeMap<Outcome, usize>) -> Option<World> {
        let mut world = self.clone();
        world.step += 1;
        match self.step {
            // One call returns the state and the counters. The kernel reads the state first, without the lock.
            0 => world.loaded = self.state,
            1 => world.taken = Taken { counts: self.counts, has_fin: self.loaded == SocketState::CloseWait },
            2 => match rule {
                Rule::OneCall => {}
                // A closed connection is not used.
                Rule::CountsThenLook if self.state != SocketState::Established => return None,
                Rule::CountsThenLook => world.taken.has_fin = false,
                Rule::CountsThenState => world.taken.has_fin = self.state == SocketState::CloseWait,
            },
            // The write. It fails after a reset, and then nothing is written.
            3 if self.state == SocketState::Closed => return None,
            3 => world.request_on_its_way = true,
            // The module is told of a failure.
            4 if self.state == SocketState::Established => return None,
            4 => {
                world.fin_in_time = self.counts.received > 100;
                world.loaded = self.state;
            }
            _ => {
                let has_fin = self.loaded == SocketState::CloseWait;
                let failed = Failed { counts: self.counts, has_fin, read: 0 };
                let is_closed = matches!(failed.unread(&self.taken), UnreadInput::Fin | UnreadInput::OneByte);
                let arrived = self.has_request();
                let outcome = Outcome {
                    proven: is_closed && !failed.has_acknowledged(&self.taken),
                    arrived,
                    provable: self.closed_first
                        && self.fin_in_time
                        && self.taken.counts.acknowledged == EARLIER,
                };
                *outcomes.entry(outcome).or_default() += 1;
                return None;
            }
        }
        Some(world)
    }
}

/// All possible outcomes, and how often each occurs.
fn outcomes(rule: Rule) -> BTreeMap<Outcome, usize> {
    let mut outcomes = BTreeMap::new();
    let mut worlds = vec![World::new(true), World::new(false)];
    while let Some(world) = worlds.pop() {
        worlds.extend(world.next(rule, &mut outcomes));
    }
    outcomes
}

#[test]
fn whatever_the_order_only_what_has_not_arrived_is_proven_and_all_of_that_is() {
    for rule in [Rule::CountsThenLook, Rule::CountsThenState] {
        let outcomes = outcomes(rule);
        assert!(outcomes.keys().all(|outcome| !(outcome.proven && outcome.arrived)), "{rule:?} {outcomes:?}");
        assert!(outcomes.keys().all(|outcome| outcome.proven || !outcome.provable), "{rule:?} {outcomes:?}");
        for (proven, arrived) in [(true, false), (false, true), (false, false)] {
            let seen = outcomes.keys().any(|outcome| (outcome.proven, outcome.arrived) == (proven, arrived));
            assert!(seen, "{rule:?}: proven {proven}, arrived {arrived}");
        }
    }
}

#[test]
fn state_and_counts_of_one_call_are_not_of_one_moment() {
    let outcomes = outcomes(Rule::OneCall);
    assert!(outcomes.keys().all(|outcome| !(outcome.proven && outcome.arrived)), "{outcomes:?}");
    assert!(outcomes.keys().any(|outcome| outcome.provable && !outcome.proven), "{outcomes:?}");
}
