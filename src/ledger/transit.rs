//! Connections that are handed from one worker to another, in a message. Each one is counted at every moment, wherever the
//! giver or the taker is killed.
//!
//! ```text
//!   part of the giver  --announce-->  ticket  --receive-->  part of the worker that has the message
//!                     <--take_back--          --settle_transfers-->  nothing: it was lost with a killed worker
//!
//!   ticket   how often it was used (30 bits) | server (22 bits) | receiver (10 bits) | state (2 bits)
//!            free --announce--> announced --sent--> sent
//!            free <--receive, take_back-- announced
//!            free <--receive, settle_transfers-- sent
//! ```
//!
//! A total is the sum of the workers' parts and of the tickets of the server. Announcing, taking back and receiving a
//! connection do not change the total. Settling subtracts one. Whoever uses or frees a ticket does that, and changes the
//! total, while its own part has the mark of `tally.rs`, and writes another part afterwards. So a reader that finds all
//! parts the same before and after, and without a mark, has read the tickets as of the same moment. A worker that is killed
//! in between leaves the mark, and the total is repaired. A change from announced to sent changes no number and needs no
//! mark.
//!
//! A message is lost if its giver is killed before it was sent, or if its taker is killed after it was read. So a ticket that
//! says "sent" is freed if the inbox was read to its end afterwards and the ticket is still the same. An inbox outlives its
//! worker. If there is no worker to read it, any other one does. Who reads it must know that nobody else who is alive has a
//! message from it in hand.
//!
//! - A giver that is alive says "sent" after it has sent. While a ticket says "announced", its receiver is not settled.
//! - For a giver that was killed, the worker that recovers it says "sent". Then it raises the number of recoveries, by which
//!   the receivers notice that they have to settle.
//!
//! How often a ticket was used is part of it, so a message never fits a later use.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::SeqCst;

use super::{step, Ledger, Server, HEADER, HEADER_OF_WORKER};
use crate::base::atomic::AtomicU64;
use crate::base::clock::Msec;
use crate::base::memory::push;

/// The tickets of each worker: only the worker itself begins to use them.
pub(super) const TICKETS: usize = if cfg!(any(test, loom)) { 2 } else { 16 };

// The parts of a ticket.
const STATE: u64 = 3;
const FREE: u64 = 0;
const ANNOUNCED: u64 = 1;
const SENT: u64 = 2;
const RECEIVER_AT: u32 = 2;
const RECEIVERS: u64 = 1 << 10;
const SERVER_AT: u32 = 12;
const SERVERS: u64 = 1 << 22;
/// One, in the number of times the ticket was used.
const USED: u64 = 1 << USED_AT;
const USED_AT: u32 = 34;

/// A connection that is handed to another worker, as the message names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The number of the ticket, in the tickets of all workers.
    ticket: u32,
    /// How often the ticket was used.
    used: u32,
}

impl Transfer {
    /// The transfer as a number, for the message.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.used) << 32) | u64::from(self.ticket)
    }

    /// The transfer that a message names. Any number is allowed. A transfer that does not exist is not received.
    pub fn from_bits(bits: u64) -> Self {
        Self { ticket: bits as u32, used: (bits >> 32) as u32 }
    }

    /// Whether a ticket is used for this transfer.
    fn is(self, ticket: u64) -> bool {
        is_used(ticket) && ticket >> USED_AT == u64::from(self.used)
    }
}

impl Ledger {
    /// A connection to the server is about to be sent to another worker. It counts as in transit until it is received, taken
    /// back or lost. `None`, and nothing is changed, if that worker has no process or all tickets of this worker are in use.
    pub fn announce(&self, server: Server, to: usize) -> Option<Transfer> {
        let me = self.me.get();
        let fits = (server as usize) < self.servers.min(SERVERS as usize)
            && to < self.workers.min(RECEIVERS as usize)
            && to != me;
        if !self.is_shared() || !fits || !self.has_process(to) {
            return None;
        }
        let (at, ticket) = self.tickets(me).iter().enumerate().find(|(_, it)| !is_used(it.load(SeqCst)))?;
        // No other worker writes a free ticket of this worker.
        let free = ticket.load(SeqCst);
        let used = free.wrapping_add(USED)
            | (u64::from(server) << SERVER_AT)
            | ((to as u64) << RECEIVER_AT)
            | ANNOUNCED;
        let announce = || ticket.compare_exchange(free, used, SeqCst, SeqCst).is_ok();
        let transfer = Transfer { ticket: (me * TICKETS + at) as u32, used: (used >> USED_AT) as u32 };
        self.opened(server).give(announce).then_some(transfer)
    }

    /// The message that this worker has announced was sent.
    pub fn sent(&self, transfer: Transfer) {
        let Some(ticket) = self.ticket(transfer) else { return };
        let sent = |it| (transfer.is(it) && it & STATE == ANNOUNCED).then_some(it & !STATE | SENT);
        step();
        // If it has already been received, the ticket is free.
        let _ = ticket.fetch_update(SeqCst, SeqCst, sent);
    }

    /// The message that this worker has announced could not be sent. Returns whether the connection counts for this worker
    /// again. It does, unless the transfer does not exist.
    pub fn take_back(&self, transfer: Transfer) -> bool {
        self.receive(transfer).is_some()
    }

    /// The message was read, so the connection counts for this worker. `None` if the transfer does not exist. The connection
    /// is not counted then.
    pub fn receive(&self, transfer: Transfer) -> Option<Server> {
        let ticket = self.ticket(transfer)?;
        step();
        let server = server_of(Some(ticket.load(SeqCst)).filter(|it| transfer.is(*it))?);
        // The giver may say meanwhile that it was sent.
        let free = || ticket.fetch_update(SeqCst, SeqCst, |it| transfer.is(it).then_some(freed(it))).is_ok();
        self.opened(server).gain(free).then_some(server)
    }

    /// Finds out which connections to a worker were lost, and does not count them any more. The worker is this one, or has no
    /// process. `read` reads its inbox to the end and calls [`Self::receive`] for each message. It returns `false` if it
    /// could not, or if another process that is alive may have read a message there that it has not received yet. Returns
    /// whether all is settled. Otherwise this has to be repeated later: something was still being sent, `read` has failed,
    /// or there was no memory.
    pub fn settle_transfers(&self, worker: usize, read: impl FnOnce() -> bool) -> bool {
        let is_own = worker == self.me.get();
        if is_own {
            self.settled.set(None);
        }
        // Read first: a worker that is recovered later makes it due again.
        let recoveries = self.recoveries().load(SeqCst);
        // A message that is read now may be one that is only afterwards said to be sent.
        let is_sending = self.is_any_to(worker, ANNOUNCED);
        let sent = self.all_to(worker, SENT);
        let is_read = read();
        let Some(sent) = sent.filter(|_| is_read) else { return false };
        for (ticket, word) in sent {
            let free = || ticket.compare_exchange(word, freed(word), SeqCst, SeqCst).is_ok();
            self.opened(server_of(word)).give_up(free);
        }
        if is_own && !is_sending {
            self.settled.set(Some(recoveries));
        }
        !is_sending
    }

    /// Whether this worker has to settle: it has not since it entered, or since another worker was recovered.
    pub fn transfers_due(&self) -> bool {
        self.settled.get() != Some(self.recoveries().load(SeqCst))
    }

    /// The other workers to which messages were sent that they have not received. After a recovery they have to settle.
    pub fn receivers(&self) -> impl Iterator<Item = usize> + '_ {
        self.others().filter(|worker| self.is_any_to(*worker, SENT))
    }

    /// The other workers that have not received what was sent to them, and do not answer.
    pub fn deaf_receivers(&self, now: Msec) -> impl Iterator<Item = usize> + '_ {
        self.receivers().filter(move |worker| !self.answers(*worker, now))
    }

    /// The number of connections to the server that are in transit.
    pub fn in_transit(&self, server: Server) -> u64 {
        let is_of_server = |ticket: &&AtomicU64| {
            step();
            let ticket = ticket.load(SeqCst);
            is_used(ticket) && server_of(ticket) == server
        };
        self.all_tickets().iter().filter(is_of_server).count() as u64
    }

    /// Nobody acts any more on what a killed worker has announced, so it counts as sent. `is_for_me` tells whether the
    /// caller is still the one to recover the worker.
    pub(super) fn recover_transfers(&self, worker: usize, is_for_me: impl Fn() -> bool) {
        for ticket in self.tickets(worker) {
            step();
            let left = ticket.load(SeqCst);
            // Checked after the ticket was read: what a new process announces is another use of the ticket.
            if left & STATE == ANNOUNCED && is_for_me() {
                step();
                // If this fails, it was received meanwhile.
                let _ = ticket.compare_exchange(left, left & !STATE | SENT, SeqCst, SeqCst);
            }
        }
        if self.has_given(worker) {
            step();
            self.recoveries().fetch_add(1, SeqCst);
        }
    }

    /// Whether connections from a worker are in transit.
    pub(super) fn has_given(&self, worker: usize) -> bool {
        self.tickets(worker).iter().any(|ticket| is_used(ticket.load(SeqCst)))
    }

    /// Whether messages to a worker were sent that were not received.
    pub(super) fn is_any_sent_to(&self, worker: usize) -> bool {
        self.is_any_to(worker, SENT)
    }

    fn is_any_to(&self, worker: usize, state: u64) -> bool {
        self.all_tickets().iter().any(|ticket| {
            step();
            is_to(ticket.load(SeqCst), worker, state)
        })
    }

    /// The tickets in a state with a worker as the receiver. `None` if there is no memory.
    fn all_to(&self, worker: usize, state: u64) -> Option<Vec<(&AtomicU64, u64)>> {
        let mut all = Vec::new();
        for ticket in self.all_tickets() {
            step();
            let word = ticket.load(SeqCst);
            if is_to(word, worker, state) {
                push(&mut all, (ticket, word))?;
            }
        }
        Some(all)
    }

    /// The ticket of a transfer. `None` if there is no such ticket.
    fn ticket(&self, transfer: Transfer) -> Option<&AtomicU64> {
        self.all_tickets().get(transfer.ticket as usize)
    }

    fn tickets(&self, worker: usize) -> &[AtomicU64] {
        &self.all_tickets()[worker * TICKETS..][..TICKETS]
    }

    fn all_tickets(&self) -> &[AtomicU64] {
        &self.table.words()[HEADER + HEADER_OF_WORKER * self.workers..][..TICKETS * self.workers]
    }

    /// How often workers were recovered that had sent, or might have sent, what was not received.
    fn recoveries(&self) -> &AtomicU64 {
        &self.table.words()[2]
    }
}

fn is_used(ticket: u64) -> bool {
    ticket & STATE != FREE
}

fn is_to(ticket: u64, worker: usize, state: u64) -> bool {
    ticket & STATE == state && (ticket >> RECEIVER_AT) & (RECEIVERS - 1) == worker as u64
}

/// The server of a ticket that is in use.
fn server_of(ticket: u64) -> Server {
    ((ticket >> SERVER_AT) & (SERVERS - 1)) as Server
}

/// A ticket when it is free again.
fn freed(ticket: u64) -> u64 {
    ticket & !(USED - 1)
}
