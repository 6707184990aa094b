//! A long mixed load on an nginx with this module, trouble of all kinds meanwhile, and the proof that nothing is lost by it.
//! `scripts/soak` starts nginx and its servers, and then this.
//!
//! Three parts follow each other, after each of which everything comes to rest and is compared: one with reloads, one with
//! killed workers too, and one in which the same workers live to its end.
#![forbid(unsafe_code)]

mod ask;
mod classes;
mod client;
mod diary;
mod load;
mod memory;
mod mortal;
mod numbers;
mod processes;
mod proof;
mod random;
mod rest;
mod tally;
mod trouble;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::Signal;
use tokio::time::sleep;

use diary::Diary;
use load::Load;
use memory::Watched;
use mortal::Mortal;
use proof::Proof;
use random::Random;
use rest::Rest;
use tally::Tally;
use trouble::{Series, Trouble};

#[derive(Parser)]
#[command(about = "Loads an nginx, makes trouble, and proves that nothing is lost.")]
pub struct Options {
    /// Where nginx listens, with the locations of nginx-conf/soak.conf.
    #[arg(long)]
    pub nginx: SocketAddr,

    /// The pid of its master.
    #[arg(long)]
    pub master: i32,

    #[arg(long, default_value_t = 2)]
    pub workers: usize,

    #[arg(long)]
    pub error_log: PathBuf,

    /// Control listeners of the scripted backends; the first one has `dying` and `refusing`.
    #[arg(long, required = true)]
    pub control: Vec<SocketAddr>,

    /// The control listener, one of these, of the backend that has `streams`.
    #[arg(long)]
    pub streams_control: SocketAddr,

    /// The servers that speak TLS, as the module names them.
    #[arg(long, required = true)]
    pub front: Vec<String>,

    /// Their `stub_status`.
    #[arg(long, required = true)]
    pub front_status: Vec<SocketAddr>,

    /// The program of the servers that are killed.
    #[arg(long)]
    pub backend: PathBuf,

    /// Where they listen.
    #[arg(long, required = true)]
    pub mortal: Vec<SocketAddr>,

    /// Where servers write down which requests they have received.
    #[arg(long)]
    pub journal: PathBuf,

    #[arg(long)]
    pub minutes: f64,

    /// Requests in a second.
    #[arg(long, default_value_t = 500)]
    pub rate: u64,

    #[arg(long, default_value_t = 64)]
    pub clients: u64,

    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Do not judge memory: for builds that never give any back.
    #[arg(long)]
    pub any_memory: bool,
}

pub struct Soak {
    pub options: Options,
    diary: Arc<Mutex<Diary>>,
    /// The workers that the last reload has started.
    pub workers: Mutex<Vec<i32>>,
    mortals: Mutex<Vec<Mortal>>,
    /// The upstreams' servers: upstream, address.
    servers: Vec<(String, String)>,
    /// The addresses of the listeners of the first backend.
    listeners: Vec<String>,
    began: Instant,
}

impl Soak {
    pub fn diary(&self) -> MutexGuard<'_, Diary> {
        self.diary.lock().expect("no holder panics")
    }

    pub fn mortals(&self) -> MutexGuard<'_, Vec<Mortal>> {
        self.mortals.lock().expect("no holder panics")
    }

    /// The number, as the backend's control listener knows it, of one of the servers of an upstream.
    pub fn listener(&self, upstream: &str, number: usize) -> io::Result<usize> {
        let server = self.servers.iter().filter(|(of, _)| of == upstream).nth(number);
        let found =
            server.and_then(|(_, server)| self.listeners.iter().position(|address| address == server));
        found.ok_or_else(|| io::Error::other(format!("no server {number} of {upstream}")))
    }

    fn say(&self, what: &str) {
        println!("[{:>4}s] {what}", self.began.elapsed().as_secs());
    }
}

struct Part {
    name: &'static str,
    share: f64,
    longest: Duration,
    trouble: Trouble,
}

const PARTS: [Part; 3] = [
    Part {
        name: "reloads",
        share: 0.2,
        longest: Duration::from_secs(300),
        trouble: Trouble { reloads: true, kills: false },
    },
    Part {
        name: "reloads, killed workers",
        share: 0.6,
        longest: Duration::MAX,
        trouble: Trouble { reloads: true, kills: true },
    },
    Part {
        name: "the same workers",
        share: 0.2,
        longest: Duration::from_secs(300),
        trouble: Trouble { reloads: false, kills: false },
    },
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match soak(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn soak(options: Options) -> io::Result<bool> {
    let servers = numbers::Status::ask(options.nginx).await?.servers();
    let listeners =
        numbers::served(options.control[0]).await?.into_iter().map(|served| served.address).collect();
    let workers = Mutex::new(processes::workers(options.master).0);
    let mortals = Mutex::new(mortal::start(&options).await?);
    let soak =
        Soak { options, diary: Arc::default(), workers, mortals, servers, listeners, began: Instant::now() };
    let mut proof = Proof::default();
    let mut all = Tally::default();
    let mut series = Series::default();
    let mut random = Random::new(soak.options.seed);

    // Everything comes to life, and to its first rest.
    let (tally, _) = part(
        &soak,
        "warming up",
        Duration::from_secs(5),
        &Trouble { reloads: false, kills: false },
        1,
        &mut series,
        &mut random,
        &mut proof,
    )
    .await?;
    all.add(&tally);
    proof.problems(trouble::reload(&soak).await);
    let mut rests = vec![Rest::reach(&soak, &mut proof).await?];

    let mut left = Duration::from_secs_f64(soak.options.minutes * 60.0);
    for (number, of) in PARTS.iter().enumerate() {
        let length = match number {
            1 => left.saturating_sub(
                PARTS[2].longest.min(Duration::from_secs_f64(soak.options.minutes * 60.0 * PARTS[2].share)),
            ),
            2 => left,
            _ => of.longest.min(Duration::from_secs_f64(soak.options.minutes * 60.0 * of.share)),
        };
        left = left.saturating_sub(length);
        if !of.trouble.reloads {
            proof.problems(trouble::reload(&soak).await);
            rests.push(Rest::reach(&soak, &mut proof).await?);
        }
        let kills = soak.diary().kills();
        let deaths = soak.diary().deaths;
        let (tally, watched) = part(
            &soak,
            of.name,
            length,
            &of.trouble,
            number as u64 + 2,
            &mut series,
            &mut random,
            &mut proof,
        )
        .await?;
        soak.say("coming to rest");
        let rest = Rest::reach(&soak, &mut proof).await?;
        let kills = soak.diary().kills() - kills;
        let before = rests.last().expect("there is one from the start");
        proof.counters(&soak, of.name, before, &rest, &tally, kills);
        proof.lost(&soak, of.name, &tally, kills);
        let deaths = soak.diary().deaths - deaths;
        proof.lost_with_servers(&soak, of.name, &tally, deaths);
        if !of.trouble.reloads && !soak.options.any_memory {
            proof.same_workers(&watched);
        }
        rests.push(rest);
        rest::places(&soak, of.name, &mut proof).await?;
        all.add(&tally);
    }

    if !soak.options.any_memory {
        proof.memory(&series);
    }
    proof.rests(&rests);
    stop(&soak, &mut proof).await;
    proof.error_log(&soak)?;
    proof.journal(&soak)?;
    proof.answers(&all);
    proof.print(&soak, &all);
    Ok(proof.holds())
}

/// The load, and the trouble, for some time.
#[expect(clippy::too_many_arguments, reason = "all of what a soak consists of")]
async fn part(
    soak: &Soak,
    name: &str,
    length: Duration,
    trouble: &Trouble,
    seed: u64,
    series: &mut Series,
    random: &mut Random,
    proof: &mut Proof,
) -> io::Result<(Tally, Watched)> {
    soak.say(&format!("{name}: {} s", length.as_secs()));
    let options = &soak.options;
    let load = Load::start(
        options.nginx,
        options.clients,
        options.rate,
        options.seed * 100 + seed,
        soak.diary.clone(),
    );
    let until = Instant::now() + length;
    let mut watched = Watched::default();
    tokio::select! {
        problems = trouble::make(soak, trouble, until, series, random) => proof.problems(problems?),
        () = watch(soak, name, &load, &mut watched) => {}
    }
    Ok((load.stop().await, watched))
}

/// Tells each five seconds how it goes, and looks at the processes each second.
async fn watch(soak: &Soak, name: &str, load: &Load, watched: &mut Watched) {
    let mut before = 0;
    for second in 1.. {
        sleep(Duration::from_secs(1)).await;
        watched.look(soak);
        if second % 5 > 0 {
            continue;
        }
        let (requests, unexplained) = {
            let tally = load.shared.tally.lock().expect("no holder panics");
            (tally.requests(), tally.unexplained)
        };
        let (reloads, kills) = {
            let diary = soak.diary();
            (diary.reloads, diary.kills())
        };
        soak.say(&format!(
            "{name}: {requests} requests, {}/s, {reloads} reloads, {kills} killed, {unexplained} unexplained; {watched}",
            (requests - before) / 5
        ));
        before = requests;
    }
}

async fn stop(soak: &Soak, proof: &mut Proof) {
    soak.say("nginx is told to quit");
    trouble::signal(soak.options.master, Signal::QUIT);
    let asked = Instant::now();
    while processes::is_alive(soak.options.master) {
        if asked.elapsed() > Duration::from_secs(30) {
            proof.problems(["nginx does not exit".to_string()]);
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}
