//! What the workers of one configuration share: ledgers and bells (`workers`), numbers (`counters`), and where both are
//! found (`main_conf`).

pub(crate) mod workers;

pub(crate) mod counters;

pub(crate) mod main_conf;
