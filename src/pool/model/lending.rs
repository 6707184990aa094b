//! Connections that are lent to a request.
#![forbid(unsafe_code)]

use super::*;

impl Both {
    pub(super) fn lend(&mut self, key: TestKey) {
        let expected = self.newest(key);
        let slot = with(key, |key| self.pool.lend(key));
        let lent = slot.and_then(|slot| self.pool.lent(slot, |conn, since| (conn.number, slot, since)));
        let is_since = |stored_at| self.now.wrapping_sub((self.clock - stored_at) as Msec);
        assert_eq!(lent, expected.map(|s| (s.number, s.slot, is_since(s.stored_at))));
        let Some(expected) = expected else { return };
        self.forget(expected.number);
        self.lent.push(expected);
    }

    /// A connection that has lost its slot is stored like a new one.
    pub(super) fn put_back(&mut self, nth: usize, number: u32) {
        let Some(lent) = self.take_lent(nth) else { return };
        let (Limit::Total(limit) | Limit::PerServer(limit)) = self.limit;
        let has_room = self.ring_of(lent.key).len() < limit;
        let is_known = |conn: &TestConn| conn.number == lent.number;
        let back = self.pool.put_back(lent.slot, is_known, self.now, expiry(number), limited(lent.key));
        let by_key = |pool: &mut IdlePool<TestConn>| {
            with(lent.key, |key| {
                pool.put_back_by_key(lent.slot, key, is_known, self.now, expiry(number), limited(lent.key))
            })
        };
        // Every other one is put back by its key if its group is gone.
        let back = back.or_else(|| (number % 2 == 0).then(|| by_key(&mut self.pool)).flatten());
        match back {
            None => self.put(lent.key, number, true),
            Some(hash) => {
                assert!(has_room);
                let is_usual = expiry(number) == Expiry::Usual;
                assert_eq!(hash, with(lent.key, |key| key.hash()));
                let stored = ModelEntry { stored_at: self.clock, order: number, aside: 0, is_usual, ..lent };
                self.ring_of(lent.key).members.push_front(stored);
            }
        }
    }

    pub(super) fn forget_lent(&mut self, nth: usize) {
        if let Some(lent) = self.take_lent(nth) {
            let forgotten = self.pool.forget(lent.slot, |conn| conn.number == lent.number);
            assert!(forgotten.is_none_or(|conn| conn.identity == lent.key.3));
        }
    }

    fn take_lent(&mut self, nth: usize) -> Option<ModelEntry> {
        let number = self.lent.len();
        (number > 0).then(|| self.lent.swap_remove(nth % number))
    }
}
