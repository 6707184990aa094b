//! Servers of HTTP/2 that are killed, and come back at the same address.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::Options;

pub struct Mortal {
    backend: PathBuf,
    journal: PathBuf,
    address: SocketAddr,
    process: Child,
    died: Option<Instant>,
}

/// Returns when all of them serve.
pub async fn start(options: &Options) -> io::Result<Vec<Mortal>> {
    let (backend, journal) = (&options.backend, &options.journal);
    let mut mortals = Vec::new();
    for address in &options.mortal {
        let process = run(backend, journal, *address)?;
        mortals.push(Mortal {
            backend: backend.clone(),
            journal: journal.clone(),
            address: *address,
            process,
            died: None,
        });
    }
    let asked = Instant::now();
    while !mortals.iter().all(Mortal::is_up) {
        if asked.elapsed() > Duration::from_secs(10) {
            return Err(io::Error::other("a server does not start"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(mortals)
}

fn run(backend: &PathBuf, journal: &PathBuf, address: SocketAddr) -> io::Result<Child> {
    Command::new(backend)
        .args(["--protocol", "http2", "--control", "127.0.0.1:0", "--exit-with-parent", "--listen"])
        .arg(address.to_string())
        .arg("--journal")
        .arg(journal)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
}

impl Mortal {
    pub fn is_up(&self) -> bool {
        self.died.is_none() && TcpStream::connect(self.address).is_ok()
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.died = Some(Instant::now());
    }

    /// Comes back if it has been dead for so long.
    pub fn return_after(&mut self, away: Duration) -> io::Result<()> {
        if self.died.is_some_and(|at| at.elapsed() >= away) {
            self.process = run(&self.backend, &self.journal, self.address)?;
            self.died = None;
        }
        Ok(())
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.kill();
    }
}
