//! What a listener has seen.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::http2::Counts;

/// The names of requests, for whoever looks when this process is no more.
static JOURNAL: OnceLock<File> = OnceLock::new();

pub fn keep_journal(path: &Path) -> io::Result<()> {
    let file = File::options().append(true).create(true).open(path)?;
    JOURNAL.set(file).map_err(|_| io::ErrorKind::AlreadyExists.into())
}

/// Counters of one listener; a reset replaces them by new ones, so connections older than it no longer count.
#[derive(Default)]
pub struct Stats {
    accepted: AtomicU64,
    open: AtomicU64,
    max_open: AtomicU64,
    /// The sockets of the open connections, by serial.
    sockets: Mutex<HashMap<u64, OwnedFd>>,
    requests: AtomicU64,
    busy: AtomicU64,
    left_over: AtomicU64,
    /// Connections that were closed because they were idle for too long (`idle=`).
    expired: AtomicU64,
    last: Mutex<Vec<u8>>,
    /// The names of requests.
    ids: Mutex<HashSet<String>>,
    ids_again: AtomicU64,
    pub http2: Counts,
}

impl Stats {
    /// Counts a new connection; returns its serial, the first one being 1.
    pub fn opened(&self, socket: Option<OwnedFd>) -> u64 {
        let serial = self.accepted.fetch_add(1, Relaxed) + 1;
        self.open.fetch_add(1, Relaxed);
        let mut sockets = self.sockets.lock().expect("no holder panics");
        sockets.extend(socket.map(|socket| (serial, socket)));
        // Not more than there are, so the kernel need not be asked each time.
        if sockets.len() as u64 > self.max_open.load(Relaxed) {
            self.max_open.fetch_max(alive(&sockets), Relaxed);
        }
        serial
    }

    /// Counts a closed connection and the bytes it had sent that belong to no complete request.
    pub fn closed(&self, serial: u64, left_over: usize) {
        self.sockets.lock().expect("no holder panics").remove(&serial);
        self.open.fetch_sub(1, Relaxed);
        self.left_over.fetch_add(left_over as u64, Relaxed);
    }

    /// Counts a connection that is going to be closed because it was idle for too long.
    pub fn expired(&self) {
        self.expired.fetch_add(1, Relaxed);
    }

    /// Counts a request, as one that is being answered until what this returns is dropped.
    pub fn request(&self) -> Busy<'_> {
        self.requests.fetch_add(1, Relaxed);
        self.busy.fetch_add(1, Relaxed);
        Busy(&self.busy)
    }

    /// Notes the name of a request that has come as a whole.
    pub fn note_id(&self, id: Option<&str>) {
        let Some(id) = id else { return };
        if let Some(mut journal) = JOURNAL.get() {
            // In one piece, as others write too.
            let _ = journal.write_all(format!("{id}\n").as_bytes());
        }
        if !self.ids.lock().expect("no holder panics").insert(id.into()) {
            self.ids_again.fetch_add(1, Relaxed);
        }
    }

    /// Keeps a request as it came, until the next one has come.
    pub fn keep(&self, bytes: Vec<u8>) {
        *self.last.lock().expect("no holder panics") = bytes;
    }

    /// The request that came last.
    pub fn last(&self) -> String {
        String::from_utf8_lossy(&self.last.lock().expect("no holder panics")).into_owned()
    }
}

/// A request that is being answered.
pub struct Busy<'a>(&'a AtomicU64);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How many of these sockets the peer has not closed. The kernel is asked: it knows of a peer that closed one connection
/// before it opened the next, when the task of the closed one has not run yet.
fn alive(sockets: &HashMap<u64, OwnedFd>) -> u64 {
    let mut polled: Vec<_> = sockets.values().map(|socket| PollFd::new(socket, PollFlags::RDHUP)).collect();
    let closed = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap_or(0);
    (polled.len() - closed) as u64
}

/// The members of a JSON object, without its braces.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.ids.lock().expect("no holder panics").len();
        let [accepted, open, max_open, requests, busy, left_over, expired, again] = [
            &self.accepted,
            &self.open,
            &self.max_open,
            &self.requests,
            &self.busy,
            &self.left_over,
            &self.expired,
            &self.ids_again,
        ]
        .map(|counter| counter.load(Relaxed));
        write!(
            f,
            r#""accepted":{accepted},"open":{open},"max_open":{max_open},"requests":{requests},"busy":{busy},"bytes_left_over":{left_over},"expired":{expired},"ids":{ids},"ids_again":{again}"#
        )
    }
}
