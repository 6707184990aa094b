//! What came of all requests, by their class.

use std::collections::BTreeMap;

use crate::ask::Outcome;
use crate::classes::CLASSES;

/// So many unexplained outcomes are told in full.
const MAX_TOLD: usize = 20;

/// Why a request was lost, or had to be sent again by the client, through no fault of nginx.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Excuse {
    /// Its worker was killed.
    Killed,
    /// A worker was killed when this connection was so new that it is not known whose it was.
    KilledUnknown,
    /// A worker that quits closes the connections of clients that have not asked anything.
    Quitting,
}

#[derive(Clone, Default)]
pub struct Tally {
    outcomes: BTreeMap<(usize, Outcome), u64>,
    excuses: BTreeMap<Excuse, u64>,
    pub unexplained: u64,
    told: Vec<String>,
}

impl Tally {
    pub fn count(&mut self, class: usize, outcome: Outcome) {
        *self.outcomes.entry((class, outcome)).or_default() += 1;
    }

    pub fn excuse(&mut self, excuse: Excuse) {
        *self.excuses.entry(excuse).or_default() += 1;
    }

    pub fn blame(&mut self, what: String) {
        self.unexplained += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push(what);
        }
    }

    pub fn told(&self) -> &[String] {
        &self.told
    }

    pub fn requests(&self) -> u64 {
        self.outcomes.values().sum()
    }

    pub fn excused(&self, excuse: Excuse) -> u64 {
        self.excuses.get(&excuse).copied().unwrap_or(0)
    }

    /// How many requests of a class had this outcome.
    pub fn of(&self, class: usize, outcome: Outcome) -> u64 {
        self.outcomes.get(&(class, outcome)).copied().unwrap_or(0)
    }

    pub fn of_class(&self, class: usize) -> u64 {
        self.outcomes.iter().filter(|((of, _), _)| *of == class).map(|(_, count)| count).sum()
    }

    /// How many answers show that `auth_subrequest` has decided so.
    pub fn decided(&self, decision: &str) -> u64 {
        let decided = |(class, _): &(usize, Outcome)| CLASSES[*class].decision == Some(decision);
        self.outcomes.iter().filter(|(key, _)| decided(key)).map(|(_, count)| count).sum()
    }

    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.outcomes {
            *self.outcomes.entry(*key).or_default() += count;
        }
        for (excuse, count) in &other.excuses {
            *self.excuses.entry(*excuse).or_default() += count;
        }
        self.unexplained += other.unexplained;
        let room = MAX_TOLD.saturating_sub(self.told.len());
        self.told.extend(other.told.iter().take(room).cloned());
    }

    /// Outcomes that were allowed to be rare, and were not.
    pub fn too_often(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (number, class) in CLASSES.iter().enumerate() {
            let Some((outcome, share)) = class.rarely else { continue };
            let (count, all) = (self.of(number, outcome), self.of_class(number));
            // A few are no share at all.
            if count as f64 > 5.0 + share * all as f64 {
                found.push(format!("{}: {outcome} {count} times in {all} requests", class.name));
            }
        }
        found
    }

    /// One line for each class.
    pub fn table(&self) -> String {
        let mut table = format!("{:<28} {:>9}  {}\n", "", "requests", "outcomes");
        for (number, class) in CLASSES.iter().enumerate() {
            let outcomes: Vec<_> = self
                .outcomes
                .iter()
                .filter(|((of, _), _)| *of == number)
                .map(|((_, outcome), count)| format!("{outcome}: {count}"))
                .collect();
            let why = if class.why.is_empty() { String::new() } else { format!("  ({})", class.why) };
            let all = self.of_class(number);
            table.push_str(&format!("{:<28} {all:>9}  {}{why}\n", class.name, outcomes.join(", ")));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up() {
        let mut tally = Tally::default();
        tally.count(0, Outcome::Status(200));
        tally.count(0, Outcome::Left);
        tally.blame("x".into());
        tally.excuse(Excuse::Killed);
        let mut sum = tally.clone();
        sum.add(&tally);
        assert_eq!((sum.requests(), sum.of(0, Outcome::Left), sum.of_class(0)), (4, 2, 4));
        assert_eq!((sum.unexplained, sum.excused(Excuse::Killed), sum.told().len()), (2, 2, 2));
    }

    #[test]
    fn rare_is_rare() {
        let class = CLASSES.iter().position(|class| class.rarely.is_some()).unwrap();
        let mut tally = Tally::default();
        for _ in 0..1000 {
            tally.count(class, Outcome::Status(200));
        }
        (0..10).for_each(|_| tally.count(class, Outcome::Status(502)));
        assert!(tally.too_often().is_empty());
        (0..10).for_each(|_| tally.count(class, Outcome::Status(502)));
        assert_eq!(tally.too_often().len(), 1);
    }
}
