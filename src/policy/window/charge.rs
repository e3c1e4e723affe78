//! One charge of a log, in one word.

use super::UNSETTLED;
use crate::clock::Moment;
use crate::policy::{Kind, Retention};

/// When a code went out, of which kind, and whether it is settled, in one word. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge(pub(super) u64);

impl Charge {
    const RESEND: u64 = 1;
    /// The charge may turn out never to have been. Times reach this bit in 146,000 years.
    pub(super) const OPEN: u64 = 1 << 63;

    /// A charge that is settled.
    pub(super) fn new(at: Moment, kind: Kind) -> Self {
        // A moment of the epoch's very first microsecond is that of the second: 0 is no charge.
        let word = at.as_micros().max(1) << 1 | if kind == Kind::Resend { Self::RESEND } else { 0 };
        Self(word & !Self::OPEN)
    }

    pub(super) const fn opened(self) -> Self {
        Self(self.0 | Self::OPEN)
    }

    pub(super) const fn at(self) -> Moment {
        Moment::from_micros((self.0 & !Self::OPEN) >> 1)
    }

    pub(super) const fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    /// Whether it stays, whatever becomes of exchanges that are in flight.
    pub(super) fn is_settled(self, as_of: Moment) -> bool {
        !self.is_open() || self.at() + UNSETTLED <= as_of
    }

    pub(super) const fn kind(self) -> Kind {
        if self.0 & Self::RESEND == 0 { Kind::Send } else { Kind::Resend }
    }

    /// When it has left every window that counts it.
    pub(super) fn leaves(self, retention: Retention) -> Moment {
        self.at() + retention.of(self.kind()).window
    }
}
