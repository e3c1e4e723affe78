//! What becomes of a code, told from the last four digits of its phone: the faults that people and tests can provoke.

use super::reply::{Leaves, Refusal};
use crate::phone::Phone;

/// What becomes of a code that a phone was to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives.
    Delivered,
    /// Sendly serves no such destination.
    Unsupported,
    /// Nobody paid for it.
    Unpaid,
    /// No carrier takes it.
    NotHandedOver,
    /// A carrier takes it, and it never arrives.
    Undelivered,
    /// It arrives; Sendly breaks before it can say so.
    Broken,
    /// It arrives; the connection is closed instead of an answer.
    Cut,
    /// It arrives; the answer takes its time.
    Held,
    /// The phone had too many, whatever the sandbox counted.
    Limited,
}

impl Fate {
    pub(super) const fn of(phone: Phone) -> Fate {
        match phone.digits() % 10_000 {
            1 => Fate::Unsupported,
            2 => Fate::Unpaid,
            3 => Fate::NotHandedOver,
            4 => Fate::Undelivered,
            5 => Fate::Broken,
            6 => Fate::Cut,
            7 => Fate::Held,
            8 => Fate::Limited,
            _ => Fate::Delivered,
        }
    }

    /// Why Sendly would not even begin.
    pub(super) const fn refusal(self) -> Option<Refusal> {
        match self {
            Fate::Unsupported => Some(Refusal::UnsupportedDestination),
            Fate::Unpaid => Some(Refusal::InsufficientCredits),
            Fate::Limited => Some(super::limits::PHONE_10M.refusal()),
            _ => None,
        }
    }

    /// How the answer to a code that went out leaves.
    pub(super) const fn leaves(self) -> Leaves {
        match self {
            Fate::Cut => Leaves::Never,
            Fate::Held => Leaves::WhenReleased,
            _ => Leaves::AtOnce,
        }
    }
}
