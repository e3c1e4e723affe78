//! What is limited, and the decision: a pure function from limits, logs and the time to a verdict.

pub mod standing;
pub mod subject;
pub mod tariff;
pub mod told;
pub mod window;

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::clock::Moment;
use subject::Account;
pub use subject::{Key, Subject};
use window::Log;

/// What a code is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first code of a verification.
    Send,
    /// Another code for it.
    Resend,
}

/// Whom a limit counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// The phone that a code goes to.
    Phone,
    /// The verification, under whichever of its ids.
    Verification,
    /// The API key.
    Account,
}

impl Per {
    /// All of them.
    pub const ALL: [Per; 3] = [Per::Phone, Per::Verification, Per::Account];

    /// Its name in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Per::Phone => "phone",
            Per::Verification => "verification",
            Per::Account => "account",
        }
    }
}

/// Which kinds of code a limit counts; what it does not count it does not judge either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Counts sends.
    pub send: bool,
    /// Counts resends.
    pub resend: bool,
}

impl Counts {
    /// Sends and resends.
    pub const BOTH: Counts = Counts { send: true, resend: true };
    /// Sends alone.
    pub const SENDS: Counts = Counts { send: true, resend: false };
    /// Resends alone.
    pub const RESENDS: Counts = Counts { send: false, resend: true };

    /// Whether it counts codes of this kind.
    pub const fn includes(self, kind: Kind) -> bool {
        match kind {
            Kind::Send => self.send,
            Kind::Resend => self.resend,
        }
    }
}

/// What a limit does when it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It refuses.
    Enforce,
    /// It is judged and counted, and refuses nothing.
    Shadow,
}

/// What a refusal says in its body's `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// `rate_limit_exceeded`, Sendly's own: some SDKs wait up to 60 s for it to pass and try again by themselves.
    RateLimitExceeded,
    /// `resend_cooldown`: no SDK waits for it.
    ResendCooldown,
}

/// What happens to a code whose key would be one too many. A key that is counted is never forgotten to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused with 503: no code without a count.
    Refuse,
    /// It passes without being counted per the key that found no room, and a metric says so.
    Allow,
}

/// What happens to codes while the store that gateways share cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// Each gateway goes on by itself, with what it has seen.
    Local,
    /// They are refused with 503.
    Refuse,
    /// They go out, whatever limits say. They are counted all the same.
    Allow,
}

/// At most `max` codes in any `window`, per something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Names it in headers, metrics and logs: lower-case letters, digits and hyphens.
    pub name: String,
    /// Whom it counts for.
    pub per: Per,
    /// Codes, from 1.
    pub max: u32,
    /// Half-open, `(now - window, now]`.
    pub window: Duration,
    /// What it counts.
    pub counts: Counts,
    /// Whether it refuses.
    pub mode: Mode,
    /// What its refusals say.
    pub code: RefusalCode,
}

/// All limits that are in force, in the config's order, and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    limits: Vec<Limit>,
    phone: Rules,
    verification: Rules,
    account: Rules,
    enforces: bool,
    /// Whether codes are not charged to their account either.
    spares_accounts: bool,
    past: Option<Past>,
}

/// What the limits that were replaced not long ago need of the logs. It is kept and counted until the longest of their windows is over:
/// if they are put back before that, it is as if they had never been away.
#[derive(Clone, Copy, Debug)]
struct Past {
    phone: Retention,
    verification: Retention,
    account: Retention,
    until: Moment,
}

/// A limit as it is asked: with no more than that takes.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its place among the limits.
    pub place: usize,
    /// Codes, from 1.
    pub max: u32,
    /// Half-open.
    pub window: Duration,
    /// What it counts.
    pub counts: Counts,
    /// How many of the codes before one have to be in the window for that one to take the limit to 80 % of its max or more. 0
    /// in a limit of one code, which is never near.
    pub near: u32,
    /// Whether it refuses.
    pub enforced: bool,
}

impl Rule {
    /// The rule of the limit at this place.
    const fn of(place: usize, limit: &Limit) -> Self {
        let Limit { max, window, counts, .. } = *limit;
        Self { place, max, window, counts, near: near(max), enforced: matches!(limit.mode, Mode::Enforce) }
    }
}

/// Of `max` codes, those that precede the one that reaches 80 %.
const fn near(max: u32) -> u32 {
    (max - max / 5).saturating_sub(1)
}

/// The limits per one thing.
#[derive(Clone, Debug, Default)]
struct Rules {
    /// Those that a send meets.
    sends: Vec<Rule>,
    /// Those that a resend meets.
    resends: Vec<Rule>,
    /// What these need.
    own: Retention,
    /// The same, and what is to be kept for others.
    retention: Retention,
    enforces: bool,
}

impl Rules {
    fn new(limits: &[Limit], per: Per) -> Self {
        let mine = || limits.iter().enumerate().filter(|(_, limit)| limit.per == per);
        let met = |kind| -> Vec<Rule> {
            let counting = mine().filter(|(_, limit)| limit.counts.includes(kind));
            counting.map(|(place, limit)| Rule::of(place, limit)).collect()
        };
        let keep = |rules: &[Rule]| {
            let of = |rule: &Rule| Keep { charges: rule.max as usize, window: rule.window };
            rules.iter().map(of).fold(Keep::NOTHING, Keep::and)
        };
        let (sends, resends) = (met(Kind::Send), met(Kind::Resend));
        let own = Retention { sends: keep(&sends), resends: keep(&resends) };
        Self { sends, resends, own, retention: own, enforces: mine().any(|(_, limit)| limit.mode == Mode::Enforce) }
    }

    fn met(&self, kind: Kind) -> &[Rule] {
        match kind {
            Kind::Send => &self.sends,
            Kind::Resend => &self.resends,
        }
    }
}

/// How many limits a policy may have.
pub const MAX_LIMITS: usize = 32;

/// A set of a policy's limits, by their places in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSet(u32);

impl LimitSet {
    fn insert(&mut self, place: usize) {
        self.0 |= 1_u32.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)).unwrap_or(0);
    }

    /// Whether the limit at this place is in it.
    pub fn contains(self, place: usize) -> bool {
        u32::try_from(place).is_ok_and(|place| self.0.checked_shr(place).is_some_and(|rest| rest & 1 == 1))
    }

    /// Whether no limit is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What stands in the way of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The limit at this place of the policy.
    Limit(usize),
    /// The limit at this place is full, of charges that are not settled yet, and was waited for in vain.
    Unsettled(usize),
    /// Sendly itself refused this phone a moment ago, and said for how long.
    Hold,
    /// The same, and only this account was told so.
    AccountHold,
}

/// A refusal: who speaks, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The obstacle that lasts longest.
    pub by: Obstacle,
    /// From now, and not zero: at exactly this distance the request would pass.
    pub retry_after: Duration,
}

/// The verdict over one request: every limit that it meets was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The limits that the request met.
    pub met: LimitSet,
    /// Those of them that refuse, or would if they were enforced.
    pub reached: LimitSet,
    /// Those of them that this code takes to 80 % of their max or more, if it is let through.
    pub near: LimitSet,
    /// The refusal, if an enforced limit was reached or Sendly holds the phone.
    pub refusal: Option<Refusal>,
    /// Whether the refusal rests on charges that are not settled yet: without them no limit would refuse.
    pub is_unsettled: bool,
}

/// What a request is judged by: of one of its keys, whom that counts for, its log, and until when Sendly itself refuses it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'l> {
    /// Whom it counts for.
    pub per: Per,
    /// Nothing, of a key that nothing is known of.
    pub log: Option<&'l Log>,
    /// The end of a hold.
    pub held_until: Option<Moment>,
}

impl Policy {
    /// A policy of these limits. Only the first [`MAX_LIMITS`] are taken; the config refuses more.
    pub fn new(mut limits: Vec<Limit>) -> Self {
        limits.truncate(MAX_LIMITS);
        let rules = |per| Rules::new(&limits, per);
        let (phone, verification, account) = (rules(Per::Phone), rules(Per::Verification), rules(Per::Account));
        let enforces = limits.iter().any(|limit| limit.mode == Mode::Enforce);
        Self { limits, phone, verification, account, enforces, spares_accounts: false, past: None }
    }

    /// A policy of these limits in the place of this one, from now on. Of the logs it keeps what this one needed, too, for as long as
    /// its longest window is.
    pub fn succeed(&self, limits: Vec<Limit>, now: Moment) -> Self {
        let longest = Per::ALL.map(|per| self.rules(per).own.longest()).into_iter().max().unwrap_or_default();
        let until = self.past.map_or(now + longest, |past| past.until.max(now + longest));
        let [phone, verification, account] = match self.past.filter(|past| past.until <= now) {
            None => Per::ALL.map(|per| self.rules(per).retention),
            Some(_) => Per::ALL.map(|per| self.rules(per).own),
        };
        Self::new(limits).after(Some(Past { phone, verification, account, until }))
    }

    /// Whether it keeps something for limits that it has replaced, and none of them needs it any more.
    pub fn has_past_until(&self, now: Moment) -> bool {
        self.past.is_some_and(|past| past.until <= now)
    }

    /// The same, with nothing kept for others.
    #[must_use]
    pub fn without_past(&self) -> Self {
        self.clone().after(None)
    }

    fn after(mut self, past: Option<Past>) -> Self {
        let kept = past.map(|Past { phone, verification, account, .. }| [phone, verification, account]);
        let rules = [&mut self.phone, &mut self.verification, &mut self.account];
        for (rules, kept) in rules.into_iter().zip(kept.unwrap_or_default()) {
            rules.retention = rules.own.and(kept);
        }
        self.past = past;
        self
    }

    /// Of each limit that asks for codes which may have been forgotten before it came, in the place of this other policy, now: its
    /// name, and when it will have counted all that it asks for.
    pub fn catching_up(&self, before: &Policy, now: Moment) -> Vec<(String, Moment)> {
        let is_short = |limit: &&Limit| {
            let kept = before.retention(limit.per);
            let lacks = |kind| {
                let Keep { charges, window } = kept.of(kind);
                limit.counts.includes(kind) && (charges < limit.max as usize || window < limit.window)
            };
            lacks(Kind::Send) || lacks(Kind::Resend)
        };
        self.limits.iter().filter(is_short).map(|limit| (limit.name.clone(), now + limit.window)).collect()
    }

    /// The limits, in the config's order.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Whether a code of this kind is to be logged per this: whether any limit counts it, or did not long ago.
    pub fn counts(&self, per: Per, kind: Kind) -> bool {
        self.rules(per).retention.of(kind) != Keep::NOTHING
    }

    /// The account of a subject, if codes are judged by it and charged to it.
    pub fn account_of(&self, subject: &Subject) -> Option<Account> {
        (!self.spares_accounts).then_some(subject.account)
    }

    /// The keys of a subject that codes are judged by and charged to.
    pub fn keys(&self, subject: &Subject) -> ArrayVec<Key, { Subject::MAX_KEYS }> {
        let mut keys = subject.keys();
        keys.retain(|key| !self.spares_accounts || key.per() != Per::Account);
        keys
    }

    /// How much of a log per this has to be kept.
    pub fn retention(&self, per: Per) -> Retention {
        self.rules(per).retention
    }

    /// Whether any limit per this refuses.
    pub fn enforces(&self, per: Per) -> bool {
        self.rules(per).enforces
    }

    /// Judges a request for one more code of `kind` against what is known of its keys, each once.
    ///
    /// Every limit is asked, also after one has refused: the longest wait is told, of those limits that refuse whatever becomes of
    /// charges that are not settled yet; of the others only where there are no such limits. Sendly's hold counts only if this policy
    /// enforces anything, so that a policy of shadows refuses nothing.
    pub fn judge<'l>(&self, records: impl IntoIterator<Item = Record<'l>>, kind: Kind, now: Moment) -> Decision {
        let mut decision = Decision::default();
        for Record { per, log, held_until } in records {
            if let Some(until) = held_until.filter(|until| self.enforces && *until > now) {
                decision.refuse(Refusal { by: Obstacle::Hold, retry_after: until.since(now) }, true);
            }
            for rule in self.rules(per).met(kind) {
                decision.met.insert(rule.place);
                let Some(log) = log else { continue };
                if let Some(retry_after) = log.full(rule, now) {
                    decision.reached.insert(rule.place);
                    if rule.enforced {
                        let refusal = Refusal { by: Obstacle::Limit(rule.place), retry_after };
                        decision.refuse(refusal, log.is_full_of_settled(rule, now));
                    }
                } else if log.is_nearly_full(rule, now) {
                    decision.near.insert(rule.place);
                }
            }
        }
        decision
    }

    fn rules(&self, per: Per) -> &Rules {
        match per {
            Per::Phone => &self.phone,
            Per::Verification => &self.verification,
            Per::Account => &self.account,
        }
    }
}

impl Decision {
    /// What stands firm outweighs what rests on unsettled charges; then the longest wait is told; of equals, the first.
    fn refuse(&mut self, refusal: Refusal, is_firm: bool) {
        let outweighs = |other: Refusal| match (is_firm, self.is_unsettled) {
            (true, true) => true,
            (false, false) => false,
            _ => other.retry_after < refusal.retry_after,
        };
        if self.refusal.is_none_or(outweighs) {
            self.refusal = Some(refusal);
            self.is_unsettled = !is_firm;
        }
    }

    /// The key on which such a refusal rests, of those of this request.
    pub fn waits_for(&self, policy: &Policy, subject: &Subject) -> Option<Key> {
        let refusal = self.refusal.filter(|_| self.is_unsettled)?;
        let Obstacle::Limit(place) = refusal.by else { return None };
        let per = policy.limits().get(place)?.per;
        subject.keys().into_iter().find(|key| key.per() == per)
    }
}

/// How much of a log any limit can still need: of each kind, since a limit may count one alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Of the sends.
    pub sends: Keep,
    /// Of the resends.
    pub resends: Keep,
}

/// How many charges of one kind are to be kept, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub charges: usize,
    /// None that is as old as this.
    pub window: Duration,
}

impl Keep {
    /// Nothing at all: no limit counts this kind.
    pub const NOTHING: Keep = Keep { charges: 0, window: Duration::ZERO };

    fn and(self, other: Keep) -> Keep {
        Keep { charges: self.charges.max(other.charges), window: self.window.max(other.window) }
    }
}

impl Retention {
    /// All that either keeps.
    fn and(self, other: Retention) -> Retention {
        Retention { sends: self.sends.and(other.sends), resends: self.resends.and(other.resends) }
    }

    /// The longest that a charge of any kind is kept.
    pub fn longest(self) -> Duration {
        self.sends.window.max(self.resends.window)
    }

    /// Of charges of this kind.
    pub const fn of(self, kind: Kind) -> Keep {
        match kind {
            Kind::Send => self.sends,
            Kind::Resend => self.resends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(1_000_000);

    fn limit(per: Per, max: u32, micros: u64, counts: Counts, mode: Mode) -> Limit {
        let (name, window) = (format!("{}-{max}", per.name()), Duration::from_micros(micros));
        Limit { name, per, max, window, counts, mode, code: RefusalCode::RateLimitExceeded }
    }

    /// A log of one resend, now, and of nothing else.
    fn one_resend(policy: &Policy, per: Per) -> Log {
        let mut log = Log::default();
        log.take(NOW, Kind::Resend, policy.retention(per));
        log
    }

    fn record(per: Per, log: &Log) -> Record<'_> {
        Record { per, log: Some(log), held_until: None }
    }

    fn refusal(by: Obstacle, micros: u64) -> Option<Refusal> {
        Some(Refusal { by, retry_after: Duration::from_micros(micros) })
    }

    #[test]
    fn the_longest_wait_speaks_and_of_equals_the_first() {
        let policy = Policy::new(vec![
            limit(Per::Account, 1, 60, Counts::BOTH, Mode::Enforce),
            limit(Per::Phone, 1, 10, Counts::BOTH, Mode::Enforce),
            limit(Per::Phone, 1, 60, Counts::BOTH, Mode::Enforce),
            limit(Per::Phone, 1, 99, Counts::BOTH, Mode::Shadow),
        ]);
        let (phone, account) = (one_resend(&policy, Per::Phone), one_resend(&policy, Per::Account));
        let judge = |held: u64| {
            let held_until = Some(NOW + Duration::from_micros(held));
            let phone = Record { held_until, ..record(Per::Phone, &phone) };
            policy.judge([phone, record(Per::Account, &account)], Kind::Send, NOW)
        };
        assert_eq!(judge(0).refusal, refusal(Obstacle::Limit(2), 60), "the phone's log is asked first");
        assert_eq!(judge(60).refusal, refusal(Obstacle::Hold, 60));
        assert_eq!(judge(61).refusal, refusal(Obstacle::Hold, 61));
        assert_eq!((judge(61).met, judge(61).reached), (LimitSet(0b1111), LimitSet(0b1111)));
    }

    #[test]
    fn a_limit_that_does_not_count_a_kind_is_not_met_by_it() {
        let policy = Policy::new(vec![limit(Per::Verification, 1, 60, Counts::RESENDS, Mode::Enforce)]);
        let log = one_resend(&policy, Per::Verification);
        let judge = |kind| policy.judge([record(Per::Verification, &log)], kind, NOW);
        assert_eq!(judge(Kind::Send), Decision::default());
        assert_eq!(judge(Kind::Resend).refusal, refusal(Obstacle::Limit(0), 60));
        assert!(!policy.counts(Per::Verification, Kind::Send) && policy.counts(Per::Verification, Kind::Resend));
    }

    #[test]
    fn a_hold_refuses_only_if_some_limit_does() {
        let held = Record { per: Per::Phone, log: None, held_until: Some(NOW + Duration::from_micros(5)) };
        for (mode, expected) in [(Mode::Enforce, refusal(Obstacle::Hold, 5)), (Mode::Shadow, None)] {
            let policy = Policy::new(vec![limit(Per::Account, 9, 60, Counts::BOTH, mode)]);
            assert_eq!(policy.judge([held], Kind::Send, NOW).refusal, expected, "{mode:?}");
        }
    }

    #[test]
    fn of_each_kind_as_much_is_kept_as_some_limit_counts() {
        let policy = Policy::new(vec![
            limit(Per::Phone, 5, 600, Counts::BOTH, Mode::Enforce),
            limit(Per::Phone, 2, 9_000, Counts::RESENDS, Mode::Shadow),
            limit(Per::Account, 100, 60, Counts::BOTH, Mode::Enforce),
        ]);
        let keep = |charges, micros| Keep { charges, window: Duration::from_micros(micros) };
        assert_eq!(policy.retention(Per::Phone), Retention { sends: keep(5, 600), resends: keep(5, 9_000) });
        assert_eq!(policy.retention(Per::Account), Retention { sends: keep(100, 60), resends: keep(100, 60) });
        assert_eq!(policy.retention(Per::Verification), Retention { sends: Keep::NOTHING, resends: Keep::NOTHING });
    }

    #[test]
    fn what_replaced_limits_need_is_kept_for_their_longest_window_and_no_longer() {
        let phone = |max, micros| vec![limit(Per::Phone, max, micros, Counts::BOTH, Mode::Enforce)];
        let keep = |charges, micros| Keep { charges, window: Duration::from_micros(micros) };
        let both = |keep| Retention { sends: keep, resends: keep };
        let mut first = phone(5, 600);
        first.push(limit(Per::Account, 9, 700, Counts::RESENDS, Mode::Enforce));
        let second = Policy::new(first).succeed(phone(20, 60), NOW);
        assert_eq!(second.retention(Per::Phone), both(keep(20, 600)));
        assert_eq!(second.retention(Per::Account), Retention { sends: Keep::NOTHING, resends: keep(9, 700) });
        assert!(second.counts(Per::Account, Kind::Resend) && !second.counts(Per::Account, Kind::Send));
        assert!(!second.enforces(Per::Account), "it is counted, and judged by nobody");
        let end = NOW + Duration::from_micros(700);
        assert!(!second.has_past_until(NOW + Duration::from_micros(699)) && second.has_past_until(end));
        let alone = second.without_past();
        assert_eq!(alone.retention(Per::Phone), both(keep(20, 60)));
        assert!(!alone.counts(Per::Account, Kind::Resend) && !alone.has_past_until(end));
        // A third, while the first is still kept for, and once it is not.
        let third = |now| second.succeed(phone(1, 1), now).retention(Per::Phone);
        assert_eq!((third(NOW), third(end)), (both(keep(20, 600)), both(keep(20, 60))));
    }

    #[test]
    fn a_limit_that_asks_for_more_than_was_kept_catches_up_within_its_window() {
        let phone = |max, micros, counts| limit(Per::Phone, max, micros, counts, Mode::Enforce);
        let before = Policy::new(vec![phone(5, 600, Counts::BOTH), phone(9, 60, Counts::RESENDS)]);
        for (limit, catches_up) in [
            (phone(5, 600, Counts::BOTH), false),
            (phone(1, 1, Counts::BOTH), false),
            (phone(9, 600, Counts::RESENDS), false),
            (phone(6, 1, Counts::BOTH), true),
            (phone(1, 601, Counts::BOTH), true),
            (limit(Per::Account, 1, 1, Counts::BOTH, Mode::Shadow), true),
        ] {
            let after = before.succeed(vec![limit.clone()], NOW);
            let expected = catches_up.then(|| (limit.name.clone(), NOW + limit.window));
            assert_eq!(after.catching_up(&before, NOW), Vec::from_iter(expected), "{limit:?}");
        }
    }

    #[test]
    fn a_code_that_takes_a_limit_to_four_fifths_is_near_it() {
        let near_from = |max: u32, window: u64| -> Vec<u32> {
            let policy = Policy::new(vec![limit(Per::Phone, max, window, Counts::BOTH, Mode::Enforce)]);
            let mut log = Log::default();
            let mut near = Vec::new();
            for nth in 1..=max + 1 {
                if policy.judge([record(Per::Phone, &log)], Kind::Send, NOW).near.contains(0) {
                    near.push(nth);
                }
                log.take(NOW, Kind::Send, policy.retention(Per::Phone));
            }
            assert!(
                !policy
                    .judge([record(Per::Phone, &log)], Kind::Send, NOW + Duration::from_micros(window))
                    .near
                    .contains(0)
            );
            near
        };
        assert_eq!(near_from(5, 60), [4, 5], "and the sixth is refused");
        assert_eq!(near_from(20, 60), [16, 17, 18, 19, 20]);
        assert_eq!(near_from(2, 60), [2]);
        assert_eq!(near_from(1, 60), [0; 0], "each code fills it: that says nothing");
    }

    #[test]
    fn a_policy_holds_as_many_limits_as_a_set_can_name() {
        let policy = Policy::new(vec![limit(Per::Phone, 1, 60, Counts::BOTH, Mode::Shadow); MAX_LIMITS + 1]);
        assert_eq!(policy.limits().len(), MAX_LIMITS);
        let log = one_resend(&policy, Per::Phone);
        let reached = policy.judge([record(Per::Phone, &log)], Kind::Send, NOW).reached;
        assert!((0..MAX_LIMITS).all(|place| reached.contains(place)) && !reached.contains(MAX_LIMITS));
    }
}
