//! What is done to nginx and to its servers while the load goes on.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use tokio::time::sleep;

use crate::client::get;
use crate::mortal::Mortal;
use crate::processes::{self, Process};
use crate::random::Random;
use crate::Soak;

/// nginx is read anew so often, and the first time after `FIRST_RELOAD`.
const RELOADS: Duration = Duration::from_secs(20);
const FIRST_RELOAD: Duration = Duration::from_secs(5);

/// A worker is killed so often, on average.
const KILLS: Duration = Duration::from_secs(60);

/// The servers of `dying` end all idle connections so often, and one of `refusing` takes none.
const DROPS: Duration = Duration::from_secs(2);
const REFUSALS: Duration = Duration::from_secs(7);

/// A server of `mortal` is killed so often, and is away for so long; one of `streams` says goodbye, and allows another number of
/// streams.
const DEATHS: Duration = Duration::from_secs(2);
const AWAY: Duration = Duration::from_millis(300);

/// A busy machine takes its time to start workers.
const START: Duration = Duration::from_secs(20);

/// Memory of processes, each time measured in the same situation.
#[derive(Default)]
pub struct Series {
    /// Just before a reload.
    pub master: Vec<Process>,
    /// All workers just before a reload ends their life.
    pub workers: Vec<Process>,
}

pub struct Trouble {
    pub reloads: bool,
    pub kills: bool,
}

/// Makes trouble until the time is over; returns what went wrong.
pub async fn make(
    soak: &Soak,
    trouble: &Trouble,
    until: Instant,
    series: &mut Series,
    random: &mut Random,
) -> io::Result<Vec<String>> {
    let mut problems = Vec::new();
    let begin = Instant::now();
    let mut next_reload = begin + FIRST_RELOAD;
    let mut next_kill = begin + KILLS / 5;
    let mut next_drop = begin + DROPS;
    let mut next_refusal = begin + REFUSALS / 2;
    let mut next_death = begin + DEATHS;
    let (mut round, mut deaths) = (0, 0);
    while Instant::now() < until {
        sleep(Duration::from_millis(20)).await;
        let now = Instant::now();
        if trouble.reloads && now > next_reload {
            next_reload += RELOADS;
            series.take(soak);
            problems.extend(reload(soak).await);
        }
        if trouble.kills && now > next_kill {
            // Sometimes shortly before or after a reload.
            next_kill += KILLS - Duration::from_secs(10) + Duration::from_millis(random.below(20_000));
            kill(soak, random);
        }
        if now > next_drop {
            next_drop += DROPS;
            round += 1;
            let listener = soak.listener("dying", round / 2 % 2)?;
            let how = if round % 2 == 0 { "close" } else { "reset" };
            get(soak.options.control[0], &format!("/drop?how={how}&listener={listener}")).await?;
            soak.diary().drops += 1;
        }
        if now > next_refusal {
            next_refusal += REFUSALS;
            let listener = soak.listener("refusing", 0)?;
            get(soak.options.control[0], &format!("/refuse?ms=200&listener={listener}")).await?;
            soak.diary().refusals += 1;
        }
        if now > next_death {
            next_death += DEATHS;
            deaths += 1;
            say_goodbye(soak, deaths, random).await?;
            kill_server(soak, deaths);
        }
        for mortal in &mut *soak.mortals() {
            mortal.return_after(AWAY)?;
        }
    }
    Ok(problems)
}

impl Series {
    fn take(&mut self, soak: &Soak) {
        let (workers, _) = processes::workers(soak.options.master);
        self.master.extend(processes::look(soak.options.master));
        // One that has taken a killed one's place is younger.
        let old = workers.iter().filter(|pid| soak.workers.lock().expect("no holder panics").contains(pid));
        self.workers.extend(old.filter_map(|pid| processes::look(*pid)));
    }
}

/// Returns when the new workers are there.
pub async fn reload(soak: &Soak) -> Option<String> {
    let (old, _) = processes::workers(soak.options.master);
    soak.diary().reload(&old);
    signal(soak.options.master, Signal::HUP);
    let asked = Instant::now();
    while asked.elapsed() < START {
        sleep(Duration::from_millis(10)).await;
        let (workers, _) = processes::workers(soak.options.master);
        if workers.len() == soak.options.workers && !workers.iter().any(|pid| old.contains(pid)) {
            *soak.workers.lock().expect("no holder panics") = workers;
            return None;
        }
    }
    Some("a reload brought no new workers".into())
}

fn kill(soak: &Soak, random: &mut Random) {
    let (workers, _) = processes::workers(soak.options.master);
    let Some(pid) = workers.get(random.below(workers.len() as u64) as usize) else { return };
    soak.diary().kill(*pid);
    signal(*pid, Signal::KILL);
}

/// Not if the other one, which was killed before, is not back.
fn kill_server(soak: &Soak, number: usize) {
    let mut mortals = soak.mortals();
    if mortals.iter().all(Mortal::is_up) {
        let chosen = number % mortals.len();
        mortals[chosen].kill();
        soak.diary().deaths += 1;
    }
}

async fn say_goodbye(soak: &Soak, number: usize, random: &mut Random) -> io::Result<()> {
    let control = soak.options.streams_control;
    get(control, format!("/goaway?listener={}", number % 2)).await?;
    get(control, format!("/settings?listener={}&streams={}", (number + 1) % 2, random.between(1, 50)))
        .await?;
    soak.diary().goodbyes += 1;
    Ok(())
}

pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
