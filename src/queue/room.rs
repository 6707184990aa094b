//! Which servers have room, at one moment. It is looked up once and then used for many requests, each of which has tried
//! other servers already.
#![forbid(unsafe_code)]

use crate::base::memory::push;

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

/// All servers, in the balancer's order.
#[derive(Debug, Default)]
pub struct Rooms {
    servers: usize,
    /// A bit for each server, in words like the balancer's `tried`: whether it is up.
    up: Vec<usize>,
    /// A bit for each server: whether it is up and has room.
    room: Vec<usize>,
}

const BITS: usize = usize::BITS as usize;

impl Rooms {
    /// Removes all servers.
    pub fn clear(&mut self) {
        self.servers = 0;
        self.up.clear();
        self.room.clear();
    }

    /// Adds the next server. `None` if there is no memory.
    pub fn add(&mut self, outlook: Outlook) -> Option<()> {
        let bit = self.servers % BITS;
        if bit == 0 {
            push(&mut self.up, 0)?;
            push(&mut self.room, 0)?;
        }
        let set = |words: &mut Vec<usize>, is_set: bool| {
            if let Some(word) = words.last_mut() {
                *word |= usize::from(is_set) << bit;
            }
        };
        set(&mut self.up, outlook != Outlook::Down);
        set(&mut self.room, outlook == Outlook::Room);
        self.servers += 1;
        Some(())
    }

    /// What a request can expect that has `tried` some servers: a bit for each server.
    pub fn outlook(&self, tried: impl IntoIterator<Item = usize>) -> Outlook {
        let tried = tried.into_iter().chain(std::iter::repeat(0));
        let mut outlook = Outlook::Down;
        for ((up, room), tried) in self.up.iter().zip(&self.room).zip(tried) {
            if room & !tried != 0 {
                return Outlook::Room;
            }
            if up & !tried != 0 {
                outlook = Outlook::Full;
            }
        }
        outlook
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_that_was_tried_is_of_no_use() {
        let mut rooms = Rooms::default();
        assert_eq!(rooms.outlook([]), Outlook::Down);
        for outlook in [Outlook::Full, Outlook::Room, Outlook::Down] {
            rooms.add(outlook).unwrap();
        }
        let of = |tried| rooms.outlook([tried]);
        assert_eq!(
            (of(0), of(0b10), of(0b11), of(0b101)),
            (Outlook::Room, Outlook::Full, Outlook::Down, Outlook::Room)
        );
        rooms.clear();
        assert_eq!(rooms.outlook([]), Outlook::Down);
    }

    proptest! {
        /// The outcome is the same as if each server were looked at.
        #[test]
        fn agrees_with_a_look_at_each(
            servers in prop::collection::vec((0usize..3, any::<bool>()), 0..200),
            words in 0usize..5,
        ) {
            let all = [Outlook::Room, Outlook::Full, Outlook::Down];
            let mut rooms = Rooms::default();
            let mut tried = vec![0; words];
            let mut expected = 2;
            for (at, (kind, is_tried)) in servers.into_iter().enumerate() {
                rooms.add(all[kind]).unwrap();
                let is_tried = is_tried && at / BITS < words;
                match tried.get_mut(at / BITS) {
                    Some(word) if is_tried => *word |= 1 << (at % BITS),
                    _ => expected = expected.min(kind),
                }
            }
            prop_assert_eq!(rooms.outlook(tried), all[expected]);
        }
    }
}
