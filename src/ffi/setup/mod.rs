//! The module as nginx sees it, and what happens once the configuration is read.

pub(crate) mod module;

pub(crate) mod directives;

pub(crate) mod enable;
pub(crate) mod stock;

pub(crate) mod abi;

mod worker;
