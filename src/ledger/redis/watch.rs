//! Redis' clock is set: time goes on from where it was all the same.
//!
//! Each gateway watches it with its own clock, which nobody sets. What the ledger's time is ahead of the server's stands in Redis, and the first
//! gateway to see a step changes it: by what it has seen to the end, from the value that it saw, so that it is changed once. The others find
//! that time goes on with it. One that has none to compare with (it has just started) takes it as it stands.
//!
//! Clocks stop (that of a machine that is halted for a while), and run fast by little. So who has seen less time pass is the one that is
//! wrong: that the server went too far is believed of one who knows the value that holds; that it lacks time, also of whoever
//! watched it before it was set back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::protocol::{self, ScriptCall};
use super::{Fault, Redis};
use crate::clock::Moment;

/// How far a clock may be set forward without a key's expiring that still counts (`SPARE` in the script, less what may be unsettled).
const SPARE: Duration = Duration::from_secs(3600);

/// How often it is tried to agree.
const TRIES: usize = 3;

/// What the gateways have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Agreed {
    /// What is added to the server's time, in microseconds.
    added: i64,
    /// If time was set back: until when whoever did that had seen it go on.
    seen: Moment,
}

impl Agreed {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (added, seen) = bytes.split_first_chunk()?;
        let seen = u64::from_be_bytes(*seen.first_chunk()?);
        Some(Self { added: i64::from_be_bytes(*added), seen: Moment::from_micros(seen) })
    }

    fn written(self) -> [u8; 16] {
        let mut written = [0; 16];
        let (added, seen) = written.split_at_mut(8);
        added.copy_from_slice(&self.added.to_be_bytes());
        seen.copy_from_slice(&self.seen.as_micros().to_be_bytes());
        written
    }
}

impl Redis {
    /// Looks what time the server has, and what is added to it, and sees to it that time goes on from where it was. Returns which data
    /// it holds.
    pub(super) async fn look_at_clock(&self, drawn: &[u8]) -> Result<Vec<u8>, Fault> {
        let clock = self.names.clock();
        let data = self.data_names.first().cloned().unwrap_or_default();
        let mut tries = 0;
        loop {
            let own = self.time.added();
            let asked = self.clock.now();
            let call = ScriptCall::new("probe", vec![data.clone(), clock.clone()], self.numbers(asked)).with(drawn);
            let answer = self.link.call(&call, self.bound).await?;
            let answered = self.clock.now();
            self.circuit.worked();
            let (shown, parts) = protocol::parts(answer)?;
            let found = protocol::bytes(parts.first())?.to_vec();
            let written = protocol::bytes(parts.get(1))?;
            let stands = Agreed::read(written);
            let Agreed { added, seen: set_back_at } = stands.unwrap_or_default();
            let with = |added: i64| Moment::from_micros(shown.as_micros().saturating_add_signed(added - own));
            let (began, seen) = self.time.watched();
            let step = if self.time.is_known() { self.time.step(asked, answered, with(added)) } else { None };
            let may_change = stands.is_none() || own == added || step.is_some_and(|by| by < 0) && began <= set_back_at;
            tries += 1;
            match step {
                Some(by) if may_change && tries <= TRIES => {
                    let seen = if by > 0 { seen } else { Moment::default() };
                    let agreed = Agreed { added: added.saturating_sub(by), seen };
                    let change = ScriptCall::new("set_clock", vec![clock.clone()], self.numbers(asked));
                    let answer = self.link.call(&change.with(written).with(&agreed.written()), self.bound).await?;
                    let (_, parts) = protocol::parts(answer)?;
                    if protocol::number(parts.first())? == 0 {
                        continue;
                    }
                    let seconds = by as f64 / 1e6;
                    tracing::warn!(seconds, "Redis' clock was set: time goes on from where it was");
                    self.goes_on_with(agreed.added);
                }
                None if self.time.is_known() => self.goes_on_with(added),
                _ => {
                    if step.is_some() {
                        tracing::warn!("Redis' time is what other gateways say, and not what this one has seen of it");
                    }
                    self.time.begin(added, (asked, answered), with(added));
                }
            }
            return Ok(found);
        }
    }

    fn goes_on_with(&self, added: i64) {
        let less = self.time.added().saturating_sub(added);
        self.time.go_on(added);
        if u128::try_from(less).is_ok_and(|less| less > SPARE.as_micros()) {
            // Keys have expired that count.
            self.owes_all.store(true, Ordering::Release);
            self.changed.notify_one();
        }
    }

    /// Looks at the clock where an answer has shown that it was set.
    pub(super) async fn see_to_clock(&self) -> Result<(), Fault> {
        match self.time.was_set() {
            true => self.look_at_clock(&super::random().to_be_bytes()).await.map(drop),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_agreed_is_read_as_it_was_written() {
        let agreed = Agreed { added: -3_600_000_000, seen: Moment::from_micros(1_795_424_400_000_000) };
        assert_eq!(Agreed::read(&agreed.written()), Some(agreed));
        assert_eq!((Agreed::read(b""), Agreed::read(&[0; 15])), (None, None));
    }
}
