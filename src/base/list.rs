//! Doubly linked lists of the elements of a vector. Links are indexes, not pointers.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

/// The index of an element, or [`NONE`].
pub(crate) type Link = u32;

/// The link that ends a list.
pub(crate) const NONE: Link = Link::MAX;

/// An element that can be in a list of the kind `K`. One element can be in one list of each kind.
pub(crate) trait Node<K> {
    /// The links of the element in a list of this kind.
    fn links(&mut self) -> &mut Neighbours;
}

/// The links of an element in a list of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours {
    newer: Link,
    older: Link,
}

/// A list, from the newest element to the oldest.
#[derive(Debug)]
pub(crate) struct List<K> {
    newest: Link,
    oldest: Link,
    kind: PhantomData<K>,
}

impl Neighbours {
    /// The next newer element, or [`NONE`].
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
    /// The newest element, or [`NONE`].
    pub(crate) fn newest(&self) -> Link {
        self.newest
    }

    /// The oldest element, or [`NONE`].
    pub(crate) fn oldest(&self) -> Link {
        self.oldest
    }

    /// Adds an element as the newest one. It must be in no list of this kind.
    #[inline(always)]
    pub(crate) fn push(&mut self, nodes: &mut [impl Node<K>], at: Link) {
        let older = std::mem::replace(&mut self.newest, at);
        *nodes[at as usize].links() = Neighbours { newer: NONE, older };
        match nodes.get_mut(older as usize) {
            Some(node) => node.links().newer = at,
            None => self.oldest = at,
        }
    }

    /// Adds an element as the oldest one. It must be in no list of this kind.
    #[cold]
    pub(crate) fn push_oldest(&mut self, nodes: &mut [impl Node<K>], at: Link) {
        let newer = std::mem::replace(&mut self.oldest, at);
        *nodes[at as usize].links() = Neighbours { newer, older: NONE };
        match nodes.get_mut(newer as usize) {
            Some(node) => node.links().older = at,
            None => self.newest = at,
        }
    }

    /// Removes an element of this list.
    #[inline(always)]
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
