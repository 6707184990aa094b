//! What the workers of one configuration share: ledgers and bells (`workers`), counters (`counters`), inboxes for
//! connections (`inboxes`), and the main configuration in which they lie (`main_conf`).

pub(crate) mod workers;

pub(crate) mod counters;

pub(crate) mod inboxes;

pub(crate) mod lessons;

pub(crate) mod main_conf;
