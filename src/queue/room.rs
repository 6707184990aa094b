//! Which servers have room. All servers are looked at once; then only those of which something has changed, so that many
//! requests can be told at little cost what they can expect.
//!
//! ```text
//!   a look: all servers --> known until  the set of servers changes
//!                                        a second has passed (a server that had failed may be up again)
//!                                        `forget`: another worker may have changed something
//!   a request of this worker ends, or begins: its server is looked at again (`update`)
//! ```
//!
//! More room may be known than there is: then a request asks the balancer in vain, and says so (`doubt`). Less room is never
//! known than there is, except of servers that change by themselves, for a second.
//!
//! Requests that have tried servers are told in rounds. What is news is noted until each of them has had its turn: a request that
//! was in vain before can only expect something of a server that has got room since, or it has to hear that none is up any more.
#![forbid(unsafe_code)]

use crate::base::clock::Msec;
use crate::base::memory::push;

use super::bits::{Bits, BITS};

/// What a request can expect from the servers of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// A server that is up has room.
    Room,
    /// Every server that is up has as many requests as its `max_conns` allows.
    Full,
    /// No server is up.
    Down,
}

/// The time of a look, and the set of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Stands for the set of servers.
    pub set: (usize, usize),
    /// The time by which the balancer ends the failure of a server, in seconds.
    pub second: i64,
    /// The time, in milliseconds.
    pub now: Msec,
}

/// All servers, in the balancer's order. The number of a server is its place in this order.
#[derive(Debug, Default)]
pub struct Rooms {
    /// For each server, the key by which it is found again.
    keys: Vec<usize>,
    /// The numbers of the servers, in the order of their keys.
    by_key: Vec<u32>,
    up: Bits,
    room: Bits,
    /// Which servers have got room since the last round.
    gained: Bits,
    /// Since the last round, a server that was up went down.
    has_lost: bool,
    /// There is news of which no round has begun to tell.
    is_new: bool,
    /// When all servers were looked at; `None` if what is known does not hold any more.
    looked: Option<Moment>,
    /// The set of servers at the last look.
    set: (usize, usize),
    /// A request was in vain, contrary to what was known: so it is not known either what is news.
    is_doubtful: bool,
    /// How many servers the present look has found so far.
    found: usize,
    /// The last of them, which are not noted yet.
    word: Word,
    /// The present look has found a server that was not there before.
    has_changed: bool,
}

/// As many servers as a word has bits.
#[derive(Debug, Default)]
struct Word {
    up: usize,
    room: usize,
}

impl Rooms {
    /// Whether what is known holds at this moment.
    pub fn is_known(&self, at: Moment) -> bool {
        self.looked.is_some_and(|looked| looked.set == at.set && looked.second == at.second)
    }

    /// Whether all servers were looked at just now.
    pub fn is_fresh(&self, at: Moment) -> bool {
        self.looked == Some(at)
    }

    /// What is known may not hold any more.
    pub fn forget(&mut self) {
        self.looked = None;
    }

    /// The balancer has no room for a request, contrary to what is known.
    pub fn doubt(&mut self, at: Moment) {
        if !self.is_fresh(at) {
            self.is_doubtful = true;
            return self.forget();
        }
        self.gained.copy(&self.room);
        self.is_new = true;
    }

    /// A request waits that was not told what it can expect by what is known here: so it is not known either what is news to it.
    pub fn has_stranger(&mut self) {
        self.is_doubtful = true;
    }

    /// Begins to look at all servers: [`Rooms::add`] follows for each, and then [`Rooms::end_look`].
    pub fn begin_look(&mut self) {
        self.forget();
        (self.found, self.has_changed) = (0, false);
        self.word = Word::default();
    }

    /// Adds the next server. `None` if there is no memory.
    #[inline]
    pub fn add(&mut self, key: usize, outlook: Outlook) -> Option<()> {
        let number = self.found;
        if self.keys.get(number) != Some(&key) {
            self.keys.truncate(number);
            push(&mut self.keys, key)?;
            self.has_changed = true;
        }
        let bit = number % BITS;
        self.word.up |= usize::from(outlook != Outlook::Down) << bit;
        self.word.room |= usize::from(outlook == Outlook::Room) << bit;
        self.found += 1;
        if bit == BITS - 1 {
            self.end_word(number / BITS)?;
        }
        Some(())
    }

    /// Notes the servers that were added last, and compares them with what was known. `None` if there is no memory.
    fn end_word(&mut self, at: usize) -> Option<()> {
        let Word { up, room } = std::mem::take(&mut self.word);
        let (was_up, had_room) = (self.up.replace(at, up)?, self.room.replace(at, room)?);
        let (lost, gained) = (was_up & !up, room & !had_room);
        self.gained.replace(at, (self.gained.word(at) | gained) & room)?;
        self.has_lost |= lost != 0;
        self.is_new |= (lost | gained) != 0;
        Some(())
    }

    /// All servers were looked at. `None` if there is no memory.
    pub fn end_look(&mut self, at: Moment) -> Option<()> {
        if self.found % BITS != 0 {
            self.end_word(self.found / BITS)?;
        }
        if self.has_changed || self.found != self.by_key.len() {
            self.has_changed = true;
            self.keys.truncate(self.found);
            for bits in [&mut self.up, &mut self.room, &mut self.gained] {
                bits.truncate(self.found);
            }
            self.by_key.clear();
            for number in 0..self.found {
                push(&mut self.by_key, u32::try_from(number).ok()?)?;
            }
            let keys = &self.keys;
            self.by_key.sort_unstable_by_key(|number| keys.get(*number as usize));
        }
        if self.has_changed || self.is_doubtful || self.set != at.set {
            // What was tried may have been other servers.
            self.gained.copy(&self.room);
            (self.has_lost, self.is_new) = (true, true);
        }
        (self.looked, self.set, self.is_doubtful) = (Some(at), at.set, false);
        Some(())
    }

    /// Looks at a server again, if it is still one of them.
    pub fn update(&mut self, key: usize, look: impl FnOnce() -> Outlook) {
        if self.looked.is_none() {
            return;
        }
        let key_of = |number: &u32| self.keys.get(*number as usize).copied().unwrap_or(0);
        let Ok(at) = self.by_key.binary_search_by_key(&key, key_of) else { return self.forget() };
        let number = self.by_key[at];
        self.note(number, look());
    }

    /// What a request can expect that has `tried` some servers: the number of each, once. The cost does not depend on the
    /// number of servers.
    pub fn outlook(&self, tried: &[u32]) -> Outlook {
        let others = |of: &Bits| of.set > tried.iter().filter(|number| of.has(**number)).count();
        if others(&self.room) {
            Outlook::Room
        } else if others(&self.up) {
            Outlook::Full
        } else {
            Outlook::Down
        }
    }

    /// A round begins. Returns whether there is news since the last one began.
    pub fn begin_round(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// Whether there is news for a request that has had no turn in this round.
    pub fn has_news(&self) -> bool {
        self.looked.is_none() || self.has_lost || self.gained.set > 0
    }

    /// Each request has had its turn in this round.
    pub fn end_round(&mut self) {
        if !self.is_new {
            self.has_lost = false;
            self.gained.clear();
        }
    }

    /// Notes what a server has.
    fn note(&mut self, number: u32, outlook: Outlook) {
        let (is_up, has_room) = (outlook != Outlook::Down, outlook == Outlook::Room);
        let (was_up, had_room) = (self.up.set(number, is_up), self.room.set(number, has_room));
        let (has_lost, has_gained) = (was_up && !is_up, has_room && !had_room);
        if has_room != had_room {
            self.gained.set(number, has_gained);
        }
        self.has_lost |= has_lost;
        self.is_new |= has_lost || has_gained;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Outlook; 3] = [Outlook::Room, Outlook::Full, Outlook::Down];

    fn at(second: i64) -> Moment {
        Moment { set: (1, 1), second, now: second as Msec * 1000 }
    }

    /// Looks at servers whose keys are `key(number)`.
    fn look(rooms: &mut Rooms, servers: &[Outlook], key: impl Fn(usize) -> usize, at: Moment) {
        rooms.begin_look();
        servers.iter().enumerate().for_each(|(number, server)| rooms.add(key(number), *server).unwrap());
        rooms.end_look(at).unwrap();
    }

    fn three() -> Rooms {
        let mut rooms = Rooms::default();
        look(&mut rooms, &[Outlook::Full, Outlook::Room, Outlook::Down], |number| number + 10, at(1));
        rooms
    }

    #[test]
    fn one_that_was_tried_is_of_no_use() {
        assert_eq!(Rooms::default().outlook(&[]), Outlook::Down);
        let rooms = three();
        let of = |tried| rooms.outlook(tried);
        assert_eq!(
            (of(&[]), of(&[1]), of(&[0, 1]), of(&[0, 2]), of(&[7])),
            (Outlook::Room, Outlook::Full, Outlook::Down, Outlook::Room, Outlook::Room)
        );
    }

    #[test]
    fn is_known_for_a_second_and_one_set_of_servers() {
        let mut rooms = three();
        assert!(rooms.is_known(at(1)) && !rooms.is_known(at(2)));
        assert!(!rooms.is_known(Moment { set: (1, 2), ..at(1) }));
        let later = Moment { now: 1001, ..at(1) };
        assert!(rooms.is_known(later) && !rooms.is_fresh(later) && rooms.is_fresh(at(1)));
        rooms.forget();
        assert!(!rooms.is_known(at(1)));
    }

    /// Whether there is news since the last round. Each has a turn.
    fn round(rooms: &mut Rooms) -> bool {
        let (is_new, has_news) = (rooms.begin_round(), rooms.has_news());
        assert_eq!(is_new, has_news);
        rooms.end_round();
        is_new
    }

    #[test]
    fn more_room_is_news_and_less_is_not() {
        let mut rooms = three();
        assert_eq!((round(&mut rooms), round(&mut rooms)), (true, false));
        let mut news_of = |key, outlook| {
            rooms.update(key, || outlook);
            round(&mut rooms)
        };
        assert!(!news_of(10, Outlook::Full));
        assert!(news_of(10, Outlook::Room));
        assert!(!news_of(10, Outlook::Full));
        assert!(news_of(10, Outlook::Down));
        assert!(!news_of(10, Outlook::Full));
        assert!(!news_of(11, Outlook::Room));
        assert!(news_of(12, Outlook::Room));
        assert_eq!(rooms.outlook(&[1, 2]), Outlook::Full);
    }

    #[test]
    fn room_that_was_taken_in_a_round_is_no_news_for_the_others() {
        let mut rooms = three();
        round(&mut rooms);
        rooms.update(10, || Outlook::Room);
        assert!(rooms.begin_round() && rooms.has_news());
        rooms.update(10, || Outlook::Full);
        assert!(!rooms.has_news());
    }

    #[test]
    fn a_round_that_did_not_end_goes_on() {
        let mut rooms = three();
        round(&mut rooms);
        rooms.update(10, || Outlook::Room);
        assert!(rooms.begin_round());
        assert!(!rooms.begin_round() && rooms.has_news());
        rooms.update(10, || Outlook::Down);
        rooms.end_round();
        assert!(rooms.begin_round() && rooms.has_news(), "what happens in a round is news for the next one");
    }

    #[test]
    fn a_look_tells_what_has_changed() {
        let mut rooms = three();
        round(&mut rooms);
        let mut news_of = |servers: &[Outlook], second| {
            look(&mut rooms, servers, |number| number + 10, at(second));
            round(&mut rooms)
        };
        assert!(!news_of(&[Outlook::Full, Outlook::Full, Outlook::Full], 2));
        assert!(news_of(&[Outlook::Full, Outlook::Down, Outlook::Full], 3));
        assert!(news_of(&[Outlook::Full, Outlook::Room, Outlook::Full], 4));
        assert!(!news_of(&[Outlook::Full, Outlook::Room, Outlook::Full], 5));
        assert!(news_of(&[Outlook::Full, Outlook::Room], 6), "one is gone");
        assert!(news_of(&[Outlook::Full, Outlook::Room, Outlook::Full], 7), "one has come");
        let other = Moment { set: (1, 2), ..at(7) };
        look(&mut rooms, &[Outlook::Full, Outlook::Room, Outlook::Full], |number| number + 10, other);
        assert!(round(&mut rooms), "they may be others");
    }

    #[test]
    fn a_server_that_is_not_there_makes_a_look_necessary() {
        let mut rooms = three();
        rooms.update(13, || panic!("it may not exist any more"));
        assert!(!rooms.is_known(at(1)));
    }

    #[test]
    fn a_doubt_makes_a_look_necessary_unless_there_was_one_just_now() {
        let mut rooms = three();
        round(&mut rooms);
        rooms.doubt(at(1));
        assert!(rooms.is_known(at(1)) && round(&mut rooms));
        rooms.doubt(Moment { now: 1001, ..at(1) });
        assert!(!rooms.is_known(at(1)));
        look(&mut rooms, &[Outlook::Full, Outlook::Room, Outlook::Down], |number| number + 10, at(2));
        assert!(round(&mut rooms), "what was known was wrong");
    }

    proptest! {
        /// The outcome is the same as if each server were looked at, whatever has changed since, in whatever order the servers
        /// lie in memory.
        #[test]
        fn agrees_with_a_look_at_each(
            looks in prop::collection::vec((prop::collection::vec(0usize..3, 0..200), any::<u8>()), 1..4),
            updates in prop::collection::vec((any::<prop::sample::Index>(), 0usize..3), 0..50),
            tried in prop::collection::btree_set(0u32..210, 0..20),
        ) {
            let mut rooms = Rooms::default();
            for (second, (servers, mix)) in (0..).zip(looks) {
                let mut servers: Vec<Outlook> = servers.into_iter().map(|kind| ALL[kind]).collect();
                let key = |number: usize| (number ^ mix as usize) + 7;
                look(&mut rooms, &servers, key, at(second));
                let number_of_updates = if servers.is_empty() { 0 } else { updates.len() };
                for (index, kind) in &updates[..number_of_updates] {
                    let number = index.index(servers.len());
                    servers[number] = ALL[*kind];
                    rooms.update(key(number), || ALL[*kind]);
                }
                let untried = |number: &usize| !tried.contains(&(*number as u32));
                let expected = ALL.into_iter().find(|outlook| {
                    (0..servers.len()).filter(untried).any(|number| servers[number] == *outlook)
                });
                let tried: Vec<u32> = tried.iter().copied().collect();
                prop_assert!(rooms.is_known(at(second)));
                prop_assert_eq!(rooms.outlook(&tried), expected.unwrap_or(Outlook::Down));
            }
        }
    }
}
