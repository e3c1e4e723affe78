//! What a ledger knows, told to another process; and what another one knew or wrote down, taken over.

use super::Memory;
use super::entries::{OfAccount, OfPhone};
use super::shards::{Logged, Part, SHARDS, Shards};
use crate::clock::Moment;
use crate::ledger::journal::record::Record;
use crate::ledger::{Charge, Settlement};
use crate::policy::{Key, Policy};

/// Whose part of a record is taken over. Phones mean the same to every process; ids and accounts only under the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Of {
    /// What phones were charged with.
    Phones,
    /// Everything else.
    Others,
}

impl Memory {
    /// Does again what a record tells. They have to come in the order in which it happened; what no limit can need any more
    /// changes nothing.
    ///
    /// What happened in the future (the clock was put back meanwhile) has happened now: otherwise it would be counted for longer
    /// than its window.
    pub(in crate::ledger) fn restore(&self, policy: &Policy, record: &Record, of: Of, now: Moment) {
        let is_of = |key: Key| matches!(key, Key::Phone(_)) == (of == Of::Phones);
        match *record {
            Record::Charged(charge) | Record::InFlight(charge) => {
                let is_open = matches!(record, Record::InFlight(_));
                let Charge { at, kind, .. } = clamped(charge, now);
                for key in charge.keys().filter(|key| is_of(*key)) {
                    if at + policy.retention(key.per()).of(kind).window > now {
                        self.record_as(policy, key, kind, at, is_open);
                    }
                }
            }
            Record::GivenBack(charge) | Record::Kept(charge) => {
                let charge = clamped(charge, now);
                let charge = match of {
                    Of::Phones => Charge { verification: None, account: None, ..charge },
                    Of::Others => Charge { phone: None, ..charge },
                };
                let is_kept = matches!(record, Record::Kept(_));
                self.settle(&charge, if is_kept { Settlement::Keep } else { Settlement::GiveBack });
            }
            Record::Learned { id, known, at } if of == Of::Others => {
                self.verifications.restore(id, known, at.min(now), now)
            }
            Record::Held { key, at, until } if is_of(key) => {
                // As long as Sendly said, and no longer.
                let until = at.min(now) + until.since(at);
                if until > now {
                    self.hold(key, until);
                }
            }
            Record::HeldFor { key, account, at, until } if of == Of::Others => {
                let until = at.min(now) + until.since(at);
                if until > now {
                    // That two accounts are held stands in a record of its own.
                    let _ = self.holds.add(key, account, until, now);
                }
            }
            Record::Cleared { key, .. } => {
                if is_of(key) {
                    self.clear(policy, key, now);
                }
                if of == Of::Others {
                    self.holds.clear(key, now);
                }
            }
            Record::Absorbed { into, from, at } if is_of(into) => {
                self.absorb(policy, into, from);
                // However old it is: what the other key was charged with later comes later. The first sweep drops what nothing needs.
                self.note(into, from, at.min(now));
            }
            Record::Accepted { account, at } if of == Of::Others => drop(self.proofs.insert(account, at.min(now))),
            Record::Rejected { account, .. } if of == Of::Others => drop(self.proofs.remove(account)),
            _ => {}
        }
    }

    /// Tells all that it knows, as records that make another ledger know the same. While one shard is told of, nobody else uses that.
    pub(in crate::ledger) fn tell_all(&self, now: Moment, mut tell: impl FnMut(&Record)) {
        self.proofs.each(|account, at| tell(&Record::Accepted { account, at }));
        self.holds.each(now, |key, account, until| tell(&Record::HeldFor { key, account, at: now, until }));
        // First: what happens meanwhile is told of a key by any of its names. As of now: what the other key is charged with comes later.
        for shard in 0..SHARDS {
            tell_notes(&self.phones, shard, now, Key::Phone, &mut tell);
            tell_notes(&self.verifications.shards, shard, now, Key::Verification, &mut tell);
            tell_notes(&self.accounts, shard, now, Key::Account, &mut tell);
        }
        for shard in 0..SHARDS {
            tell_logs::<OfPhone>(&self.phones, shard, now, Key::Phone, &mut tell);
            let verifications = &self.verifications;
            verifications.shards.visit(shard, |id, part| {
                if let Part::Entry(entry, root) = part
                    && let Some((known, at)) = verifications.told(id, entry, root, now)
                {
                    tell(&Record::Learned { id, known, at });
                }
            });
            tell_logs(&verifications.shards, shard, now, Key::Verification, &mut tell);
            tell_logs::<OfAccount>(&self.accounts, shard, now, Key::Account, &mut tell);
        }
    }

    /// Notes that one key is another, where nothing of it was there to be moved.
    fn note(&self, into: Key, from: Key, newest: Moment) {
        let room = || self.has_room();
        match (into, from) {
            (Key::Phone(into), Key::Phone(from)) => self.phones.note(into, from, newest, room),
            (Key::Verification(into), Key::Verification(from)) => {
                self.verifications.shards.note(into, from, newest, room);
            }
            (Key::Account(into), Key::Account(from)) => self.accounts.note(into, from, newest, room),
            _ => {}
        }
    }
}

fn tell_notes<E: Logged>(
    shards: &Shards<E>,
    shard: usize,
    now: Moment,
    key: impl Fn(E::Id) -> Key,
    tell: &mut impl FnMut(&Record),
) {
    shards.each_note(shard, |from, into| tell(&Record::Absorbed { into: key(into), from: key(from), at: now }));
}

fn tell_logs<E: Logged>(
    shards: &Shards<E>,
    shard: usize,
    now: Moment,
    key: impl Fn(E::Id) -> Key,
    tell: &mut impl FnMut(&Record),
) {
    shards.visit(shard, |id, part| match part {
        Part::Entry(entry, _) => {
            for (at, kind, is_open) in entry.log().each_open() {
                let charge = Charge::of(key(id), kind, at);
                tell(&if is_open { Record::InFlight(charge) } else { Record::Charged(charge) });
            }
        }
        Part::Held(until) => tell(&Record::Held { key: key(id), at: now, until }),
    });
}

fn clamped(charge: Charge, now: Moment) -> Charge {
    Charge { at: charge.at.min(now), ..charge }
}
