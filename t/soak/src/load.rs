//! Clients that send one request after the other, and judge what comes back.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::ask::{Ask, Manner, Outcome};
use crate::classes::{self, CLASSES};
use crate::client::{Answer, Connection};
use crate::diary::Diary;
use crate::random::Random;
use crate::tally::{Excuse, Tally};

/// An answer that has not come by then does not come any more. Whoever waits in a queue waits for less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that was closed while it was idle is found out so soon.
const AT_ONCE: Duration = Duration::from_secs(1);

pub struct Shared {
    pub address: SocketAddr,
    pub tally: Mutex<Tally>,
    pub diary: Arc<Mutex<Diary>>,
    stop: AtomicBool,
    serial: AtomicU64,
}

pub struct Load {
    pub shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients that send about `rate` requests in a second, all together.
    pub fn start(address: SocketAddr, clients: u64, rate: u64, seed: u64, diary: Arc<Mutex<Diary>>) -> Self {
        let shared = Arc::new(Shared {
            address,
            tally: Mutex::default(),
            diary,
            stop: AtomicBool::new(false),
            serial: AtomicU64::new(seed << 32),
        });
        // A request takes its time too, but most take little.
        let pause = 2_000_000 * clients / rate.max(1);
        let clients = (0..clients)
            .map(|client| tokio::spawn(run(shared.clone(), Random::new((seed << 16) + client), pause)))
            .collect();
        Self { shared, clients }
    }

    /// Returns when all clients have their last answer.
    pub async fn stop(self) -> Tally {
        self.shared.stop.store(true, Relaxed);
        for client in self.clients {
            if client.await.is_err() {
                self.shared
                    .tally
                    .lock()
                    .expect("no holder panics")
                    .blame("a client of the load has died".into());
            }
        }
        self.shared.tally.lock().expect("no holder panics").clone()
    }
}

/// One client. `pause` is the longest time between two requests, in microseconds.
async fn run(shared: Arc<Shared>, mut random: Random, pause: u64) {
    let mut connection = None;
    while !shared.stop.load(Relaxed) {
        sleep(Duration::from_micros(random.below(pause))).await;
        let class = classes::choose(&mut random);
        let id = format!("r{:x}", shared.serial.fetch_add(1, Relaxed));
        let ask = (CLASSES[class].make)(&mut random, &id);
        connection = request(&shared, class, &ask, connection).await;
        // Not all clients go on over one connection.
        if random.below(20) == 0 {
            connection = None;
        }
    }
}

/// Sends a request, and once more if its connection was closed before nginx can have seen it; returns the connection if it
/// can carry another one.
async fn request(
    shared: &Shared,
    class: usize,
    ask: &Ask,
    mut connection: Option<Connection>,
) -> Option<Connection> {
    for _ in 0..5 {
        let mut current = match connection.take() {
            Some(current) => current,
            None => match connected(shared).await {
                Ok(current) => current,
                Err((worker, error)) => match excuse(shared, worker, true) {
                    Some(excuse) => {
                        shared.tally.lock().expect("no holder panics").excuse(excuse);
                        continue;
                    }
                    None => {
                        blame(shared, class, ask, &format!("no connection to nginx: {error}"));
                        return None;
                    }
                },
            },
        };
        let (worker, sent) = (current.worker, Instant::now());
        match timeout(PATIENCE, converse(&mut current, ask)).await {
            Ok(Ok((outcome, answer))) => {
                let cut = matches!(outcome, Outcome::Cut(_)) && !ask.allowed.contains(&outcome);
                if let Some(excuse) = cut.then(|| excuse(shared, worker, false)).flatten() {
                    shared.tally.lock().expect("no holder panics").excuse(excuse);
                    return None;
                }
                judge(shared, class, ask, outcome, answer.as_ref());
                if let Manner::Resets(_) = ask.manner {
                    current.reset();
                    return None;
                }
                // nginx is about to close it, at once or when it has thrown away what still comes: no request of ours belongs there.
                if ask.may_be_unread(outcome) {
                    return None;
                }
                return answer.is_some_and(|answer| answer.reusable).then_some(current);
            }
            Ok(Err(error)) => match excuse(shared, worker, sent.elapsed() < AT_ONCE) {
                // What a killed worker had is lost; what a quitting one did not see is sent again, as browsers do.
                Some(excuse) => {
                    shared.tally.lock().expect("no holder panics").excuse(excuse);
                    if excuse != Excuse::Quitting {
                        return None;
                    }
                }
                None => {
                    blame(shared, class, ask, &format!("no answer: {error}"));
                    return None;
                }
            },
            Err(_) => {
                blame(shared, class, ask, "no answer in 60 s");
                return None;
            }
        }
    }
    blame(shared, class, ask, "no connection stays open");
    None
}

/// A connection whose worker is known; if that fails, the worker as far as it is known.
async fn connected(shared: &Shared) -> Result<Connection, (Option<i32>, io::Error)> {
    let mut connection = Connection::open(shared.address).await.map_err(|error| (None, error))?;
    let hello = async {
        connection.send(b"GET /hello HTTP/1.1\r\nHost: soak\r\n\r\n").await?;
        connection.receive(false).await
    };
    let answer = match timeout(PATIENCE, hello).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match answer {
        // A worker that quits lets nobody stay.
        Ok(answer) if answer.status == 204 && !answer.reusable => {
            Err((connection.worker, io::Error::other("the worker lets nobody stay")))
        }
        Ok(answer) if answer.status == 204 => Ok(connection),
        Ok(answer) => Err((connection.worker, io::Error::other(format!("hello: {}", answer.status)))),
        Err(error) => Err((connection.worker, error)),
    }
}

/// The request, and its answer unless the client leaves before.
async fn converse(connection: &mut Connection, ask: &Ask) -> io::Result<(Outcome, Option<Answer>)> {
    let bytes = ask.bytes();
    match ask.manner {
        Manner::LeavesSending(after) => {
            connection.send(&bytes[..bytes.len() / 2]).await?;
            sleep(Duration::from_millis(after)).await;
            return Ok((Outcome::Left, None));
        }
        Manner::Leaves(after) | Manner::Resets(after) => {
            connection.send(&bytes).await?;
            let stays = Duration::from_millis(after);
            // What comes meanwhile is of no interest.
            let _ = timeout(stays, connection.receive(false)).await;
            return Ok((Outcome::Left, None));
        }
        Manner::Tunnels | Manner::Stays => {}
    }
    // nginx may answer, and close, before it has read everything.
    let sent = connection.send(&bytes).await;
    let answer = match connection.receive(ask.method == "HEAD").await {
        Ok(answer) => answer,
        Err(error) => return Err(sent.err().unwrap_or(error)),
    };
    if !answer.complete {
        return Ok((Outcome::Cut(answer.status), Some(answer)));
    }
    if ask.manner == Manner::Tunnels && answer.status == 101 {
        connection.send(ask.id.as_bytes()).await?;
        let echo = connection.take(ask.id.len()).await?;
        let answer = Answer { body: echo, reusable: false, ..answer };
        return Ok((Outcome::Status(101), Some(answer)));
    }
    Ok((Outcome::Status(answer.status), Some(answer)))
}

/// Why a connection was lost, if that was to be expected. `unseen` says that it was lost at once, without a byte of an answer.
fn excuse(shared: &Shared, worker: Option<i32>, unseen: bool) -> Option<Excuse> {
    let diary = shared.diary.lock().expect("no holder panics");
    match worker {
        Some(worker) if diary.was_killed(worker) => Some(Excuse::Killed),
        Some(worker) if unseen && diary.was_told_to_quit(worker) && diary.reloaded_just_now() => {
            Some(Excuse::Quitting)
        }
        None if diary.killed_just_now() => Some(Excuse::KilledUnknown),
        None if diary.reloaded_just_now() => Some(Excuse::Quitting),
        _ => None,
    }
}

fn judge(shared: &Shared, class: usize, ask: &Ask, outcome: Outcome, answer: Option<&Answer>) {
    let rarely = CLASSES[class].rarely.is_some_and(|(rare, _)| rare == outcome);
    if !rarely && !ask.allowed.contains(&outcome) {
        blame(shared, class, ask, &format!("{outcome}"));
        return;
    }
    let tells = outcome == ask.allowed[0] || matches!(outcome, Outcome::Cut(_));
    if let Some(wrong) = answer.filter(|_| tells).and_then(|answer| wrong(ask, answer)) {
        blame(shared, class, ask, &wrong);
        return;
    }
    shared.tally.lock().expect("no holder panics").count(class, outcome);
}

/// What in an answer does not belong to the request.
fn wrong(ask: &Ask, answer: &Answer) -> Option<String> {
    for (name, value) in &ask.told {
        let told = answer.header(name).unwrap_or("");
        if told != value {
            return Some(format!("header {name} is {told:?}, not {value:?}"));
        }
    }
    let text = if ask.manner == Manner::Tunnels { Some(&ask.id) } else { ask.text.as_ref() }?;
    let is_right = match answer.complete {
        true => answer.body == text.as_bytes(),
        false => text.as_bytes().starts_with(&answer.body),
    };
    let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    (!is_right).then(|| {
        format!(
            "the body is {} bytes {:?}, not {} bytes {:?}",
            answer.body.len(),
            shown(&answer.body),
            text.len(),
            shown(text.as_bytes())
        )
    })
}

fn blame(shared: &Shared, class: usize, ask: &Ask, what: &str) {
    let target: String = ask.target.chars().take(200).collect();
    let mut tally = shared.tally.lock().expect("no holder panics");
    tally.blame(format!("{}: {what}: {} {target}", CLASSES[class].name, ask.method));
}
