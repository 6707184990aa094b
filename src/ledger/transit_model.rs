//! Random sequences of what workers do with connections that they hand over. Some workers are killed in the middle. There are
//! never more connections than are counted, nor more than the limit. In the end each one is counted.
#![forbid(unsafe_code)]

use std::sync::Arc;

use proptest::prelude::*;

use super::killed::{killed_before, LIMIT};
use super::transit_killed::{three_with_post, total, Post};
use super::*;

/// What a worker does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Open,
    Close,
    /// To the next worker, or to the one after that.
    Announce(usize),
    /// The first connection that was announced.
    Send,
    SaySent,
    TakeBack,
    Read,
    Ring,
    Settle,
    Recover,
    /// A new process comes in the place of the worker, if that was killed.
    Enter,
    /// It is killed between two acts.
    Die,
}

/// What the model knows besides the connections.
struct Model {
    workers: Vec<Ledger>,
    server: Server,
    post: Arc<Post>,
    /// What each worker has announced, the receiver, and whether the message was sent.
    given: Vec<Vec<(Transfer, usize, bool)>>,
    alive: Vec<bool>,
    /// The processes that were killed.
    gone: Vec<u64>,
    pids: u64,
}

impl Model {
    fn new() -> Self {
        let (workers, server, post) = three_with_post();
        let given = vec![Vec::new(); 3];
        Self { workers, server, post, given, alive: vec![true; 3], gone: Vec::new(), pids: 102 }
    }

    /// A worker acts, and may be killed before a step of that.
    fn act(&mut self, me: usize, act: Act, kill: Option<usize>) {
        if self.alive[me] == matches!(act, Act::Enter) {
            return;
        }
        let is_entering = matches!(act, Act::Enter);
        self.pids += u64::from(is_entering);
        let mut given = std::mem::take(&mut self.given[me]);
        let mut killed = killed_before(kill.unwrap_or(usize::MAX), || self.work(me, act, &mut given));
        killed |= matches!(act, Act::Die);
        assert!(self.post.is_enough(&self.workers[me], self.server), "{act:?}");
        self.alive[me] = !killed;
        if killed {
            self.post.killed(me);
            // If it was killed before it could enter, the process is gone all the same.
            let process = self.workers[me].process(me).load(SeqCst);
            self.gone.extend([process & !(1 << 63), if is_entering { self.pids } else { 0 }]);
            given.clear();
        }
        self.given[me] = given;
        assert_eq!(self.post.missed(), 0);
    }

    fn work(&self, me: usize, act: Act, given: &mut Vec<(Transfer, usize, bool)>) {
        let (ledger, server, post) = (&self.workers[me], self.server, &*self.post);
        let first = given.iter().position(|(_, _, is_sent)| !is_sent);
        match act {
            Act::Open => post.open(ledger, server),
            Act::Close if post.held(me) > first.map_or(0, |_| given.len() as u64) => {
                post.close(ledger, server)
            }
            Act::Announce(next) if post.held(me) > given.len() as u64 => {
                let to = (me + next) % 3;
                given.extend(ledger.announce(server, to).map(|transfer| (transfer, to, false)));
            }
            Act::Send => {
                if let Some((transfer, to, is_sent)) = first.and_then(|at| given.get_mut(at)) {
                    post.send(ledger, *to, *transfer);
                    *is_sent = true;
                }
            }
            Act::SaySent => {
                given.iter().filter(|it| it.2).for_each(|(transfer, ..)| ledger.sent(*transfer));
                given.retain(|it| !it.2);
            }
            Act::TakeBack => {
                if let Some(at) = first {
                    let (transfer, ..) = given.remove(at);
                    ledger.take_back(transfer);
                }
            }
            Act::Read => {
                post.read(ledger, me);
            }
            Act::Ring => post.ring(ledger),
            Act::Settle => {
                post.settle(ledger);
            }
            Act::Recover => post.recover(ledger, &self.gone),
            Act::Enter => {
                post.replace(ledger, self.pids, &self.gone);
            }
            Act::Close | Act::Announce(_) | Act::Die => {}
        }
    }

    /// All who are alive do what they have to do, and recover the others.
    fn end(mut self) {
        if !self.alive.contains(&true) {
            self.act(0, Act::Enter, None);
        }
        let alive: Vec<usize> = (0..3).filter(|it| self.alive[*it]).collect();
        for me in &alive {
            (0..3).for_each(|_| self.act(*me, Act::TakeBack, None));
            self.act(*me, Act::SaySent, None);
        }
        // What was to be sent to one that is recovered earlier is found the second time.
        (0..2).for_each(|_| self.act(alive[0], Act::Recover, None));
        let alive: Vec<&Ledger> = alive.iter().map(|it| &self.workers[*it]).collect();
        self.post.is_exact(&alive, self.server, "in the end");
    }
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Open),
        1 => Just(Act::Close),
        4 => (1usize..3).prop_map(Act::Announce),
        4 => Just(Act::Send),
        3 => Just(Act::SaySent),
        1 => Just(Act::TakeBack),
        3 => Just(Act::Read),
        2 => Just(Act::Ring),
        1 => Just(Act::Settle),
        2 => Just(Act::Recover),
        2 => Just(Act::Enter),
        1 => Just(Act::Die),
    ]
}

/// Before which step a worker is killed: mostly never.
fn kills() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![
        5 => Just(None),
        1 => (0usize..8).prop_map(Some),
        1 => (0usize..100).prop_map(Some),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn exact_whatever_happens(acts in prop::collection::vec((0usize..3, acts(), kills()), 1..60)) {
        let mut model = Model::new();
        for (me, act, kill) in acts {
            model.act(me, act, kill);
            prop_assert!(total(&model.workers[0], model.server) <= LIMIT);
        }
        model.end();
    }
}
