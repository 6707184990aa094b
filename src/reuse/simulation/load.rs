//! When the clients of the simulation send their requests. All is determined by a seed.
#![forbid(unsafe_code)]

/// A generator of random numbers (splitmix64).
#[derive(Clone, Copy)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Whether something happens that does so this often.
    pub fn chance(&mut self, share: f64) -> bool {
        self.fraction() < share
    }

    /// A number between 0 and 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time until something happens that happens on average once in `mean`.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        (-(1.0 - self.fraction()).ln() * mean as f64) as u64
    }
}

/// When requests come. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Each client waits between two requests for a time between these.
    Clients { number: usize, least: u64, most: u64 },
    /// All clients send at the same moment. The time between two such moments is between these.
    Together { number: usize, least: u64, most: u64 },
    /// Requests come at any moment, on average one in this time.
    Any { mean: u64 },
}

/// A request, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub at: u64,
    pub worker: usize,
    pub is_post: bool,
}

impl Load {
    /// All requests until `end` milliseconds, in order, by the workers that the kernel chooses. A share of them are POST.
    pub fn requests(self, end: u64, workers: usize, posts: f64, random: &mut Random) -> Vec<Request> {
        let mut all = Vec::new();
        let end = end * 1000;
        match self {
            Self::Clients { number, least, most } => {
                for _ in 0..number {
                    let mut at = random.between(0, most * 1000);
                    while at < end {
                        all.push(at);
                        at += random.between(least * 1000, most * 1000);
                    }
                }
            }
            Self::Together { number, least, most } => {
                let mut at = 0;
                while at < end {
                    all.extend((0..number).map(|_| at + random.between(0, 500)));
                    at += random.between(least * 1000, most * 1000);
                }
            }
            Self::Any { mean } => {
                let mut at = 0;
                while at < end {
                    all.push(at);
                    at += 1 + random.exponential(mean * 1000);
                }
            }
        }
        all.sort_unstable();
        let mut request = |at| Request { at, worker: random.below(workers), is_post: random.chance(posts) };
        all.into_iter().map(&mut request).collect()
    }
}
