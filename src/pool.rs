//! The idle connections of one upstream: newest first per key, the oldest one evicted when full.
#![forbid(unsafe_code)]

use std::collections::TryReserveError;

/// The index of a slot; `NONE` ends a list.
type Link = u32;
const NONE: Link = Link::MAX;

/// The largest capacity: slot indices are 32 bits wide, and one value marks the end of a list.
pub const MAX_CAPACITY: usize = NONE as usize - 1;

/// Idle connections `C`, each stored under the key `K` of the peer it leads to.
///
/// Every operation costs the same at one and at thousands of connections: a slot is in the chain of
/// its hash bucket (to be found) and in one list by age (to be evicted). Memory is reserved once,
/// in [`IdlePool::with_capacity`]; no operation allocates. The hash only selects a bucket, the
/// caller's exact comparison decides.
///
/// ```text
///   buckets  [ . | 2 | . | 0 ]        by_age   newest 2 - 0 - 1 oldest
///                  |       |
///   slots          2       0 - 1      (same bucket: newer first)
/// ```
#[derive(Debug)]
pub struct IdlePool<K, C> {
    slots: Vec<Slot<K, C>>,
    capacity: usize,
    buckets: Vec<Link>,
    newest: Link,
    oldest: Link,
    free: Link,
    len: usize,
}

#[derive(Debug)]
struct Slot<K, C> {
    key: K,
    hash: u32,
    /// `None` while the slot is in the free list.
    conn: Option<C>,
    in_bucket: Neighbours,
    /// In the free list only `older` is used.
    by_age: Neighbours,
}

impl<K: Default, C> Default for Slot<K, C> {
    fn default() -> Self {
        let none = Neighbours { newer: NONE, older: NONE };
        Self { key: K::default(), hash: 0, conn: None, in_bucket: none, by_age: none }
    }
}

#[derive(Clone, Copy, Debug)]
struct Neighbours {
    newer: Link,
    older: Link,
}

/// What [`IdlePool::put`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Put<C> {
    /// Where the connection is now; to be given to [`IdlePool::remove`].
    pub slot: u32,
    /// The oldest connection, which had to make room. The caller closes it.
    pub evicted: Option<C>,
}

impl<K: Default, C> IdlePool<K, C> {
    /// A pool for at most `capacity` connections, between 1 and [`MAX_CAPACITY`].
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn with_capacity(capacity: usize) -> Result<Self, TryReserveError> {
        let capacity = capacity.clamp(1, MAX_CAPACITY);
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity)?;
        let mut buckets = Vec::new();
        buckets.try_reserve_exact(capacity.next_power_of_two())?;
        buckets.resize(capacity.next_power_of_two(), NONE);
        Ok(Self { slots, capacity, buckets, newest: NONE, oldest: NONE, free: NONE, len: 0 })
    }

    /// How many connections are stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no connection is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes out the connection stored last among those with `hash` whose key `matches`.
    #[inline]
    pub fn checkout(&mut self, hash: u32, matches: impl Fn(&K) -> bool) -> Option<C> {
        let mut at = self.buckets[self.bucket(hash)];
        while at != NONE {
            let slot = &self.slots[at as usize];
            if slot.hash == hash && matches(&slot.key) {
                return self.release(at);
            }
            at = slot.in_bucket.older;
        }
        None
    }

    /// Stores a connection under the key that `set_key` writes; when the pool is full, the oldest
    /// connection is handed back. A key is written in place, over that of an earlier connection.
    #[inline]
    pub fn put(&mut self, hash: u32, set_key: impl FnOnce(&mut K), conn: C) -> Put<C> {
        let evicted = if self.len == self.capacity { self.release(self.oldest) } else { None };
        if self.free == NONE {
            self.free = self.slots.len() as Link;
            self.slots.push(Slot::default());
        }
        let at = self.free;
        let in_bucket = Neighbours { newer: NONE, older: self.buckets[self.bucket(hash)] };
        let by_age = Neighbours { newer: NONE, older: self.newest };

        let slot = &mut self.slots[at as usize];
        self.free = slot.by_age.older;
        set_key(&mut slot.key);
        slot.hash = hash;
        slot.conn = Some(conn);
        slot.in_bucket = in_bucket;
        slot.by_age = by_age;

        let bucket = self.bucket(hash);
        self.buckets[bucket] = at;
        if in_bucket.older != NONE {
            self.slots[in_bucket.older as usize].in_bucket.newer = at;
        }
        self.newest = at;
        if by_age.older == NONE {
            self.oldest = at;
        } else {
            self.slots[by_age.older as usize].by_age.newer = at;
        }
        self.len += 1;
        Put { slot: at, evicted }
    }

    /// Takes out the connection in `slot`, provided that it `is` the one meant: a slot may have
    /// got another connection since the caller learnt its number.
    #[inline]
    pub fn remove(&mut self, slot: u32, is: impl FnOnce(&C) -> bool) -> Option<C> {
        self.slots.get(slot as usize)?.conn.as_ref().filter(|conn| is(conn))?;
        self.release(slot)
    }

    fn bucket(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Unlinks a slot from its bucket and from the list by age, and puts it into the free list.
    #[inline]
    fn release(&mut self, at: Link) -> Option<C> {
        let free = self.free;
        let slot = self.slots.get_mut(at as usize)?;
        let conn = slot.conn.take()?;
        let (hash, in_bucket, by_age) = (slot.hash, slot.in_bucket, slot.by_age);
        slot.by_age.older = free;
        self.free = at;
        self.len -= 1;

        if in_bucket.older != NONE {
            self.slots[in_bucket.older as usize].in_bucket.newer = in_bucket.newer;
        }
        if in_bucket.newer == NONE {
            let bucket = self.bucket(hash);
            self.buckets[bucket] = in_bucket.older;
        } else {
            self.slots[in_bucket.newer as usize].in_bucket.older = in_bucket.older;
        }

        if by_age.older == NONE {
            self.oldest = by_age.newer;
        } else {
            self.slots[by_age.older as usize].by_age.newer = by_age.newer;
        }
        if by_age.newer == NONE {
            self.newest = by_age.older;
        } else {
            self.slots[by_age.newer as usize].by_age.older = by_age.older;
        }
        Some(conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(capacity: usize) -> IdlePool<u8, u32> {
        IdlePool::with_capacity(capacity).unwrap()
    }

    /// Two keys share a hash, so that chains hold more than one key.
    fn hash(key: u8) -> u32 {
        u32::from(key / 2)
    }

    fn put(pool: &mut IdlePool<u8, u32>, key: u8, conn: u32) -> Put<u32> {
        pool.put(hash(key), |k| *k = key, conn)
    }

    #[test]
    fn reuses_the_connection_stored_last() {
        let mut p = pool(3);
        for conn in [10, 11, 12] {
            put(&mut p, 1, conn);
        }
        assert_eq!(p.checkout(hash(1), |k| *k == 1), Some(12));
        assert_eq!(p.checkout(hash(1), |k| *k == 1), Some(11));
        assert_eq!(p.checkout(hash(1), |k| *k == 1), Some(10));
        assert_eq!(p.checkout(hash(1), |k| *k == 1), None);
        assert!(p.is_empty());
    }

    #[test]
    fn never_hands_out_another_key_with_the_same_hash() {
        let mut p = pool(2);
        put(&mut p, 2, 20);
        assert_eq!(hash(2), hash(3));
        assert_eq!(p.checkout(hash(3), |k| *k == 3), None);
        assert_eq!(p.checkout(hash(2), |k| *k == 2), Some(20));
    }

    #[test]
    fn evicts_oldest_when_full() {
        let mut p = pool(2);
        put(&mut p, 1, 10);
        put(&mut p, 2, 20);
        assert_eq!(put(&mut p, 3, 30).evicted, Some(10));
        assert_eq!(put(&mut p, 1, 11).evicted, Some(20));
        assert_eq!(p.len(), 2);
    }

    #[test]
    fn a_stale_slot_number_removes_nothing() {
        let mut p = pool(1);
        let slot = put(&mut p, 1, 10).slot;
        assert_eq!(put(&mut p, 1, 11).evicted, Some(10));
        assert_eq!(p.remove(slot, |c| *c == 10), None);
        assert_eq!(p.remove(slot, |c| *c == 11), Some(11));
        assert_eq!(p.remove(slot, |_| true), None);
        assert_eq!(p.remove(7, |_| true), None);
    }

    #[test]
    fn refuses_a_capacity_that_no_memory_can_hold() {
        assert!(IdlePool::<[u64; 32], u64>::with_capacity(MAX_CAPACITY).is_err());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Put(u8),
        Checkout(u8),
        Remove(usize),
        RemoveStale(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u8..6).prop_map(Op::Put),
            3 => (0u8..6).prop_map(Op::Checkout),
            2 => any::<usize>().prop_map(Op::Remove),
            1 => any::<u32>().prop_map(Op::RemoveStale),
        ]
    }

    proptest! {
        /// The pool does what a plain list of (slot, key, connection), newest first, would do.
        #[test]
        fn agrees_with_a_plain_list(capacity in 1usize..9, ops in prop::collection::vec(op(), 0..200)) {
            let mut pool = pool(capacity);
            let mut model: Vec<(u32, u8, u32)> = Vec::new();
            for (conn, op) in (0u32..).zip(ops) {
                match op {
                    Op::Put(key) => {
                        let expected = (model.len() == capacity).then(|| model.pop().unwrap().2);
                        let put = put(&mut pool, key, conn);
                        prop_assert_eq!(put.evicted, expected);
                        prop_assert!(model.iter().all(|m| m.0 != put.slot));
                        prop_assert!((put.slot as usize) < capacity);
                        model.insert(0, (put.slot, key, conn));
                    }
                    Op::Checkout(key) => {
                        let expected = model.iter().position(|m| m.1 == key).map(|at| model.remove(at).2);
                        prop_assert_eq!(pool.checkout(hash(key), |k| *k == key), expected);
                    }
                    Op::Remove(nth) if !model.is_empty() => {
                        let (slot, _, conn) = model.remove(nth % model.len());
                        prop_assert_eq!(pool.remove(slot, |c| *c == conn), Some(conn));
                    }
                    Op::Remove(_) => prop_assert!(pool.is_empty()),
                    Op::RemoveStale(slot) => prop_assert_eq!(pool.remove(slot, |_| false), None),
                }
                prop_assert_eq!(pool.len(), model.len());
                prop_assert!(pool.slots.len() <= capacity && pool.slots.capacity() == capacity);
            }
        }
    }
}
