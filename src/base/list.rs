//! Doubly linked lists through the elements of a vector, by number instead of by pointer.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

/// The number of an element; `NONE` ends a list.
pub(crate) type Link = u32;
pub(crate) const NONE: Link = Link::MAX;

/// An element that can be in a list of the kind `K`.
pub(crate) trait Node<K> {
    fn links(&mut self) -> &mut Neighbours;
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours {
    newer: Link,
    older: Link,
}

/// Elements from the newest to the oldest.
#[derive(Debug)]
pub(crate) struct List<K> {
    newest: Link,
    oldest: Link,
    kind: PhantomData<K>,
}

impl Neighbours {
    pub(crate) fn older(self) -> Link {
        self.older
    }

    pub(crate) fn newer(self) -> Link {
        self.newer
    }
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { newer: NONE, older: NONE }
    }
}

impl<K> Default for List<K> {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE, kind: PhantomData }
    }
}

impl<K> List<K> {
    pub(crate) fn newest(&self) -> Link {
        self.newest
    }

    pub(crate) fn oldest(&self) -> Link {
        self.oldest
    }

    /// Puts an element that is in no list of this kind in front of all others.
    #[inline]
    pub(crate) fn push(&mut self, nodes: &mut [impl Node<K>], at: Link) {
        let older = std::mem::replace(&mut self.newest, at);
        *nodes[at as usize].links() = Neighbours { newer: NONE, older };
        match nodes.get_mut(older as usize) {
            Some(node) => node.links().newer = at,
            None => self.oldest = at,
        }
    }

    /// Takes out an element of this list.
    #[inline]
    pub(crate) fn unlink(&mut self, nodes: &mut [impl Node<K>], at: Link) {
        let Neighbours { newer, older } = *nodes[at as usize].links();
        match nodes.get_mut(older as usize) {
            Some(node) => node.links().newer = newer,
            None => self.oldest = newer,
        }
        match nodes.get_mut(newer as usize) {
            Some(node) => node.links().older = older,
            None => self.newest = older,
        }
    }
}
