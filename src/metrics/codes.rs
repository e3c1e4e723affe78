//! Codes by where they go, and what they cost; and how many of them end in a confirmed verification.
//!
//! A code counts as sent when its charge is kept: it went out, or may have. Tiers and prices are the configuration's
//! ([`Tariff`]); a country is what [`Country::of`] makes of the phone.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntCounterVec};

use super::register::{Register, Result};
use crate::country::Country;
use crate::phone::Phone;
use crate::policy::Kind;
use crate::policy::subject::Verification;
use crate::policy::tariff::{Tariff, Tier};

/// What became of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It went out, or may have: its charge was kept.
    Sent,
    /// A limit, or Sendly's hold on the phone, refused it.
    Refused,
    /// It did not go out after all: its charge was given back.
    GivenBack,
}

impl Fate {
    /// Every fate, in the order of its discriminants.
    pub const ALL: [Fate; 3] = [Fate::Sent, Fate::Refused, Fate::GivenBack];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Sent => "sent",
            Fate::Refused => "refused",
            Fate::GivenBack => "given_back",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Codes {
    /// By tier, and each by fate.
    tiers: Vec<[InTier; Fate::ALL.len()]>,
    sent: IntCounterVec,
    confirmed: IntCounterVec,
    /// By the index of the country, and last what is in none. A country's series begin with its first code: 250 of them at
    /// zero would tell nothing.
    countries: Vec<OnceLock<InCountry>>,
    seen: Confirmed,
}

#[derive(Debug)]
struct InTier {
    codes: IntCounter,
    credits: IntCounter,
}

/// They begin together, so that what is divided by one another is there.
#[derive(Debug)]
struct InCountry {
    sends: IntCounter,
    resends: IntCounter,
    confirmed: IntCounter,
}

/// What has no country is told to be in.
const NOWHERE: &str = "none";

impl Codes {
    pub(super) fn new(register: Register<'_>) -> Result<Self> {
        let labels = ["tier", "outcome"];
        let codes =
            register.counters("codes_total", "Codes, by the tier that they go to and what became of them.", &labels)?;
        let credits = register.counters(
            "credits_total",
            "What those codes cost, or would have, in Sendly's credits.",
            &labels,
        )?;
        let in_tier = |tier: Tier| {
            Fate::ALL.map(|fate| InTier {
                codes: codes.with_label_values(&[tier.name(), fate.name()]),
                credits: credits.with_label_values(&[tier.name(), fate.name()]),
            })
        };
        let tiers = Tier::ALL.iter().map(|tier| in_tier(*tier)).collect();
        Ok(Self {
            tiers,
            sent: register.counters(
                "codes_sent_total",
                "Codes that went out, or may have, by the country of their phone (ISO 3166) and by kind.",
                &["country", "kind"],
            )?,
            confirmed: register.counters(
                "verifications_confirmed_total",
                "Verifications that Sendly found confirmed when their code was checked, by country.",
                &["country"],
            )?,
            countries: (0..=Country::COUNT).map(|_| OnceLock::new()).collect(),
            seen: Confirmed::new(),
        })
    }

    /// A code ended so. Of one whose phone never became known, the price is what is assumed for any other country.
    pub(super) fn ended(&self, tariff: &Tariff, fate: Fate, kind: Kind, phone: Option<Phone>) {
        let country = phone.and_then(Country::of);
        let tier = tariff.tier(country);
        let fates = self.tiers.get(tier as usize);
        if let Some(InTier { codes, credits }) = fates.and_then(|fates| fates.get(fate as usize)) {
            codes.inc();
            credits.inc_by(tariff.credits(tier).into());
        }
        if fate == Fate::Sent
            && let Some(InCountry { sends, resends, .. }) = self.country(country)
        {
            match kind {
                Kind::Send => sends.inc(),
                Kind::Resend => resends.inc(),
            }
        }
    }

    /// How many codes ended in each way, and what they cost, in all tiers together; in the order of [`Fate::ALL`].
    pub(super) fn totals(&self) -> ([u64; Fate::ALL.len()], [u64; Fate::ALL.len()]) {
        let total = |count: fn(&InTier) -> u64| {
            Fate::ALL.map(|fate| self.tiers.iter().filter_map(|fates| fates.get(fate as usize)).map(count).sum())
        };
        (total(|tier| tier.codes.get()), total(|tier| tier.credits.get()))
    }

    /// A check confirmed this verification. Sendly says so again to whoever checks the right code again: that is not counted.
    pub(super) fn confirmed(&self, verification: Option<Verification>, phone: Option<Phone>) {
        if verification.is_some_and(|verification| !self.seen.is_new(verification)) {
            return;
        }
        if let Some(country) = self.country(phone.and_then(Country::of)) {
            country.confirmed.inc();
        }
    }

    fn country(&self, country: Option<Country>) -> Option<&InCountry> {
        let place = self.countries.get(country.map_or(Country::COUNT, Country::index))?;
        let name = country.map_or(NOWHERE, Country::code);
        Some(place.get_or_init(|| InCountry {
            sends: self.sent.with_label_values(&[name, "send"]),
            resends: self.sent.with_label_values(&[name, "resend"]),
            confirmed: self.confirmed.with_label_values(&[name]),
        }))
    }
}

/// The verifications that were counted as confirmed not long ago: of each group of them the last, so that this never grows,
/// takes no lock, and is one swap.
///
/// One that is checked again after another of its group was confirmed counts twice. With a hundred confirmations a second that
/// happens to one in a hundred of those that are checked again within 6 seconds, as by a client that lost its answer.
#[derive(Debug)]
struct Confirmed(Box<[AtomicU64]>);

/// 512 KiB.
const GROUPS: usize = 1 << 16;

impl Confirmed {
    fn new() -> Self {
        // 0 is no verification's.
        Self((0..GROUPS).map(|_| AtomicU64::new(0)).collect())
    }

    fn is_new(&self, verification: Verification) -> bool {
        let hash = verification.within.get();
        let place = self.0.get(usize::try_from(hash).unwrap_or_default() % GROUPS);
        place.is_none_or(|last| last.swap(hash, Ordering::Relaxed) != hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::subject::HashKey;

    #[test]
    fn a_verification_is_confirmed_once() {
        let (seen, key) = (Confirmed::new(), HashKey::new([7; 16]));
        let ids: Vec<_> = (0..100).map(|nth| key.verification(&format!("ver_{nth}"))).collect();
        assert!(ids.iter().all(|id| seen.is_new(*id)));
        assert!(!ids.iter().any(|id| seen.is_new(*id)));
    }

    #[test]
    fn fates_stand_where_they_are_looked_up() {
        assert!(Fate::ALL.iter().enumerate().all(|(place, fate)| *fate as usize == place));
    }
}
