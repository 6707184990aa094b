//! The connections to servers that limit their connections: a list for each of these servers.
#![forbid(unsafe_code)]

use super::steps;
use crate::base::list::{Link, List, Neighbours, Node, NONE};

/// The lists. Without such servers, there is nothing.
#[derive(Debug, Default)]
pub(super) struct Limited {
    /// How many of these servers there are: the length of `lists`, once there is a slot.
    number: usize,
    lists: Vec<List<InLimited>>,
    /// For each slot.
    links: Vec<Links>,
}

#[derive(Debug)]
struct InLimited;

#[derive(Debug, Default)]
struct Links(Neighbours);

impl Node<InLimited> for Links {
    fn links(&mut self) -> &mut Neighbours {
        &mut self.0
    }
}

impl Limited {
    pub(super) fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    /// Reserves memory for so many slots. `None` if there is none.
    #[cold]
    pub(super) fn reserve(&mut self, slots: usize) -> Option<()> {
        if self.number == 0 {
            return Some(());
        }
        steps::reserve(&mut self.lists, self.number)?;
        steps::reserve(&mut self.links, slots)
    }

    /// Follows the slots, of which there are so many, and will be `limit` at most. `None` if there is no memory.
    #[inline]
    pub(super) fn follow(&mut self, slots: usize, limit: usize) -> Option<()> {
        if self.number == 0 {
            return Some(());
        }
        if self.lists.is_empty() {
            steps::reserve(&mut self.lists, self.number)?;
            self.lists.resize_with(self.number, List::default);
        }
        if self.links.len() < slots {
            steps::make_room(&mut self.links, limit)?;
            self.links.push(Links::default());
        }
        Some(())
    }

    /// Adds a slot as the newest one of a server.
    #[inline(always)]
    pub(super) fn push(&mut self, server: Option<u32>, at: Link) {
        if let Some(list) = server.and_then(|server| self.lists.get_mut(server as usize)) {
            list.push(&mut self.links, at);
        }
    }

    /// Removes a slot.
    #[inline(always)]
    pub(super) fn remove(&mut self, server: Option<u32>, at: Link) {
        if let Some(list) = server.and_then(|server| self.lists.get_mut(server as usize)) {
            list.unlink(&mut self.links, at);
        }
    }

    /// Makes a slot the oldest one.
    pub(super) fn put_last(&mut self, server: Option<u32>, at: Link) {
        if let Some(list) = server.and_then(|server| self.lists.get_mut(server as usize)) {
            list.unlink(&mut self.links, at);
            list.push_oldest(&mut self.links, at);
        }
    }

    /// The newest slot of a server, or [`NONE`].
    pub(super) fn newest(&self, server: u32) -> Link {
        self.lists.get(server as usize).map_or(NONE, List::newest)
    }

    /// The oldest slot of a server, or [`NONE`].
    pub(super) fn oldest(&self, server: u32) -> Link {
        self.lists.get(server as usize).map_or(NONE, List::oldest)
    }
}
