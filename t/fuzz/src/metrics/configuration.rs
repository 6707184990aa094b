//! The configurations that follow each other.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use keepalive::metrics::{Plan, ServerInfo, UpstreamInfo};

use crate::input::Input;

pub(super) const ADDRESSES: [&[u8]; 6] =
    [b"server a, 16 b..", b"b", b"server c, 16 b..", b"dd", b"eee", b"f"];

/// In each configuration, in any order. The first server is in both of them always.
pub(super) const UPSTREAMS: [&str; 2] = ["fixed", "changing"];
pub(super) const AUTH: [&str; 2] = ["/a", "/b"];

/// A configuration: the order, and which servers there are.
pub(super) struct Configuration {
    pub(super) plan: Plan,
    pub(super) servers: [BTreeSet<usize>; 2],
}

pub(super) fn configuration(input: &mut Input<'_>) -> Configuration {
    let (reversed, which) = (input.flag(), input.byte());
    let addresses = |upstream: usize| -> BTreeSet<usize> {
        let chosen = |address: &usize| (which >> (address + upstream)) & 1 == 1;
        [0].into_iter().chain((1..4).filter(chosen)).collect()
    };
    let servers = [addresses(0), addresses(1)];
    let upstream = |number: usize| UpstreamInfo {
        name: UPSTREAMS[number].into(),
        servers: servers[number].iter().map(|address| server(ADDRESSES[*address])).collect(),
        changing: number == 1,
        queue: Some(1),
        ..UpstreamInfo::default()
    };
    let (mut upstreams, mut auth) = (vec![upstream(0), upstream(1)], AUTH.map(str::to_owned).to_vec());
    if reversed {
        upstreams.reverse();
        auth.reverse();
    }
    let mut plan = Plan::new(upstreams, auth);
    plan.room = 2;
    Configuration { plan, servers }
}

pub(super) fn server(address: &[u8]) -> ServerInfo {
    ServerInfo {
        address: address.to_vec(),
        text: String::from_utf8_lossy(address).into(),
        ..ServerInfo::default()
    }
}
