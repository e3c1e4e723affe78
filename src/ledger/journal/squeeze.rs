//! What a file tells in vain: codes that were given back, and what was learned again later.

use std::collections::HashMap;

use super::record::{Found, Record};
use crate::ledger::Charge;
use crate::policy::subject::Verification;

/// The records that say the same without it, in their order. What is given back here and was charged in a file before stays.
pub(super) fn squeeze(found: impl Iterator<Item = Found>) -> Vec<Record> {
    let mut records: Vec<Option<Record>> = Vec::new();
    let mut charged: HashMap<Charge, Vec<usize>> = HashMap::new();
    let mut learned: HashMap<Verification, usize> = HashMap::new();
    for found in found {
        let Found::Record(record) = found else { continue };
        let place = records.len();
        let needless = match &record {
            Record::Charged(charge) => {
                charged.entry(*charge).or_default().push(place);
                None
            }
            Record::GivenBack(charge) => charged.get_mut(charge).and_then(Vec::pop),
            Record::Learned { id, .. } => learned.insert(*id, place),
            _ => None,
        };
        let is_paired = needless.is_some() && matches!(record, Record::GivenBack(_));
        if let Some(earlier) = needless.and_then(|place| records.get_mut(place)) {
            *earlier = None;
        }
        records.push(Some(record).filter(|_| !is_paired));
    }
    records.into_iter().flatten().collect()
}
