//! Whether Redis is asked. It is not while it is away: nobody waits for what does not come.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock::Moment;

/// Why Redis cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection comes about, or it broke.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// It does not let the gateway in, or not do what it has to.
    Auth,
    /// It has no memory left.
    Memory,
    /// It is a replica, or does not write because its disk fails.
    ReadOnly,
    /// It loads its data, or its cluster is down.
    Unavailable,
    /// It answered what the gateway does not understand.
    Error,
}

impl Reason {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Reason; 7] = [
        Reason::Unreachable,
        Reason::Timeout,
        Reason::Auth,
        Reason::Memory,
        Reason::ReadOnly,
        Reason::Unavailable,
        Reason::Error,
    ];

    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Unreachable => "unreachable",
            Reason::Timeout => "timeout",
            Reason::Auth => "auth",
            Reason::Memory => "memory",
            Reason::ReadOnly => "read_only",
            Reason::Unavailable => "unavailable",
            Reason::Error => "error",
        }
    }

    /// Whether one is enough to stop asking. A single answer may be late, and no other.
    const fn is_certain(self) -> bool {
        !matches!(self, Reason::Timeout | Reason::Error)
    }
}

/// So many failures in a row, and it is not asked any more.
const IN_A_ROW: u32 = 3;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Circuit {
    is_up: AtomicBool,
    /// Whether it was ever decided which it is.
    has_begun: AtomicBool,
    in_a_row: AtomicU32,
    /// How often it came back: what was asked before that says nothing about now.
    turn: AtomicU32,
    /// In microseconds since the epoch.
    since: AtomicU64,
    reason: AtomicUsize,
    outages: [AtomicU64; Reason::ALL.len()],
}

impl Circuit {
    /// Not asked, until it has been reached.
    pub(super) fn new(now: Moment) -> Self {
        Self {
            is_up: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            in_a_row: AtomicU32::new(0),
            turn: AtomicU32::new(0),
            since: AtomicU64::new(now.as_micros()),
            reason: AtomicUsize::new(Reason::Unreachable as usize),
            outages: Default::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// Since when it is as it is, and why, if it is away.
    pub(super) fn state(&self) -> (Moment, Option<Reason>) {
        let reason = Reason::ALL.get(self.reason.load(Ordering::Relaxed)).copied();
        (Moment::from_micros(self.since.load(Ordering::Relaxed)), reason.filter(|_| !self.is_up()))
    }

    /// How often it went away for each reason.
    pub(super) fn outages(&self) -> [u64; Reason::ALL.len()] {
        self.outages.each_ref().map(|outages| outages.load(Ordering::Relaxed))
    }

    /// It answered.
    pub(super) fn worked(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Which turn this is: from when it can be asked to when it can be asked again.
    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Acquire)
    }

    /// Records a failed call. Returns whether this opened the circuit.
    pub(super) fn failed(&self, reason: Reason, turn: u32, now: Moment) -> bool {
        if turn != self.turn() {
            return false;
        }
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let was_up = match reason.is_certain() || in_a_row >= IN_A_ROW {
            true => self.is_up.swap(false, Ordering::AcqRel) || !self.has_begun.swap(true, Ordering::AcqRel),
            false => false,
        };
        if was_up {
            self.has_begun.store(true, Ordering::Release);
            self.since.store(now.as_micros(), Ordering::Relaxed);
            self.reason.store(reason as usize, Ordering::Relaxed);
            if let Some(outages) = self.outages.get(reason as usize) {
                outages.fetch_add(1, Ordering::Relaxed);
            }
        }
        was_up
    }

    /// It can be asked again. Returns how long it was away; `None`, if it had not been reached before.
    pub(super) fn close(&self, now: Moment) -> Option<Duration> {
        let since = Moment::from_micros(self.since.swap(now.as_micros(), Ordering::Relaxed));
        self.in_a_row.store(0, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::AcqRel);
        self.is_up.store(true, Ordering::Release);
        self.has_begun.swap(true, Ordering::AcqRel).then(|| now.since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(1_795_424_400_000_000);

    #[test]
    fn reasons_stand_where_they_are_looked_up() {
        assert!(Reason::ALL.iter().enumerate().all(|(place, reason)| *reason as usize == place));
    }

    #[test]
    fn one_answer_may_be_late_and_three_in_a_row_may_not() {
        let circuit = Circuit::new(NOW);
        assert!(!circuit.is_up());
        assert_eq!(circuit.close(NOW), None);
        assert!(
            !circuit.failed(Reason::Timeout, circuit.turn(), NOW)
                && !circuit.failed(Reason::Timeout, circuit.turn(), NOW)
        );
        circuit.worked();
        assert!(
            !circuit.failed(Reason::Timeout, circuit.turn(), NOW)
                && !circuit.failed(Reason::Timeout, circuit.turn(), NOW)
        );
        assert!(circuit.is_up());
        assert!(circuit.failed(Reason::Timeout, circuit.turn(), NOW));
        assert!(!circuit.is_up() && !circuit.failed(Reason::Timeout, circuit.turn(), NOW), "it is told once");
        assert_eq!(circuit.state(), (NOW, Some(Reason::Timeout)));
        assert_eq!(circuit.outages().iter().sum::<u64>(), 1);
    }

    #[test]
    fn what_is_certain_is_enough() {
        let circuit = Circuit::new(NOW);
        circuit.close(NOW);
        assert!(circuit.failed(Reason::ReadOnly, circuit.turn(), NOW));
        assert_eq!(circuit.close(NOW + Duration::from_secs(9)), Some(Duration::from_secs(9)));
        assert_eq!(circuit.state(), (NOW + Duration::from_secs(9), None));
    }

    #[test]
    fn what_failed_before_it_came_back_says_nothing_about_now() {
        let circuit = Circuit::new(NOW);
        circuit.close(NOW);
        let before = circuit.turn();
        assert!(circuit.failed(Reason::Unreachable, before, NOW));
        circuit.close(NOW);
        assert!(!circuit.failed(Reason::Unreachable, before, NOW));
        assert!(circuit.is_up());
    }

    #[test]
    fn a_start_without_it_is_an_outage_too() {
        let circuit = Circuit::new(NOW);
        assert!(circuit.failed(Reason::Unreachable, circuit.turn(), NOW));
        assert!(!circuit.failed(Reason::Unreachable, circuit.turn(), NOW));
        assert_eq!(circuit.close(NOW + Duration::from_secs(9)), Some(Duration::from_secs(9)));
    }
}
