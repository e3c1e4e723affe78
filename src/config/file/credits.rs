//! `[credits]`: what a code costs, by where it goes.

use super::mistake::Mistakes;
use super::parsers::{array, count, one_of};
use super::raw::Given;
use super::section::Section;
use crate::country::Country;
use crate::policy::tariff::{Tariff, Tier};

/// The most that one code may cost.
const MAX_CREDITS: u32 = 100_000;

pub(super) fn credits(keys: &mut Section<'_, '_>) -> Tariff {
    let given = Tier::ALL.map(|tier| {
        keys.section(tier.name(), |keys| {
            let credits = keys.get("credits", tier.documented().0, count(0..=MAX_CREDITS));
            (tier, credits, keys.optional("countries", array("countries", country)))
        })
    });
    for (place, (tier, _, countries)) in given.iter().enumerate() {
        for (other, _, theirs) in given.iter().take(place) {
            let twice = countries.iter().flatten().find(|country| theirs.iter().flatten().any(|its| its == *country));
            if let Some(country) = twice {
                let key = format!("{}.countries", tier.name());
                let expected =
                    format!("countries that no other tier has ({} is in {} too)", country.code(), other.name());
                keys.rule(false, &[&key], expected);
            }
        }
    }
    // What is given goes before what is not: whoever moves a country need not say where it is no more.
    let default = |tier: Tier| tier.documented().1.iter().filter_map(|code| code.parse().ok()).collect();
    let mut tiers = Vec::from(given);
    tiers.sort_by_key(|(_, _, countries)| countries.is_none());
    let tiers: Vec<_> = tiers
        .into_iter()
        .map(|(tier, credits, countries)| (tier, credits, countries.unwrap_or_else(|| default(tier))))
        .collect();
    let other = keys.get("other", Tier::Tier3, one_of(&Tier::ALL.map(|tier| (tier.name(), tier))));
    Tariff::new(other, &tiers)
}

fn country(given: &Given<'_>) -> Result<Country, Mistakes> {
    let country = given.text().and_then(|code| code.parse().ok());
    country.ok_or_else(|| given.expected(r#"a country's ISO 3166 code such as "US""#))
}
