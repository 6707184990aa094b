//! What a few sightings say.
#![forbid(unsafe_code)]

use super::super::opinion::{cautious, opinion, Belief, Opinion, Sighting, Unit};

/// Sightings in short: a positive value for a close, a negative one for a connection that has lived so long.
fn of(seen: &[i32]) -> Vec<Sighting> {
    let one = |value: &i32| match value.unsigned_abs() {
        lived if *value < 0 => Sighting::lived(lived),
        closed => Sighting::closed(closed),
    };
    seen.iter().map(one).collect()
}

fn ages(seen: &[i32]) -> Opinion {
    opinion(&of(seen), Unit::Age)
}

fn believed(lowest: u32, highest: u32, closes: u32) -> Opinion {
    Opinion::Believed(Belief { lowest, highest, closes })
}

#[test]
fn a_sighting_is_a_word_other_than_0() {
    for value in [0, 1, 2, 5000, Sighting::MAX, u32::MAX] {
        for (sighting, is_close) in [(Sighting::closed(value), true), (Sighting::lived(value), false)] {
            assert_eq!(Sighting::from_bits(sighting.to_bits()), Some(sighting));
            assert_eq!(sighting.value(), value.clamp(1, Sighting::MAX));
            assert_eq!(sighting.is_close(), is_close);
        }
    }
    assert_eq!(Sighting::from_bits(0), None);
}

#[test]
fn four_closes_that_agree_are_a_limit() {
    assert_eq!(ages(&[]), Opinion::Nothing);
    assert_eq!(ages(&[1000, 1001, 1000]), Opinion::Unsure { watch: 1500 });
    assert_eq!(ages(&[1000, 1001, 1000, 1002]), believed(1000, 1002, 4));
    assert_eq!(ages(&[1000, 1001, 1000, 1002, 1000, 999, 1003, 1004]), believed(999, 1004, 8));
}

#[test]
fn they_agree_within_a_sixteenth() {
    assert_eq!(ages(&[1000, 1062, 1000, 1000]), believed(1000, 1062, 4));
    assert_eq!(ages(&[1000, 1063, 1000, 1000]), Opinion::Unsure { watch: 1500 });
}

#[test]
fn one_of_five_that_does_not_agree_is_forgiven() {
    for at in 0..5 {
        let mut seen = [1000; 5];
        seen[at] = 300;
        assert_eq!(ages(&seen), believed(1000, 1000, 4));
    }
    assert_eq!(ages(&[300, 1000, 400, 1000, 1000]), Opinion::Unsure { watch: 450 });
    // Of several that might be forgiven, the one without which the others agree best.
    assert_eq!(ages(&[1000, 1060, 1061, 1062, 1063]), believed(1060, 1063, 4));
}

#[test]
fn those_before_count_as_far_as_they_agree() {
    assert_eq!(ages(&[1000, 1000, 1000, 1000, 1000, 1050, 5000, 990]), believed(990, 1050, 7));
    assert_eq!(ages(&[1000, 1000, 1000, 1000, 1000, -1000, 5000, 5000]), believed(1000, 1000, 5));
}

#[test]
fn seven_closes_that_agree_within_half_are_a_limit() {
    let seen = [2310, 2972, 2000, 2540, 2711, 2408, 3000];
    assert_eq!(ages(&seen), believed(2000, 3000, 7));
    assert_eq!(ages(&seen[1..]), Opinion::Unsure { watch: 3000 });
    assert_eq!(ages(&[2310, 2972, 2000, 2540, 2711, 2408, 3001]), Opinion::Unsure { watch: 3000 });
    assert_eq!(ages(&[2310, 2972, 2000, 300, 2540, 2711, 2408, 3000]), believed(2000, 3000, 7));
    assert!(matches!(ages(&[2310, 2972, 2000, 300, 2540, 300, 2408, 3000]), Opinion::Unsure { .. }));
}

#[test]
fn a_blurred_limit_may_look_sharp_for_a_moment() {
    // Four of five agree, but seven of eight do so within half.
    assert_eq!(ages(&[2500, 2510, 2520, 2500, 2100, 2900, 2050, 2700]), believed(2050, 2900, 8));
    // One accident does not make a sharp limit a blurred one.
    assert_eq!(ages(&[2500, 2510, 2520, 2500, 2500, 1800, 2500, 2500]), believed(2500, 2520, 7));
}

#[test]
fn a_connection_that_has_lived_clearly_longer_contradicts() {
    assert_eq!(ages(&[-1061, 1000, 1000, 1000, 1000]), believed(1000, 1000, 4));
    assert_eq!(ages(&[-1062, 1000, 1000, 1000, 1000]), Opinion::Unsure { watch: 1500 });
    assert_eq!(ages(&[1000, -1061, 1000, 1000, 1000]), believed(1000, 1000, 4));
    assert_eq!(ages(&[1000, 1000, 1000, -1062, 1000]), believed(1000, 1000, 4));
    assert_eq!(ages(&[1000, -1062, 1000, -1062, 1000]), Opinion::Unsure { watch: 1500 });
    assert_eq!(ages(&[-1500, 1000, 1000, 1000, 1000]), Opinion::Nothing);
}

#[test]
fn a_close_that_is_newer_and_higher_is_the_first_sign_of_a_higher_limit() {
    assert_eq!(ages(&[5000, 1000, 1000, 1000, 1000]), Opinion::Unsure { watch: 1500 });
    assert_eq!(ages(&[1000, 5000, 5000, 5000, 5000]), believed(5000, 5000, 4));
    assert_eq!(ages(&[5000, 5000, 5000, 5000, 1000]), believed(5000, 5000, 4));
}

#[test]
fn clearly_more_depends_on_the_unit() {
    let belief = |lowest, highest| Belief { lowest, highest, closes: 4 };
    assert_eq!(belief(100, 100).beyond(Unit::Age), 150);
    assert_eq!(belief(800, 800).beyond(Unit::Age), 850);
    assert_eq!(belief(1600, 1600).beyond(Unit::Age), 1700);
    assert_eq!(belief(1000, 1125).beyond(Unit::Age), 1250);
    assert_eq!(belief(100, 100).beyond(Unit::Requests), 101);
    assert_eq!(belief(100, 110).beyond(Unit::Requests), 120);
    assert_eq!(belief(1, Sighting::MAX).beyond(Unit::Age), Sighting::MAX);
    assert_eq!(Unit::Age.clearly_more(60), 110);
    assert_eq!(Unit::Age.clearly_more(1000), 1500);
    assert_eq!(Unit::Requests.clearly_more(1), 2);
    assert_eq!(Unit::Requests.clearly_more(100), 150);
    assert_eq!(Unit::Age.clearly_more(Sighting::MAX), Sighting::MAX);
}

#[test]
fn the_spread_is_twice_the_range_by_the_number() {
    let spread = |highest, closes| Belief { lowest: 1000, highest, closes }.spread();
    assert_eq!(spread(1000, 4), 0);
    assert_eq!(spread(1001, 4), 1);
    assert_eq!(spread(1100, 4), 50);
    assert_eq!(spread(1100, 8), 25);
}

#[test]
fn caution_is_about_the_newest_closes() {
    let ages = |seen: &[i32]| cautious(&of(seen), Unit::Age);
    assert_eq!(ages(&[]), None);
    assert_eq!(ages(&[-1000]), None);
    assert_eq!(ages(&[1000]), Some(1000));
    assert_eq!(ages(&[1000, 1100]), Some(900));
    // A range that is no limit.
    assert_eq!(ages(&[5000, 1000]), Some(1000));
    assert_eq!(ages(&[5000, 5000, 5000, 5000, 5000, 1000]), Some(5000));
}

#[test]
fn caution_ends_when_a_connection_outlives_the_closes() {
    let ages = |seen: &[i32]| cautious(&of(seen), Unit::Age);
    assert_eq!(ages(&[-1499, 1000]), Some(1000));
    assert_eq!(ages(&[-1500, 1000]), None);
    assert_eq!(ages(&[-1500, 1000, 5000]), Some(5000));
    // The close is the newer one.
    assert_eq!(ages(&[1000, -1500]), Some(1000));
}
