//! What Sendly charges for a code, by where it goes.
//!
//! Sendly's newest public figures (READMEs of its SDKs, November 2026) are six tiers and a few example countries for each. The
//! whole table is served by its API alone and an account may have prices of its own, so all of it can be set under `[credits]`.

use crate::country::Country;
use crate::phone::Phone;

/// A group of countries with one price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The United States and Canada.
    Domestic,
    /// The cheapest abroad.
    Tier1,
    /// Dearer.
    Tier2,
    /// Dearer still.
    Tier3,
    /// Dearer still.
    Tier4,
    /// The dearest.
    Tier5,
}

impl Tier {
    /// Every tier, in the order of its discriminants.
    pub const ALL: [Tier; 6] = [Tier::Domestic, Tier::Tier1, Tier::Tier2, Tier::Tier3, Tier::Tier4, Tier::Tier5];

    /// Its name in config and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Domestic => "domestic",
            Tier::Tier1 => "tier1",
            Tier::Tier2 => "tier2",
            Tier::Tier3 => "tier3",
            Tier::Tier4 => "tier4",
            Tier::Tier5 => "tier5",
        }
    }

    /// What a code costs and which countries are in it, unless the config says otherwise.
    pub const fn documented(self) -> (u32, &'static [&'static str]) {
        match self {
            Tier::Domestic => (2, &["US", "CA"]),
            Tier::Tier1 => (8, &["GB", "AU", "PL", "SE", "BR"]),
            Tier::Tier2 => (12, &["FR", "JP", "IT", "IN", "ES"]),
            Tier::Tier3 => (16, &["DE", "NL", "MX", "BE"]),
            Tier::Tier4 => (24, &["UA", "VN", "PA", "GE"]),
            Tier::Tier5 => (48, &["IL", "MY", "PH", "ID"]),
        }
    }
}

/// The tier of each country, and the price of each tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// Where no tier names a country.
    other: Tier,
    /// In the order of [`Tier::ALL`].
    credits: [u32; Tier::ALL.len()],
    /// By the index of the country.
    tiers: Vec<Option<Tier>>,
}

impl Tariff {
    /// A tariff of these tiers, each with its price and its countries; of two that name one country, the first has it.
    pub fn new(other: Tier, tiers: &[(Tier, u32, Vec<Country>)]) -> Self {
        let mut tariff = Self { other, credits: [0; Tier::ALL.len()], tiers: vec![None; Country::COUNT] };
        for (tier, credits, countries) in tiers {
            if let Some(price) = tariff.credits.get_mut(*tier as usize) {
                *price = *credits;
            }
            for country in countries {
                if let Some(place) = tariff.tiers.get_mut(country.index()) {
                    place.get_or_insert(*tier);
                }
            }
        }
        tariff
    }

    /// The tier of a country; of none in particular, what is assumed for those in no tier.
    pub fn tier(&self, country: Option<Country>) -> Tier {
        let named = country.and_then(|country| self.tiers.get(country.index()).copied().flatten());
        named.unwrap_or(self.other)
    }

    /// The tier that a code to this phone is in.
    pub fn tier_of(&self, phone: Option<Phone>) -> Tier {
        self.tier(phone.and_then(Country::of))
    }

    /// What one code in this tier costs.
    pub fn credits(&self, tier: Tier) -> u32 {
        self.credits.get(tier as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_costs_what_its_country_is_in() {
        let country = |code: &str| code.parse::<Country>().unwrap();
        let tiers = [
            (Tier::Domestic, 2, vec![country("US"), country("CA")]),
            (Tier::Tier2, 12, vec![country("FR"), country("US")]),
        ];
        let tariff = Tariff::new(Tier::Tier5, &tiers);
        let tier = |phone: &str| tariff.tier_of(phone.parse().ok());
        assert_eq!(tier("+12125550123"), Tier::Domestic);
        assert_eq!(tier("+33612345678"), Tier::Tier2);
        assert_eq!(tier("+4915112345678"), Tier::Tier5, "a country in no tier");
        assert_eq!(tariff.tier_of(None), Tier::Tier5);
        assert_eq!(Tier::ALL.map(|tier| tariff.credits(tier)), [2, 0, 12, 0, 0, 0]);
    }

    #[test]
    fn tiers_stand_where_they_are_looked_up() {
        assert!(Tier::ALL.iter().enumerate().all(|(place, tier)| *tier as usize == place));
        let codes = Tier::ALL.iter().flat_map(|tier| tier.documented().1);
        assert!(codes.clone().all(|code| code.parse::<Country>().is_ok()));
        assert_eq!(
            codes.clone().collect::<std::collections::BTreeSet<_>>().len(),
            codes.count(),
            "each is in one tier"
        );
    }
}
