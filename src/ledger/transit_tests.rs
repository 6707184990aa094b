//! Tests of connections in transit: their rules.
#![forbid(unsafe_code)]

use super::killed::{is_exact, three};
use super::tests::A;
use super::transit::TICKETS;
use super::transit_killed::{total, Post};
use super::*;

#[test]
fn counts_while_it_is_in_transit() {
    let (workers, server) = three();
    let transfer = workers[1].announce(server, 2).unwrap();
    assert_eq!((workers[0].in_transit(server), total(&workers[0], server)), (1, 6));
    assert_eq!(workers[0].receivers().count(), 0, "it was not sent yet");
    workers[1].sent(transfer);
    assert_eq!(workers[0].receivers().collect::<Vec<_>>(), [2]);
    assert_eq!(workers[2].receivers().count(), 0, "only others");
    assert_eq!(workers[2].receive(Transfer::from_bits(transfer.to_bits())), Some(server));
    assert_eq!(workers[2].receive(transfer), None, "it was received");
    workers[1].sent(transfer);
    assert!(!workers[1].take_back(transfer));
    assert_eq!((workers[0].in_transit(server), total(&workers[0], server)), (0, 6));
    workers[1].close(server);
    (0..3).for_each(|_| workers[2].close(server));
    is_exact(&workers[0], server, 2, 6);
    assert_eq!(workers[0].parts(server), [2, 0, 0]);
}

#[test]
fn gives_as_many_as_it_has_tickets() {
    let (workers, server) = three();
    let first = workers[1].announce(server, 2).unwrap();
    let others: Vec<_> = (1..TICKETS).map(|_| workers[1].announce(server, 0).unwrap()).collect();
    assert_eq!(workers[1].announce(server, 0), None);
    assert!(workers[1].take_back(first) && !workers[1].take_back(first));
    assert_eq!(workers[2].receive(first), None);
    let again = workers[1].announce(server, 2).unwrap();
    assert_ne!(first, again, "another use of the same ticket");
    assert_eq!((workers[2].receive(first), workers[2].receive(again)), (None, Some(server)));
    assert!(others.into_iter().all(|other| workers[0].receive(other) == Some(server)));
    is_exact(&workers[0], server, 6, 6);
    assert_eq!(workers[0].parts(server), [1 + TICKETS as u64, 2 - TICKETS as u64, 3]);
}

#[test]
fn gives_nothing_to_a_worker_without_a_process() {
    let (workers, server) = three();
    assert_eq!(workers[1].announce(server, 1), None, "to itself");
    assert_eq!(workers[1].announce(server, 3), None);
    assert_eq!(workers[1].announce(1000, 2), None);
    assert!(workers[1].announce(server, 2).is_some_and(|transfer| workers[1].take_back(transfer)));
    Post::new(3).recover(&workers[0], &[102]);
    assert_eq!(workers[1].announce(server, 2), None);
    let alone = Ledger::new(Table::own(2).unwrap(), 2, 1, false).unwrap();
    let server = alone.noted(A, 4, 0).unwrap();
    assert_eq!((alone.announce(server, 0), alone.transfers_due()), (None, false));
    is_exact(&workers[0], server, 4, 4);
}

#[test]
fn receives_nothing_that_was_not_announced() {
    let (workers, server) = three();
    let transfer = workers[1].announce(server, 2).unwrap().to_bits();
    for bits in
        [0, 1, u64::MAX, u64::from(u32::MAX), transfer ^ 1, transfer ^ (1 << 32), transfer ^ (1 << 63)]
    {
        let forged = Transfer::from_bits(bits);
        workers[2].sent(forged);
        assert_eq!((workers[2].receive(forged), workers[2].take_back(forged)), (None, false));
    }
    assert_eq!(workers[2].receive(Transfer::from_bits(transfer)), Some(server));
    is_exact(&workers[0], server, 6, 6);
}

#[test]
fn what_may_still_arrive_is_not_lost() {
    let (workers, server) = three();
    let post = Post::new(3);
    post.replace(&workers[2], 103, &[102]);
    assert!(!workers[2].transfers_due());
    let announced = workers[1].announce(server, 2).unwrap();
    assert!(!post.settle(&workers[2]) && workers[2].transfers_due(), "it is being sent");
    workers[1].sent(announced);
    assert!(!workers[2].settle_transfers(2, || false), "another worker reads");
    assert_eq!((workers[2].in_transit(server), total(&workers[2], server)), (1, 4));
    assert!(workers[2].settle_transfers(2, || workers[2].receive(announced).is_some()));
    assert_eq!(total(&workers[2], server), 4);
    let lost = workers[1].announce(server, 2).unwrap();
    workers[1].sent(lost);
    assert!(!workers[2].transfers_due() && post.settle(&workers[2]));
    is_exact(&workers[0], server, 3, 4);
}

/// One that has only connections in transit is found too.
#[test]
fn rings_for_those_who_send_or_receive() {
    let (workers, server) = three();
    for worker in &workers {
        (0..2).for_each(|_| worker.end_request(server));
        worker.publish(LineKind::Queue, None);
    }
    (0..2).for_each(|_| workers[2].close(server));
    workers[1].close(server);
    let transfer = workers[1].announce(server, 2).unwrap();
    assert_eq!(workers[0].unrung_holders().collect::<Vec<_>>(), [1]);
    workers[1].sent(transfer);
    assert_eq!(workers[0].unrung_holders().collect::<Vec<_>>(), [1, 2]);
}

impl Ledger {
    /// How many connections to a server each worker has.
    pub(super) fn parts(&self, server: Server) -> Vec<u64> {
        let part = |worker| (self.cell(server, worker, Column::Open).load(SeqCst) & u64::from(u32::MAX)) / 4;
        (0..self.workers).map(part).collect()
    }
}
