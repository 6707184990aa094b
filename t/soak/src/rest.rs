//! The state in which nobody asks anything, and all connections have had their time.

use std::io;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::client::get;
use crate::numbers::{self, Served, Status};
use crate::processes::{self, Process};
use crate::proof::Proof;
use crate::Soak;

/// Old workers serve their last requests, and idle connections have a timeout of 2 s.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
pub struct Rest {
    pub status: Status,
    /// By server; those that speak TLS are the last.
    pub served: Vec<Served>,
    pub master: Process,
    pub workers: Vec<Process>,
    /// How often each front has been asked for its numbers: each time is a connection and a request of its own.
    pub front_asked: i64,
}

impl Rest {
    /// Waits for it, and notes what does not come to rest.
    pub async fn reach(soak: &Soak, proof: &mut Proof) -> io::Result<Self> {
        let asked = Instant::now();
        loop {
            let (rest, busy) = Self::look(soak, proof).await?;
            if busy.is_empty() {
                return Ok(rest);
            }
            if asked.elapsed() > PATIENCE {
                proof.problems(busy.into_iter().map(|what| format!("at rest, {what}")));
                return Ok(rest);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn look(soak: &Soak, proof: &mut Proof) -> io::Result<(Self, Vec<String>)> {
        let options = &soak.options;
        let (pids, others) = processes::workers(options.master);
        let mut busy = Vec::new();
        if pids.len() != options.workers || others > 0 {
            busy.push(format!("there are {} workers and {others} old ones", pids.len()));
        }
        let status = Status::ask(options.nginx).await?;
        busy.extend(status.not_zero());
        let mut served = Vec::new();
        for control in &options.control {
            served.extend(numbers::served(*control).await?);
        }
        proof.front_asked += 1;
        for (address, status) in options.front.iter().zip(&options.front_status) {
            served.push(numbers::front(*status, address).await?);
        }
        for open in served.iter().filter(|served| served.open != 0) {
            busy.push(format!("{} has {} connections open", open.address, open.open));
        }
        // The connection that has asked is closed now, or soon.
        sleep(Duration::from_millis(100)).await;
        let workers: Vec<_> = pids.iter().filter_map(|pid| processes::look(*pid)).collect();
        let master = processes::look(options.master).unwrap_or_default();
        Ok((Self { status, served, master, workers, front_asked: proof.front_asked }, busy))
    }
}

/// The places that `max_conns` gives the servers of `queued`, all together.
const PLACES: i64 = 6;

/// Whether as many requests as `max_conns` allows still find their places, so that none was lost.
pub async fn places(soak: &Soak, part: &str, proof: &mut Proof) -> io::Result<()> {
    let nginx = soak.options.nginx;
    let requests: Vec<_> = (0..PLACES).map(|_| tokio::spawn(get(nginx, "/queued?delay=3000"))).collect();
    let servers = [soak.listener("queued", 0)?, soak.listener("queued", 1)?];
    let mut most = 0;
    while !requests.iter().all(|request| request.is_finished()) {
        sleep(Duration::from_millis(50)).await;
        let served = numbers::served(soak.options.control[0]).await?;
        let busy: i64 =
            servers.iter().filter_map(|server| served.get(*server)).map(|server| server.busy).sum();
        most = busy.max(most);
    }
    proof.check(
        most == PLACES,
        format!("{part}: {most} of {PLACES} places of a limited upstream can be had at a time"),
    );
    Ok(())
}
