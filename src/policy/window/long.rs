//! A log of so many charges that looking at them one by one would take too long under a lock.
//!
//! The charges stand in blocks, oldest first. Each block knows how many charges of each kind stand before it, so the n-th newest of a kind
//! is found by a binary search over the blocks and a look into one. Nothing moves more than a block's charges; what follows from a charge
//! that is put in or taken out before the end is a number in each later block. Charges that no limit needs go bit by bit, some blocks with
//! each block that is begun.

use std::collections::VecDeque;

use super::UNSETTLED;
use super::charge::Charge;
use crate::clock::Moment;
use crate::policy::{Counts, Kind, Retention};

/// The most charges in a block: 4 KiB.
pub(super) const BLOCK: usize = 512;

/// How many blocks are looked through, for charges that no limit needs, with each block that is begun: more than one, so that they become fewer.
const LOOKED_THROUGH: usize = 4;

/// How many sends and how many resends.
type PerKind = [u64; 2];

const fn place(kind: Kind) -> usize {
    match kind {
        Kind::Send => 0,
        Kind::Resend => 1,
    }
}

fn counted([sends, resends]: PerKind, counts: Counts) -> u64 {
    u64::from(counts.send) * sends + u64::from(counts.resend) * resends
}

#[derive(Clone, Debug)]
struct Block {
    /// In their order, at least one.
    charges: Vec<Charge>,
    /// Charges that stand before it: all that ever stood there, so that what goes from the front changes nothing here.
    before: PerKind,
    own: PerKind,
    open: PerKind,
}

impl Block {
    fn of(charges: Vec<Charge>, before: PerKind) -> Self {
        let mut block = Self { charges, before, own: [0; 2], open: [0; 2] };
        for charge in &block.charges {
            let (own, open) = (block.own.get_mut(place(charge.kind())), block.open.get_mut(place(charge.kind())));
            own.into_iter().for_each(|own| *own += 1);
            open.into_iter().for_each(|open| *open += u64::from(charge.is_open()));
        }
        block
    }

    fn first(&self) -> Moment {
        self.charges.first().map_or(Moment::default(), |charge| charge.at())
    }

    /// Charges up to its end, all that ever were.
    fn end(&self) -> PerKind {
        let ([sends, resends], [own_sends, own_resends]) = (self.before, self.own);
        [sends + own_sends, resends + own_resends]
    }
}

/// See the module's documentation. It is never empty but before its first charge.
#[derive(Clone, Debug, Default)]
pub(super) struct LongLog {
    blocks: VecDeque<Block>,
    /// Charges that are open.
    open: PerKind,
    /// The next block to look through for charges that no limit needs.
    next: usize,
}

impl LongLog {
    /// The log of these charges, which stand in their order.
    pub(super) fn of(charges: &[Charge]) -> Self {
        let mut log = Self::default();
        for charges in charges.chunks(BLOCK) {
            let block = Block::of(charges.to_vec(), log.end());
            log.open = sum(log.open, block.open);
            log.blocks.push_back(block);
        }
        log
    }

    pub(super) fn charges(&self) -> impl DoubleEndedIterator<Item = Charge> {
        self.blocks.iter().flat_map(|block| block.charges.iter().copied())
    }

    pub(super) fn len(&self) -> usize {
        counted(self.total(), Counts::BOTH) as usize
    }

    pub(super) fn newest(&self) -> Option<Charge> {
        self.blocks.back()?.charges.last().copied()
    }

    /// The n-th newest charge of those that are counted, from 1.
    pub(super) fn nth_newest(&self, counts: Counts, n: usize) -> Option<Charge> {
        let rank = counted(self.end(), counts).checked_sub(n as u64)?;
        self.at_rank(counts, rank).filter(|_| n > 0)
    }

    /// The same of those that are settled.
    pub(super) fn nth_newest_settled(&self, counts: Counts, n: usize, as_of: Moment) -> Option<Charge> {
        let mut left = n as u64;
        if counted(self.open, counts) == 0 || n == 0 {
            return self.nth_newest(counts, n);
        }
        for block in self.blocks.iter().rev() {
            let is_old = block.first() + UNSETTLED <= as_of;
            let settled = counted(block.own, counts) - counted(block.open, counts);
            if !is_old && settled < left {
                left -= settled;
                continue;
            }
            for charge in block.charges.iter().rev() {
                if counts.includes(charge.kind()) && charge.is_settled(as_of) {
                    left -= 1;
                    if left == 0 {
                        return Some(*charge);
                    }
                }
            }
            // All that stands before it is settled, since it is as old.
            return self.at_rank(counts, counted(block.before, counts).checked_sub(left)?);
        }
        None
    }

    /// How many of those that are counted satisfy what no charge does that is older than one that does not.
    pub(super) fn count_from(&self, counts: Counts, is_inside: impl Fn(Charge) -> bool) -> usize {
        let last_is_outside = |block: &Block| !block.charges.last().is_some_and(|last| is_inside(*last));
        let Some(block) = self.blocks.get(self.blocks.partition_point(last_is_outside)) else { return 0 };
        let outside = block.charges.iter().take_while(|charge| !is_inside(**charge));
        let outside = outside.filter(|charge| counts.includes(charge.kind())).count() as u64;
        (counted(self.end(), counts) - counted(block.before, counts) - outside) as usize
    }

    /// Takes a charge in.
    pub(super) fn put(&mut self, charge: Charge, retention: Retention) {
        let is_newest = self.newest().is_none_or(|newest| newest.at() <= charge.at());
        let has_room = self.blocks.back().is_some_and(|block| block.charges.len() < BLOCK);
        if is_newest && !has_room {
            let mut charges = Vec::with_capacity(BLOCK);
            charges.push(charge);
            self.blocks.push_back(Block::of(charges, self.end()));
            add(&mut self.open, charge.kind(), u64::from(charge.is_open()));
            self.forget(retention);
            return;
        }
        // The block in which it stands last among those of its time.
        let mut index = self.blocks.partition_point(|block| block.first() <= charge.at()).saturating_sub(1);
        if self.blocks.get(index).is_some_and(|block| block.charges.len() >= BLOCK) {
            self.split(index);
            let is_later = self.blocks.get(index + 1).is_some_and(|block| block.first() <= charge.at());
            index += usize::from(is_later);
        }
        let Some(block) = self.blocks.get_mut(index) else { return };
        let place = block.charges.partition_point(|other| other.at() <= charge.at());
        block.charges.insert(place, charge);
        add(&mut block.own, charge.kind(), 1);
        add(&mut block.open, charge.kind(), u64::from(charge.is_open()));
        add(&mut self.open, charge.kind(), u64::from(charge.is_open()));
        for later in self.blocks.iter_mut().skip(index + 1) {
            add(&mut later.before, charge.kind(), 1);
        }
    }

    /// Settles a charge: it stays.
    pub(super) fn keep(&mut self, charge: Charge) {
        let Some((index, place)) = self.find(charge.opened()) else { return };
        let Some(block) = self.blocks.get_mut(index) else { return };
        if let Some(kept) = block.charges.get_mut(place) {
            *kept = charge;
        }
        take(&mut block.open, charge.kind(), 1);
        take(&mut self.open, charge.kind(), 1);
    }

    /// Takes a charge out. Of two that are alike, the one that is open goes. Returns whether there was one.
    pub(super) fn give_back(&mut self, charge: Charge) -> bool {
        let Some((index, place)) = self.find(charge.opened()).or_else(|| self.find(charge)) else { return false };
        let Some(block) = self.blocks.get_mut(index) else { return false };
        let gone = block.charges.remove(place);
        take(&mut block.own, gone.kind(), 1);
        take(&mut block.open, gone.kind(), u64::from(gone.is_open()));
        take(&mut self.open, gone.kind(), u64::from(gone.is_open()));
        for later in self.blocks.iter_mut().skip(index + 1) {
            take(&mut later.before, gone.kind(), 1);
        }
        self.tidy(index);
        true
    }

    /// All that are there.
    fn total(&self) -> PerKind {
        let start = self.blocks.front().map_or([0; 2], |block| block.before);
        less(self.end(), start)
    }

    /// All that ever were, but those that were given back.
    fn end(&self) -> PerKind {
        self.blocks.back().map_or([0; 2], Block::end)
    }

    /// The charge before which so many of those that are counted ever stood.
    fn at_rank(&self, counts: Counts, rank: u64) -> Option<Charge> {
        let index = self.blocks.partition_point(|block| counted(block.before, counts) <= rank).checked_sub(1)?;
        let block = self.blocks.get(index)?;
        let within = usize::try_from(rank - counted(block.before, counts)).ok()?;
        if counts == Counts::BOTH {
            return block.charges.get(within).copied();
        }
        block.charges.iter().filter(|charge| counts.includes(charge.kind())).nth(within).copied()
    }

    /// Where the last one stands of those that are just like this.
    fn find(&self, charge: Charge) -> Option<(usize, usize)> {
        let blocks = self.blocks.partition_point(|block| block.first() <= charge.at());
        for (index, block) in self.blocks.iter().enumerate().take(blocks).rev() {
            let end = block.charges.partition_point(|other| other.at() <= charge.at());
            let of_its_time = block.charges.iter().take(end).rev().take_while(|other| other.at() == charge.at());
            let (mut many, mut found) = (0, None);
            for other in of_its_time {
                many += 1;
                if *other == charge {
                    found = Some(end - many);
                    break;
                }
            }
            if let Some(place) = found {
                return Some((index, place));
            }
            if many < end {
                return None;
            }
        }
        None
    }

    /// Makes two of a block.
    fn split(&mut self, index: usize) {
        let Some(block) = self.blocks.get_mut(index) else { return };
        let later = block.charges.split_off(block.charges.len() / 2);
        *block = Block::of(std::mem::take(&mut block.charges), block.before);
        let later = Block::of(later, block.end());
        self.blocks.insert(index + 1, later);
    }

    /// Has a block that has become empty go, and one that has become small be one with the block before it.
    fn tidy(&mut self, index: usize) {
        let Some(many) = self.blocks.get(index).map(|block| block.charges.len()) else { return };
        if many == 0 {
            self.blocks.remove(index);
            return;
        }
        let Some(before) = index.checked_sub(1) else { return };
        if self.blocks.get(before).is_some_and(|block| block.charges.len() + many <= BLOCK / 2)
            && let Some(gone) = self.blocks.remove(index)
            && let Some(block) = self.blocks.get_mut(before)
        {
            block.charges.extend(gone.charges);
            (block.own, block.open) = (sum(block.own, gone.own), sum(block.open, gone.open));
        }
    }

    /// Looks through some blocks for charges that no limit needs: at the front as long as whole blocks go there, and then in turn.
    fn forget(&mut self, retention: Retention) {
        let Some(newest) = self.newest() else { return };
        // Nothing settled is judged as of a time before this.
        let settled = newest.at() - UNSETTLED;
        let mut needed_from = [Kind::Send, Kind::Resend].map(|kind| {
            let counts = Counts { send: kind == Kind::Send, resend: kind == Kind::Resend };
            let later = self.count_from(counts, |charge| charge.at() > settled) as u64;
            (counted(self.end(), counts) - later).saturating_sub(retention.of(kind).charges as u64)
        });
        let mut looked_through = 0;
        while looked_through < LOOKED_THROUGH && self.blocks.len() > 1 {
            looked_through += 1;
            let Some(block) = self.blocks.front_mut() else { return };
            let gone = forget_in(block, needed_from, settled, retention);
            self.open = less(self.open, gone.open);
            // What goes from the front still counts as having stood before all others.
            block.before = sum(block.before, gone.all);
            if !block.charges.is_empty() {
                break;
            }
            self.blocks.pop_front();
        }
        for _ in looked_through..LOOKED_THROUGH {
            self.next = self.next.max(1);
            let Some(block) = self.blocks.get_mut(self.next).filter(|block| block.first() <= settled) else {
                self.next = 1;
                return;
            };
            let gone = forget_in(block, needed_from, settled, retention);
            self.open = less(self.open, gone.open);
            let is_empty = block.charges.is_empty();
            for later in self.blocks.iter_mut().skip(self.next + 1) {
                later.before = less(later.before, gone.all);
            }
            needed_from = less(needed_from, gone.all);
            if is_empty {
                self.blocks.remove(self.next);
            } else {
                self.next += 1;
            }
        }
    }
}

/// What was taken out of a block.
struct Gone {
    all: PerKind,
    open: PerKind,
}

/// Takes those charges out of a block that no limit needs: of each kind those before the rank from which they are needed, and those that have
/// left every window. Each is older than all of its kind that stay, and settled.
fn forget_in(block: &mut Block, needed_from: PerKind, settled: Moment, retention: Retention) -> Gone {
    let (mut rank, own, open) = (block.before, block.own, block.open);
    let mut charges = std::mem::take(&mut block.charges);
    charges.retain(|charge| {
        let kind = place(charge.kind());
        let needed_from = needed_from.get(kind).copied().unwrap_or_default();
        let is_needed = rank.get_mut(kind).is_none_or(|rank| {
            *rank += 1;
            *rank > needed_from
        });
        is_needed && charge.leaves(retention) > settled
    });
    *block = Block::of(charges, block.before);
    Gone { all: less(own, block.own), open: less(open, block.open) }
}

fn sum([a, b]: PerKind, [c, d]: PerKind) -> PerKind {
    [a + c, b + d]
}

fn less([a, b]: PerKind, [c, d]: PerKind) -> PerKind {
    [a - c, b - d]
}

fn add(counts: &mut PerKind, kind: Kind, many: u64) {
    counts.get_mut(place(kind)).into_iter().for_each(|count| *count += many);
}

fn take(counts: &mut PerKind, kind: Kind, many: u64) {
    counts.get_mut(place(kind)).into_iter().for_each(|count| *count -= many);
}

#[cfg(test)]
mod tests;
