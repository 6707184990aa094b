//! A naive version of the rule: it tries all choices of sightings, and looks at each pair of them.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::opinion::{cautious, opinion, Belief, Opinion, Sighting, Unit, REMEMBERED};

/// What was seen: whether the server has closed the connection, and the value.
#[derive(Clone, Copy, Debug)]
struct Seen {
    is_close: bool,
    value: u32,
}

fn is_within(a: u32, b: u32, share: u32) -> bool {
    a.max(b) - a.min(b) <= a.min(b) / share
}

fn tolerance(unit: Unit, value: u32) -> u32 {
    match unit {
        Unit::Age => 50.max(value / 16),
        Unit::Requests => 1,
    }
}

/// The belief that the choice leads to, if all of its closes agree and no connection has lived clearly longer.
fn belief(choice: &[Seen], needed: usize, share: u32, unit: Unit) -> Option<Belief> {
    let closes: Vec<u32> = choice.iter().filter(|it| it.is_close).map(|it| it.value).collect();
    let agree = closes.iter().all(|a| closes.iter().all(|b| is_within(*a, *b, share)));
    if closes.len() < needed || !agree {
        return None;
    }
    let (lowest, highest) = (*closes.iter().min()?, *closes.iter().max()?);
    let clearly_more = highest + tolerance(unit, highest).max(highest - lowest);
    let is_outlived = choice.iter().any(|it| !it.is_close && it.value >= clearly_more);
    (!is_outlived).then_some(Belief { lowest, highest, closes: closes.len() as u32 })
}

/// The belief of the newest sightings, of which one may be left out.
fn believe(all: &[Seen], newest: usize, share: u32, unit: Unit) -> Option<Belief> {
    let (deciding, older) = all.split_at(all.len().min(newest));
    let mut best = belief(deciding, newest - 1, share, unit);
    if best.is_none() {
        for left_out in 0..deciding.len() {
            let mut others = deciding.to_vec();
            let out = others.remove(left_out);
            let Some(found) = belief(&others, newest - 1, share, unit) else { continue };
            if left_out == 0 && out.value > found.highest {
                continue;
            }
            if best.is_none_or(|best| found.highest - found.lowest < best.highest - best.lowest) {
                best = Some(found);
            }
        }
    }
    let mut best = best?;
    for more in older.iter().filter(|it| it.is_close) {
        let (lowest, highest) = (best.lowest.min(more.value), best.highest.max(more.value));
        if is_within(lowest, highest, share) {
            best = Belief { lowest, highest, closes: best.closes + 1 };
        }
    }
    Some(best)
}

/// The newest five closes without those that a connection has outlived since.
fn standing(all: &[Seen], unit: Unit) -> Vec<u32> {
    let mut standing = Vec::new();
    for (at, it) in all.iter().enumerate().take(5) {
        let more = it.value + tolerance(unit, it.value).max(it.value / 2);
        if it.is_close && !all[..at].iter().any(|newer| !newer.is_close && newer.value >= more) {
            standing.push(it.value);
        }
    }
    standing
}

fn naive(all: &[Seen], unit: Unit) -> Opinion {
    let (sharp, blurred) = (believe(all, 5, 16, unit), believe(all, 8, 2, unit));
    match (sharp, blurred) {
        (Some(sharp), Some(_)) if sharp.closes >= 7 => Opinion::Believed(sharp),
        (_, Some(blurred)) => Opinion::Believed(blurred),
        (Some(sharp), None) => Opinion::Believed(sharp),
        (None, None) => match standing(all, unit).into_iter().min() {
            Some(lowest) => Opinion::Unsure { watch: lowest + tolerance(unit, lowest).max(lowest / 2) },
            None => Opinion::Nothing,
        },
    }
}

fn naive_caution(all: &[Seen], unit: Unit) -> Option<u32> {
    let closes = standing(all, unit);
    let (lowest, highest) = (*closes.iter().min()?, *closes.iter().max()?);
    if !is_within(lowest, highest, 2) {
        return Some(lowest);
    }
    let spread = (2.0 * f64::from(highest - lowest) / closes.len() as f64).ceil();
    Some(lowest - (spread as u32).min(lowest))
}

/// Sightings of a server that keeps to a limit more or less, and others.
fn sightings() -> impl Strategy<Value = Vec<Seen>> {
    let limit = prop_oneof![1u32..200, 200u32..20_000];
    let sighting = |limit: u32| {
        let near = limit..=limit + limit / 8 + 1;
        let value = prop_oneof![
            6 => near,
            2 => limit..=limit * 8 / 5 + 60,
            1 => 1..=limit * 3 + 200,
            1 => prop::sample::select(vec![1, limit + limit / 16, limit + 50, limit + limit / 2, limit + limit / 8]),
        ];
        (prop::bool::weighted(0.85), value).prop_map(|(is_close, value)| Seen { is_close, value })
    };
    limit.prop_flat_map(move |limit| prop::collection::vec(sighting(limit), 0..=REMEMBERED))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_rule_agrees_with_the_naive_one(all in sightings(), is_age in any::<bool>()) {
        let unit = if is_age { Unit::Age } else { Unit::Requests };
        let of = |it: &Seen| if it.is_close { Sighting::closed(it.value) } else { Sighting::lived(it.value) };
        let list: Vec<Sighting> = all.iter().map(of).collect();
        prop_assert_eq!(opinion(&list, unit), naive(&all, unit));
        prop_assert_eq!(cautious(&list, unit), naive_caution(&all, unit));
    }
}
