//! How many connections of clients, requests and connections to Sendly there may be at a time, and what was turned away for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::reply::Reply;
use super::settings::Settings;
use super::slots::{Slot, Slots};
use super::{Gateway, Request};
use crate::config::Clients;
use crate::metrics::{Capped, Late, Outcome, TurnedAway};
use crate::throttle::network;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Caps {
    /// Open connections by their clients' addresses, IPv6 by /64. Those of trusted proxies are not in it.
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Connections to Sendly that are in use; and those among them that pingora uses.
    to_sendly: Slots,
    passing: Slots,
    turned_away: [AtomicU64; TurnedAway::ALL.len()],
    late: [AtomicU64; Late::ALL.len()],
}

/// How long a request waits for a connection to Sendly, where all are in use.
const WAIT_FOR_SENDLY: Duration = Duration::from_secs(1);

/// A client's connection, counted until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    _open: TaskTrackerToken,
    place: Option<AddressPlace>,
}

#[derive(Debug)]
struct AddressPlace {
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut by_address = self.by_address.lock();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
                if by_address.capacity() > 4 * by_address.len().max(256) {
                    by_address.shrink_to_fit();
                }
            }
        }
    }
}

impl Caps {
    /// Something was turned away.
    pub(crate) fn turn_away(&self, reason: TurnedAway) {
        count(&self.turned_away, reason as usize);
    }

    /// A client did not do its part in time.
    pub(crate) fn is_late(&self, phase: Late) {
        count(&self.late, phase as usize);
    }

    /// How much was turned away, in the order of [`TurnedAway::ALL`].
    pub(crate) fn turned_away(&self) -> [u64; TurnedAway::ALL.len()] {
        self.turned_away.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// How often a client was late, in the order of [`Late::ALL`].
    pub(crate) fn late(&self) -> [u64; Late::ALL.len()] {
        self.late.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// A place for another connection of this address; `None` where it has as many as one address may.
    fn place(&self, address: IpAddr, most: usize) -> Option<AddressPlace> {
        let mut by_address = self.by_address.lock();
        let count = by_address.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(by_address);
        Some(AddressPlace { by_address: Arc::clone(&self.by_address), address })
    }
}

fn count(counts: &[AtomicU64], place: usize) {
    if let Some(count) = counts.get(place) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Gateway {
    /// Counts a client's connection. `None` if it would be one too many, in all or of its address: then it is to be closed.
    pub fn admit(&self, peer: IpAddr) -> Option<Admitted> {
        let settings = self.settings.load();
        let Clients { max_connections, max_per_address, trusted_proxies, .. } = &settings.config.clients;
        if self.connections.len() >= *max_connections {
            self.caps.turn_away(TurnedAway::Connections);
            return None;
        }
        let place = match is_trusted(peer, trusted_proxies) {
            true => None,
            false => match self.caps.place(network(peer), *max_per_address) {
                None => {
                    self.caps.turn_away(TurnedAway::Address);
                    return None;
                }
                place => place,
            },
        };
        Some(Admitted { _open: self.connections.token(), place })
    }

    /// Counts a connection to its client, once a trusted proxy has said whose it is. Returns whether there is a place for it.
    pub fn admit_behind_proxy(&self, client: IpAddr, admitted: &mut Admitted) -> bool {
        let settings = self.settings.load();
        let clients = &settings.config.clients;
        if clients.trusts(client) {
            return true;
        }
        admitted.place = self.caps.place(network(client), clients.max_per_address);
        if admitted.place.is_none() {
            self.caps.turn_away(TurnedAway::Address);
        }
        admitted.place.is_some()
    }

    /// Leave to use a connection to Sendly, if one is free.
    pub(crate) fn try_sendly_slot(&self, settings: &Settings) -> Option<Slot> {
        self.caps.to_sendly.try_take(settings.config.upstream.max_connections)
    }

    /// Leave to use a connection to Sendly, for a code and what has to be known for it. It is waited for, within bounds.
    pub(crate) fn sendly_slot(&self, settings: &Settings) -> impl Future<Output = Option<Slot>> + Send {
        self.caps.to_sendly.take(settings.config.upstream.max_connections, WAIT_FOR_SENDLY)
    }

    /// Leave for pingora to use one. Half of them are for codes alone: whatever passes may last, as a stream or for a client that reads slowly.
    pub(crate) async fn passing_slot(&self, settings: &Settings) -> Option<[Slot; 2]> {
        let most = settings.config.upstream.max_connections;
        let passing = self.caps.passing.take(most.div_ceil(2), WAIT_FOR_SENDLY).await?;
        Some([passing, self.caps.to_sendly.take(most, WAIT_FOR_SENDLY).await?])
    }

    /// What a client is told whose request is one too many.
    pub(crate) fn turn_request_away(&self, request: &mut Request, reason: TurnedAway) -> Reply {
        self.caps.turn_away(reason);
        request.outcome = Outcome::Overloaded;
        Reply::overloaded()
    }

    /// How much there is of what has a cap.
    pub(crate) fn capped(&self) -> Capped {
        let settings = self.settings.load();
        let clients = &settings.config.clients;
        Capped {
            connections: (self.connections.len(), clients.max_connections),
            max_requests: clients.max_requests,
            throttle_keys: settings.throttles.keys(),
            to_sendly: (self.caps.to_sendly.taken(), settings.config.upstream.max_connections),
            turned_away: self.caps.turned_away(),
            late: self.caps.late(),
        }
    }

    /// A client did not do its part of a phase in time.
    pub fn client_was_late(&self, phase: Late) {
        self.caps.is_late(phase);
    }

    /// Something was one too many.
    pub fn turn_away(&self, reason: TurnedAway) {
        self.caps.turn_away(reason);
    }
}

fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_places_and_gets_them_back() {
        let caps = Caps::default();
        let [one, other] = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        let places: Vec<_> = (0..3).map(|_| caps.place(one, 2)).collect();
        assert_eq!(places.iter().flatten().count(), 2);
        assert!(caps.place(other, 2).is_some(), "another address has its own");
        drop(places);
        assert!(caps.by_address.lock().is_empty(), "an address without a connection is forgotten");
        assert!(caps.place(one, 1).is_some());
    }
}
