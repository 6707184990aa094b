//! Tests in which workers that give, take, settle and recover interrupt each other between any two steps.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use super::killed::killed_before;
use super::transit_killed::{three_with_post, Post};
use super::turns::{in_all_orders, run, shared, Script};
use super::*;

/// Another ledger with the same memory, for the same worker.
fn again(ledger: &Ledger) -> Ledger {
    let again = Ledger::new(shared(ledger), 2, ledger.workers, true).unwrap();
    again.set_worker(ledger.me.get());
    again
}

/// Runs the scripts in an order, and asserts after each step that enough connections are counted.
fn run_enough(
    scripts: Vec<(Ledger, Script)>,
    (observer, server, post): (&Ledger, Server, &Post),
    choose: &mut dyn FnMut(usize, &[usize]) -> usize,
) {
    let is_enough = Cell::new(true);
    let choose = |last, ready: &[usize]| {
        is_enough.set(is_enough.get() && post.is_enough(observer, server));
        choose(last, ready)
    };
    run(scripts, choose);
    assert!(is_enough.get());
}

/// A worker repairs the totals while connections are handed to it, and others are opened and closed.
#[test]
fn exact_if_others_recover() {
    for killed_at in 1..3 {
        in_all_orders(if killed_at == 2 { 2 } else { 1 }, 100, |choose| {
            let (workers, server, post) = three_with_post();
            assert!(killed_before(killed_at, || workers[1].open_over_limit(server)));
            post.killed(1);
            let (giving, taking) = (post.clone(), post.clone());
            let give: Script = Box::new(move |ledger| {
                giving.close(ledger, server);
                giving.hand_over(ledger, server, 0);
                giving.open(ledger, server);
                let transfer = ledger.announce(server, 0).unwrap();
                ledger.take_back(transfer);
            });
            let recover: Script = Box::new(move |ledger| {
                taking.recover(ledger, &[101]);
                taking.read(ledger, 0);
            });
            let scripts = vec![(again(&workers[2]), give), (again(&workers[0]), recover)];
            run_enough(scripts, (&workers[1], server, &post), choose);
            // If a worker was found counting each time, the totals are repaired now.
            post.recover(&workers[0], &[]);
            post.is_exact(&[&workers[0], &workers[2]], server, "");
        });
    }
}

/// A worker repairs the totals while another one settles what was lost.
#[test]
fn exact_if_one_settles() {
    in_all_orders(2, 100, |choose| {
        let (workers, server, post) = three_with_post();
        let lost = workers[1].announce(server, 2).unwrap();
        workers[1].sent(lost);
        post.killed(1);
        let (settling, recovering) = (post.clone(), post.clone());
        let settle: Script = Box::new(move |ledger| assert!(settling.settle(ledger)));
        let recover: Script = Box::new(move |ledger| recovering.recover(ledger, &[101]));
        let scripts = vec![(again(&workers[2]), settle), (again(&workers[0]), recover)];
        run_enough(scripts, (&workers[1], server, &post), choose);
        post.recover(&workers[0], &[]);
        post.is_exact(&[&workers[0], &workers[2]], server, "");
    });
}

/// The totals are repaired while a third worker takes what the second one gives.
#[test]
fn exact_if_a_third_one_recovers() {
    in_all_orders(0, 600, |choose| {
        let workers = super::tests::workers(4, 2, true);
        let server = workers[0].noted(super::tests::A, 99, 0).unwrap();
        for (worker, pid) in workers.iter().zip(100..) {
            assert_eq!(worker.enter(pid, |_| false, |_| false, |_, _| {}), Entered::Together);
            (0..2).for_each(|_| worker.open_over_limit(server));
        }
        let post = Arc::new(Post::new(4));
        assert!(killed_before(2, || workers[3].close(server)));
        post.killed(3);
        let (giving, taking, recovering) = (post.clone(), post.clone(), post.clone());
        let give: Script = Box::new(move |ledger| {
            giving.hand_over(ledger, server, 2);
            giving.read(ledger, 1);
            giving.hand_over(ledger, server, 2);
        });
        let take: Script = Box::new(move |ledger| {
            taking.read(ledger, 2);
            taking.hand_over(ledger, server, 1);
            taking.read(ledger, 2);
        });
        let recover: Script = Box::new(move |ledger| recovering.recover(ledger, &[103]));
        let scripts = [1, 2, 0].map(|it| again(&workers[it])).into_iter().zip([give, take, recover]);
        run_enough(scripts.collect(), (&workers[3], server, &post), choose);
        post.recover(&workers[0], &[]);
        post.is_exact(&[&workers[0], &workers[1], &workers[2]], server, "");
    });
}

/// A receiver settles what a killed giver has not sent, while another giver sends and recovers the killed one.
#[test]
fn nothing_is_lost_that_is_being_sent() {
    in_all_orders(2, 100, |choose| {
        let (workers, server, post) = three_with_post();
        workers[0].announce(server, 2).unwrap();
        post.killed(0);
        let (giving, taking) = (post.clone(), post.clone());
        let give: Script = Box::new(move |ledger| {
            giving.recover(ledger, &[100]);
            giving.hand_over(ledger, server, 2);
        });
        let settle: Script = Box::new(move |ledger| {
            taking.ring(ledger);
            taking.settle(ledger);
        });
        let scripts = vec![(again(&workers[2]), settle), (again(&workers[1]), give)];
        run_enough(scripts, (&workers[0], server, &post), choose);
        post.is_exact(&[&workers[1], &workers[2]], server, "");
    });
}

/// A new process comes in the place of a killed receiver, while another worker still recovers that and reads its inbox. One
/// message was read and is lost, one is still there.
#[test]
fn nothing_is_lost_if_two_read() {
    for is_last_sent in [true, false] {
        in_all_orders(1, 300, |choose| {
            let (workers, server, post) = three_with_post();
            let last = [0, 1].map(|_| {
                let transfer = workers[1].announce(server, 2).unwrap();
                post.send(&workers[1], 2, transfer);
                transfer
            });
            workers[1].sent(last[0]);
            // After it has read the first one.
            assert!(killed_before(3, || assert!(post.read(&workers[2], 2))));
            post.killed(2);
            let (recovering, entering) = (post.clone(), post.clone());
            let recover: Script = Box::new(move |ledger| recovering.recover(ledger, &[102]));
            let enter: Script = Box::new(move |ledger| {
                entering.replace(ledger, 103, &[102]);
                entering.open(ledger, server);
            });
            if is_last_sent {
                workers[1].sent(last[1]);
            }
            let scripts = vec![(again(&workers[0]), recover), (again(&workers[2]), enter)];
            run_enough(scripts, (&workers[1], server, &post), choose);
            workers[1].sent(last[1]);
            // The totals are repaired if a worker was found counting each time.
            post.recover(&workers[0], &[]);
            post.is_exact(&[&workers[0], &workers[1], &workers[2]], server, "");
        });
    }
}

/// A worker that was killed while it took a connection is replaced, while the giver says that it was sent.
#[test]
fn nothing_stays_if_the_giver_is_slow() {
    for killed_at in 1..7 {
        in_all_orders(2, 50, |choose| {
            let (workers, server, post) = three_with_post();
            let transfer = workers[1].announce(server, 2).unwrap();
            post.send(&workers[1], 2, transfer);
            assert!(killed_before(killed_at, || assert!(post.read(&workers[2], 2))));
            post.killed(2);
            let entering = post.clone();
            let due = Arc::new(AtomicBool::new(true));
            let is_due = due.clone();
            let say: Script = Box::new(move |ledger| ledger.sent(transfer));
            let enter: Script = Box::new(move |ledger| {
                entering.replace(ledger, 103, &[102]);
                is_due.store(ledger.transfers_due(), SeqCst);
            });
            let scripts = vec![(again(&workers[2]), enter), (again(&workers[1]), say)];
            run_enough(scripts, (&workers[0], server, &post), choose);
            workers[2].settled.set((!due.load(SeqCst)).then_some(0));
            post.is_exact(&[&workers[0], &workers[1], &workers[2]], server, "");
        });
    }
}
