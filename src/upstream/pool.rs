//! Idle connections: the one that was used last is used first, so that what is not needed ages.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::connection::Connection;
use crate::clock::Moment;

/// See the module's documentation.
pub(crate) struct Pool {
    /// Oldest first.
    idle: Mutex<Vec<Idle>>,
    /// How many there may be; none, once it is closed. Written under the lock.
    most: AtomicUsize,
    timeout: Duration,
}

struct Idle {
    connection: Connection,
    since: Moment,
}

impl Pool {
    /// A pool of at most so many connections, each idle for less than this.
    pub(crate) fn new(most: usize, timeout: Duration) -> Self {
        Self { idle: Mutex::default(), most: most.into(), timeout }
    }

    /// A connection that stands, as far as is known.
    pub(crate) fn take(&self, now: Moment) -> Option<Connection> {
        loop {
            let mut newest = self.idle.lock().pop()?;
            if newest.is_fresh(now, self.timeout) {
                return Some(newest.connection);
            }
        }
    }

    /// Keeps a connection for the next one who needs it, if there is room and it is not too old.
    pub(crate) fn give_back(&self, connection: Connection, now: Moment) {
        // Closed without the lock, and so is one that finds no room.
        if connection.is_old(now) {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < self.most.load(Ordering::Relaxed) {
            idle.push(Idle { connection, since: now });
        }
    }

    /// Closes all that are idle, and from now on each that is given back.
    pub(crate) fn close(&self) {
        let mut idle = self.idle.lock();
        self.most.store(0, Ordering::Relaxed);
        let all = std::mem::take(&mut *idle);
        drop(idle);
        // Closed without the lock.
        drop(all);
    }

    /// Closes those that have been idle for too long or are too old, and those that the other side has closed.
    pub(crate) fn sweep(&self, now: Moment) {
        let stale: Vec<Idle> = self.idle.lock().extract_if(.., |idle| !idle.is_fresh(now, self.timeout)).collect();
        // Closed without the lock.
        drop(stale);
    }
}

impl Idle {
    fn is_fresh(&mut self, now: Moment, timeout: Duration) -> bool {
        now.since(self.since) < timeout && !self.connection.is_old(now) && self.connection.is_quiet()
    }
}
