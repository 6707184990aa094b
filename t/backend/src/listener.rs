//! One listening address: its accept loop, and the handle by which control commands reach it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, Instant};

use crate::address::{Address, Socket};
use crate::connection::{self, Farewell};
use crate::protocol::Protocol;
use crate::stats::Stats;

/// A handle to a running listener.
pub struct Listener {
    address: Address,
    stats: Arc<Mutex<Arc<Stats>>>,
    farewell: watch::Sender<Farewell>,
    refuse: mpsc::Sender<Refusal>,
}

/// For how long, and whom to tell once the socket is closed.
type Refusal = (Duration, oneshot::Sender<()>);

impl Listener {
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn stats(&self) -> Arc<Stats> {
        self.stats.lock().expect("no holder panics").clone()
    }

    /// Starts counting anew, serials of connections included.
    pub fn reset(&self) {
        *self.stats.lock().expect("no holder panics") = Arc::default();
    }

    /// Makes every connection that waits for a request end this way.
    pub fn drop_idle(&self, farewell: Farewell) {
        self.farewell.send_replace(farewell);
    }

    /// Closes the listening socket for this long; when this returns, connections are refused.
    pub async fn refuse(&self, duration: Duration) {
        let (closed, is_closed) = oneshot::channel();
        if self.refuse.send((duration, closed)).await.is_ok() {
            let _ = is_closed.await;
        }
    }
}

/// Starts the listener with this number, as scripts may name it.
pub async fn start(number: usize, address: &Address, protocol: Protocol) -> io::Result<Listener> {
    let socket = address.bind().await?;
    let address = socket.address()?;
    let stats: Arc<Mutex<Arc<Stats>>> = Arc::default();
    let (farewell, farewells) = watch::channel(Farewell::Close);
    let (refuse, refusals) = mpsc::channel(1);

    tokio::spawn(accept_loop(socket, number, address.clone(), protocol, stats.clone(), farewells, refusals));

    Ok(Listener { address, stats, farewell, refuse })
}

async fn accept_loop(
    mut socket: Socket,
    number: usize,
    address: Address,
    protocol: Protocol,
    stats: Arc<Mutex<Arc<Stats>>>,
    farewells: watch::Receiver<Farewell>,
    mut refusals: mpsc::Receiver<Refusal>,
) {
    loop {
        tokio::select! {
            biased;
            Some((duration, closed)) = refusals.recv() => {
                drop(socket);
                let _ = closed.send(());
                sleep(duration).await;
                socket = match rebind(&address).await {
                    Some(socket) => socket,
                    None => return,
                };
            }
            accepted = socket.accept() => {
                let Ok(stream) = accepted else { continue };
                let stats = stats.lock().expect("no holder panics").clone();
                let serial = stats.opened(stream.duplicate().ok());
                let mut farewells = farewells.clone();
                farewells.mark_unchanged();
                tokio::spawn(connection::serve(stream, protocol, number, serial, stats, farewells));
            }
        }
    }
}

/// Takes the address again; a client may hold the port as its own for a moment.
async fn rebind(address: &Address) -> Option<Socket> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match address.bind().await {
            Ok(socket) => return Some(socket),
            Err(error) if Instant::now() > deadline => {
                eprintln!("cannot listen on {address} again: {error}");
                return None;
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
