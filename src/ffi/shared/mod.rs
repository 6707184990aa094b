//! What the workers of one configuration share: ledgers and bells (`workers`), counters (`counters`), and the main
//! configuration in which both lie (`main_conf`).

pub(crate) mod workers;

pub(crate) mod counters;

pub(crate) mod main_conf;
