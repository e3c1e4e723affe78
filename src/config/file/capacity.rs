//! How many connections and requests there may be at a time. The defaults follow from how many descriptors the process may have.

use super::parsers::count;
use super::section::Section;

/// Descriptors that are nobody's but the gateway's own: listeners, the journal, Redis, the collector, name servers, and 64 connections of
/// operators.
const RESERVED: usize = 192;

/// The largest defaults. More are asked for by an operator who knows how much memory there is.
const MAX_CLIENTS: usize = 65_536;
const MAX_TO_SENDLY: usize = 1024;

/// The smallest, however few descriptors there are.
const MIN: usize = 16;

/// The caps on what clients may do.
pub(super) struct OfClients {
    pub(super) connections: usize,
    pub(super) per_address: usize,
    pub(super) streams: u32,
    pub(super) requests: usize,
}

/// `clients.max_connections` and those like it; 0 is what follows from the descriptors, and from the other keys.
pub(super) fn of_clients(keys: &mut Section<'_, '_>) -> OfClients {
    let given_or = |given: usize, derived: usize| if given == 0 { derived } else { given };
    let connections = given_or(keys.get("max_connections", 0, count(0..=10_000_000)), from_clients(descriptors()));
    OfClients {
        connections,
        per_address: given_or(keys.get("max_per_address", 0, count(0..=10_000_000)), connections.div_ceil(2)),
        streams: keys.get("max_streams", 100, count(1..=10_000)),
        requests: given_or(
            keys.get("max_requests", 0, count(0..=10_000_000)),
            connections.max(4 * to_sendly(descriptors())),
        ),
    }
}

/// `upstream.max_connections`; 0 is what follows from the descriptors.
pub(super) fn of_upstream(keys: &mut Section<'_, '_>) -> usize {
    match keys.get("max_connections", 0, count(0..=1_000_000)) {
        0 => to_sendly(descriptors()),
        given => given,
    }
}

/// A quarter of the descriptors that are free for it.
fn to_sendly(descriptors: usize) -> usize {
    (descriptors.saturating_sub(RESERVED) / 4).clamp(MIN, MAX_TO_SENDLY)
}

/// What is left beside the connections to Sendly that are in use, and as many that are idle.
fn from_clients(descriptors: usize) -> usize {
    descriptors.saturating_sub(RESERVED + 2 * to_sendly(descriptors)).clamp(MIN, MAX_CLIENTS)
}

/// How many descriptors this process may have (`ulimit -n`).
fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_the_descriptors_leaves_room_for_everything_else() {
        for descriptors in [256, 300, 1024, 4096, 65_536, 1_048_576, usize::MAX] {
            let all = from_clients(descriptors) + 2 * to_sendly(descriptors) + RESERVED;
            assert!(all <= descriptors, "{descriptors}: {all}");
        }
        assert_eq!((from_clients(1024), to_sendly(1024)), (416, 208));
        assert_eq!((from_clients(65_536), to_sendly(65_536)), (63_296, 1024));
        assert_eq!((from_clients(1_048_576), to_sendly(1_048_576)), (65_536, 1024));
    }
}
