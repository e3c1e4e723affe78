//! What is said to the script, and what it answers.

use std::time::Duration;

use redis_rs::Value;

use super::fault::Fault;
use crate::clock::Moment;
use crate::policy::told::Told;
use crate::policy::window::Log;
use crate::policy::{Counts, Keep, Kind, Retention, Rule};

/// One verb of the script.
#[derive(Clone, Debug)]
pub(crate) struct ScriptCall {
    pub(crate) verb: &'static str,
    pub(crate) keys: Vec<String>,
    pub(crate) numbers: Numbers,
    pub(crate) texts: Vec<Vec<u8>>,
}

impl ScriptCall {
    pub(crate) const fn new(verb: &'static str, keys: Vec<String>, numbers: Numbers) -> Self {
        Self { verb, keys, numbers, texts: Vec::new() }
    }

    pub(crate) fn with(mut self, text: &[u8]) -> Self {
        self.texts.push(text.to_vec());
        self
    }
}

/// Numbers, as the script reads them: 8 bytes each.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(pub(crate) Vec<u8>);

impl Numbers {
    /// Begins with what the script is told of the time.
    pub(crate) fn new(told: u64) -> Self {
        Self(Vec::with_capacity(256)).and(told)
    }

    pub(crate) fn and(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(crate) fn span(self, span: Duration) -> Self {
        self.and(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
    }

    pub(crate) fn kind(self, kind: Kind) -> Self {
        self.and(match kind {
            Kind::Send => 0,
            Kind::Resend => 1,
        })
    }

    pub(crate) fn keep(self, retention: Retention) -> Self {
        let and = |numbers: Self, keep: Keep| numbers.and(keep.charges as u64).span(keep.window);
        let sends = and(self, retention.sends);
        and(sends, retention.resends)
    }

    pub(crate) fn rules(self, rules: &[Rule]) -> Self {
        let and = |numbers: Self, rule: &Rule| {
            let Counts { send, resend } = rule.counts;
            let counts = u64::from(send) | u64::from(resend) << 1;
            let numbers = numbers.and(rule.max.into()).span(rule.window).and(counts);
            numbers.and(rule.near.into()).and(rule.enforced.into())
        };
        rules.iter().fold(self.and(rules.len() as u64), and)
    }
}

/// The script's judgement over one code.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    /// The time that was charged.
    pub(crate) at: Moment,
    /// Of each key: how long Sendly still refuses it, and what its rules say.
    pub(crate) told: Vec<(Duration, Vec<Told>)>,
    /// What there is of each key now, where that is little.
    pub(crate) copies: Vec<Option<Contents>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Charged,
    Refused,
    /// It came too late to be judged.
    Late,
}

/// What there is of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Oldest first.
    pub(crate) charges: Vec<(Moment, Kind)>,
    /// What tells each of them from all others.
    pub(crate) tokens: Vec<u32>,
    pub(crate) held_until: Option<Moment>,
}

/// How many bytes a charge has; what a hold begins with.
const RECORD: usize = 11;
const HELD: u8 = 254;

impl Contents {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let mut read = Self::default();
        for record in bytes.chunks_exact(RECORD) {
            let Some((word, token)) = record.split_first_chunk::<7>() else { continue };
            let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            match record.first() {
                Some(&HELD) => {
                    let until = record.get(1..8).map_or(0, number);
                    read.held_until = Some(Moment::from_micros(until)).filter(|_| until > 0);
                }
                _ if record.iter().all(|byte| *byte == 0) => {}
                _ => {
                    let word = number(word);
                    let kind = if word & 1 == 0 { Kind::Send } else { Kind::Resend };
                    read.charges.push((Moment::from_micros(word >> 1), kind));
                    read.tokens.push(token.first_chunk().map_or(0, |token| u32::from_be_bytes(*token)));
                }
            }
        }
        read
    }

    /// Its charges, and whether each is open, by its token.
    pub(crate) fn each_open<'s>(
        &'s self,
        is_open: impl Fn(u32) -> bool + Clone + 's,
    ) -> impl Iterator<Item = (Moment, Kind, bool)> + Clone + 's {
        let pairs = self.charges.iter().zip(&self.tokens);
        pairs.map(move |((at, kind), token)| (*at, *kind, is_open(*token)))
    }

    /// Its charges as a log, none of them left out.
    pub(crate) fn log(&self, is_open: impl Fn(u32) -> bool + Clone) -> Log {
        const ALL: Keep = Keep { charges: usize::MAX, window: Duration::MAX };
        const RETENTION: Retention = Retention { sends: ALL, resends: ALL };
        let mut log = Log::default();
        for (at, kind, is_open) in self.each_open(is_open) {
            log.take_as(at, kind, RETENTION, is_open);
        }
        log
    }
}

/// The parts of an answer, the first of which is the server's time.
pub(crate) fn parts(value: Value) -> Result<(Moment, Vec<Value>), Fault> {
    let Value::Array(mut parts) = value else { return Err(Fault::wrong("no array")) };
    if parts.is_empty() {
        return Err(Fault::wrong("nothing"));
    }
    let now = moment(&parts.remove(0))?;
    Ok((now, parts))
}

/// Reads a judgement over so many rules of each key.
pub(crate) fn judged(parts: &[Value], rules: impl Iterator<Item = usize> + Clone) -> Result<Judged, Fault> {
    let verdict = match number(parts.first())? {
        0 => Verdict::Charged,
        1 => Verdict::Refused,
        _ => {
            let at = Moment::default();
            return Ok(Judged { verdict: Verdict::Late, at, told: Vec::new(), copies: Vec::new() });
        }
    };
    let at = Moment::from_micros(number(parts.get(1))?);
    let mut judged = Judged { verdict, at, told: Vec::new(), copies: Vec::new() };
    let mut facts = parts.get(2..).unwrap_or_default().iter();
    // Of a code that was charged before nothing more is told.
    if facts.len() == 0 {
        return Ok(judged);
    }
    for many in rules.clone() {
        let held = Duration::from_micros(number(facts.next())?);
        judged.told.push((held, facts.by_ref().take(many).map(told).collect::<Result<_, _>>()?));
    }
    judged.copies.extend(facts.by_ref().take(rules.count()).map(|copy| bytes(Some(copy)).ok().map(Contents::read)));
    if judged.told.len() != judged.copies.len() {
        return Err(Fault::wrong("facts are missing"));
    }
    Ok(judged)
}

fn told(fact: &Value) -> Result<Told, Fault> {
    match fact {
        Value::Int(0) => Ok(Told::Free),
        Value::Int(-1) => Ok(Told::Near),
        other => Ok(Told::Full(Duration::from_micros(number(Some(other))?))),
    }
}

fn moment(value: &Value) -> Result<Moment, Fault> {
    Ok(Moment::from_micros(number(Some(value))?))
}

pub(crate) fn number(value: Option<&Value>) -> Result<u64, Fault> {
    match value {
        Some(Value::Int(number)) => u64::try_from(*number).map_err(|_| Fault::wrong("a negative number")),
        _ => Err(Fault::wrong("no number")),
    }
}

pub(crate) fn bytes(value: Option<&Value>) -> Result<&[u8], Fault> {
    match value {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        _ => Err(Fault::wrong("no bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(micros: u64, kind: u64) -> Vec<u8> {
        let word = (micros << 1 | kind).to_be_bytes();
        [&word[1..], &[1, 2, 3, 4]].concat()
    }

    #[test]
    fn what_there_is_of_a_key_is_read_charge_by_charge() {
        let (one, other) = (record(1_795_000_000_000_001, 0), record(1_795_000_000_000_009, 1));
        let read = Contents::read(&[one.clone(), other.clone(), vec![0; RECORD]].concat());
        let expected = [(1_795_000_000_000_001, Kind::Send), (1_795_000_000_000_009, Kind::Resend)];
        assert_eq!(read.charges, expected.map(|(micros, kind)| (Moment::from_micros(micros), kind)));
        assert_eq!(read.held_until, None);
        let until = 1_795_000_000_000_777_u64.to_be_bytes();
        let held = [&[HELD], &until[1..], &[0; 3]].concat();
        let read = Contents::read(&[held, one].concat());
        assert_eq!((read.charges.len(), read.held_until), (1, Some(Moment::from_micros(1_795_000_000_000_777))));
        assert_eq!(Contents::read(b""), Contents::default());
    }

    #[test]
    fn an_answer_that_is_none_is_a_fault_and_no_panic() {
        for value in [
            Value::Nil,
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![Value::Int(-1)]),
        ] {
            assert!(parts(value).is_err());
        }
        for parts in [vec![], vec![Value::Int(0)], vec![Value::Int(0), Value::Int(1), Value::Int(0)]] {
            assert!(judged(&parts, [1].into_iter()).is_err());
        }
    }
}
