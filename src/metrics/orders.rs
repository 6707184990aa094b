//! Models of what a worker writes while another one reads it, for loom (`t/loom`).
#![forbid(unsafe_code)]

use loom::thread;

use super::*;
use crate::base::checked::{Model, Strength};

/// The models of the counters.
pub const MODELS: &[Model] = &[Model {
    name: "the counters of a server are not shown as those of another one",
    run: reads_whole_places,
    interruptions: 1,
    needs: &[Strength::Acquire, Strength::Release],
}];

const A: &[u8] = b"server a";
const B: &[u8] = b"server b";

/// The only place for a server that is not configured goes from one server to another. Connections to the first one are counted as
/// opened, those to the second one as reused.
fn reads_whole_places() {
    let info = UpstreamInfo { name: "u".into(), changing: true, ..UpstreamInfo::default() };
    let mut plan = Plan::new(vec![info], Vec::new());
    plan.room = 1;
    let words = Vec::leak((0..plan.memory(1)).map(|_| AtomicU64::new(0)).collect());
    let generation = Generation::new(plan, 1, words, Box::new(()), None, |_| true).unwrap();
    let worker = generation.enter(0, 100, |_| true).unwrap();
    let counters = &worker.upstreams[0];
    // loom gets to know all words that are used before there is another thread. A server gets the place of another one when that
    // was not looked up for a while.
    for server in [B, A] {
        (0..4).for_each(|_| {
            counters.meter(server);
        });
        counters.meter(server).unwrap().count(Count::Opened);
    }
    (0..2).for_each(|_| {
        counters.meter(B);
    });
    let memory = generation.own.clone();
    let read = move || {
        worker_counters::read(&memory, 0, &memory.spots[0], |address, numbers| {
            let [opened, reused] = [Count::Opened, Count::Reused].map(|it| numbers[it as usize]);
            match address {
                A => assert_eq!((opened, reused), (1, 0)),
                _ => assert_eq!((opened, address), (0, B)),
            }
        });
    };
    read();
    let reader = thread::spawn(read);
    counters.meter(B).unwrap().count(Count::Reused);
    reader.join().unwrap();
}
