//! All orders in which a server, the packets between, our kernel and our own calls can follow each other, from a request
//! that takes an idle connection to the failure of that. In each it is known what the server has got.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::{Failed, Taken, TcpCounters, UnreadInput};

/// The state of our end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TcpState {
    Established,
    CloseWait,
    Closed,
}

/// What comes from the server. All but a reset say how many bytes it has got.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Acknowledgement(u64),
    Fin(u64),
    Reset,
}

/// How a request takes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// As it was: state and counts of one call.
    OneCall,
    /// The counts, and then a look whether the connection is open.
    CountsThenLook,
    /// The counts, and then the state of a second call (`keepalive_check off`).
    CountsThenState,
}

#[derive(Clone, Debug)]
struct World {
    // Our kernel. A segment changes all of this at once, while it has the connection locked.
    state: TcpState,
    counts: TcpCounters,
    // On the way.
    to_us: VecDeque<Segment>,
    request_on_its_way: bool,
    // The server's kernel, and its program.
    open: bool,
    got: u64,
    unacknowledged: bool,
    program_has_it: bool,
    /// It has closed before the request came.
    closed_first: bool,
    // We.
    step: usize,
    loaded: TcpState,
    taken: Taken,
    /// The FIN was there when we began to ask for the last time.
    fin_in_time: bool,
}

/// What was said of a request, and what is true of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    proven: bool,
    arrived: bool,
    /// The FIN was sent before the request arrived, came here, and the answer to earlier requests had come whole.
    provable: bool,
}

const EARLIER: u64 = 7;

impl World {
    fn new(earlier_acknowledged: bool) -> Self {
        let counts = TcpCounters { acknowledged: EARLIER - u64::from(!earlier_acknowledged), received: 100 };
        Self {
            state: TcpState::Established,
            counts,
            to_us: VecDeque::new(),
            request_on_its_way: false,
            open: true,
            got: EARLIER,
            unacknowledged: !earlier_acknowledged,
            program_has_it: false,
            closed_first: false,
            step: 0,
            loaded: TcpState::Established,
            taken: Taken { counts, has_fin: false },
            fin_in_time: false,
        }
    }

    fn has_request(&self) -> bool {
        self.got > EARLIER
    }

    /// Everything that can happen next; each a world of its own.
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

    /// The program closes its socket. What it has not read becomes a reset.
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
        if self.state == TcpState::Closed {
            return;
        }
        match segment {
            Segment::Acknowledgement(got) => self.counts.acknowledged = got,
            Segment::Fin(got) => {
                self.counts.acknowledged = got;
                self.counts.received += 1;
                self.state = TcpState::CloseWait;
            }
            Segment::Reset => self.state = TcpState::Closed,
        }
    }

    /// Our next call; none if we are through, or wait.
    fn act(&self, rule: Rule, outcomes: &mut BTreeMap<Outcome, usize>) -> Option<World> {
        let mut world = self.clone();
        world.step += 1;
        match self.step {
            // One call that tells the state and the counts: the state first, without the lock.
            0 => world.loaded = self.state,
            1 => world.taken = Taken { counts: self.counts, has_fin: self.loaded == TcpState::CloseWait },
            2 => match rule {
                Rule::OneCall => {}
                // Closed: not used.
                Rule::CountsThenLook if self.state != TcpState::Established => return None,
                Rule::CountsThenLook => world.taken.has_fin = false,
                Rule::CountsThenState => world.taken.has_fin = self.state == TcpState::CloseWait,
            },
            // The write; it fails after a reset, and nothing is written then.
            3 if self.state == TcpState::Closed => return None,
            3 => world.request_on_its_way = true,
            // A failure is heard of.
            4 if self.state == TcpState::Established => return None,
            4 => {
                world.fin_in_time = self.counts.received > 100;
                world.loaded = self.state;
            }
            _ => {
                let has_fin = self.loaded == TcpState::CloseWait;
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

/// All that can come of it.
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
