//! What becomes of a code, told from the last four digits of its phone: the faults that people and tests can provoke.

use super::reply::{Leaves, SandboxRefusal};
use crate::phone::Phone;

/// What becomes of a code that a phone was to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhoneFate {
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

impl PhoneFate {
    pub(super) const fn of(phone: Phone) -> PhoneFate {
        match phone.digits() % 10_000 {
            1 => PhoneFate::Unsupported,
            2 => PhoneFate::Unpaid,
            3 => PhoneFate::NotHandedOver,
            4 => PhoneFate::Undelivered,
            5 => PhoneFate::Broken,
            6 => PhoneFate::Cut,
            7 => PhoneFate::Held,
            8 => PhoneFate::Limited,
            _ => PhoneFate::Delivered,
        }
    }

    /// Why Sendly would not even begin.
    pub(super) const fn refusal(self) -> Option<SandboxRefusal> {
        match self {
            PhoneFate::Unsupported => Some(SandboxRefusal::UnsupportedDestination),
            PhoneFate::Unpaid => Some(SandboxRefusal::InsufficientCredits),
            PhoneFate::Limited => Some(super::limits::PHONE_10M.refusal()),
            _ => None,
        }
    }

    /// How the answer to a code that went out leaves.
    pub(super) const fn leaves(self) -> Leaves {
        match self {
            PhoneFate::Cut => Leaves::Never,
            PhoneFate::Held => Leaves::WhenReleased,
            _ => Leaves::AtOnce,
        }
    }
}
