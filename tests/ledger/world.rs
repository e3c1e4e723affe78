//! A ledger beside its model, and the things that can happen to both.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use sendly_gateway::clock::Moment;
use sendly_gateway::ledger::memory::Memory;
use sendly_gateway::ledger::{Ledger, Reservation, Settlement, Verdict};
use sendly_gateway::phone::Phone;
use sendly_gateway::policy::subject::{Account, HashKey, Verification};
use sendly_gateway::policy::window::UNSETTLED;
use sendly_gateway::policy::{Counts, Decision, Key, Kind, Limit, Mode, Per, Policy, RefusalCode, Subject};

use super::model::{Charged, Judgement, Model};

/// Proves a promise over many inputs, and shows the smallest that breaks it.
pub fn prove<S: Strategy>(inputs: S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    // Half as many as usual (`PROPTEST_CASES` says otherwise): each is a long story.
    let usual = ProptestConfig::default();
    let config = ProptestConfig { cases: usual.cases.div_ceil(2), failure_persistence: None, ..usual };
    if let Err(failure) = TestRunner::new(config).run(&inputs, check) {
        panic!("{failure}");
    }
}

/// Makes an empty ledger.
pub type New = fn() -> Ledger;

pub const START: Moment = Moment::from_micros(1_800_000_000_000_000);
pub const MICRO: Duration = Duration::from_micros(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(60 * 60);
pub const SENDS: Counts = Counts { send: true, resend: false };

const PHONES: usize = 3;
const VERIFICATIONS: usize = 3;
const ACCOUNTS: usize = 2;

// ---- names -----------------------------------------------------------------------------------------------------------------

pub fn phone(nth: usize) -> Phone {
    format!("+1555010{nth:04}").parse().unwrap()
}

pub fn verification(nth: usize) -> Verification {
    HashKey::new([1; 16]).verification(&nth.to_string())
}

pub fn account(nth: usize) -> Account {
    HashKey::new([1; 16]).account(format!("Bearer sk_{nth}").as_bytes())
}

/// Somebody whom no test counts for otherwise.
fn nobody() -> Account {
    account(usize::MAX)
}

pub fn subject(phone_: usize, verification_: usize, account_: usize) -> Subject {
    Subject { phone: Some(phone(phone_)), verification: Some(verification(verification_)), account: account(account_) }
}

/// Only this key counts.
pub fn only(key: Key) -> Subject {
    let mut subject = Subject { phone: None, verification: None, account: nobody() };
    match key {
        Key::Phone(phone) => subject.phone = Some(phone),
        Key::Verification(verification) => subject.verification = Some(verification),
        Key::Account(account) => subject.account = account,
    }
    subject
}

pub fn limit(per: Per, max: u32, window: Duration) -> Limit {
    let (name, code) = (format!("{}-{max}", per.name()), RefusalCode::RateLimitExceeded);
    Limit { name, per, max, window, counts: Counts::BOTH, mode: Mode::Enforce, code }
}

pub fn shadow(limit: Limit) -> Limit {
    Limit { mode: Mode::Shadow, ..limit }
}

pub fn counting(counts: Counts, limit: Limit) -> Limit {
    Limit { counts, ..limit }
}

pub fn policy<const N: usize>(limits: [Limit; N]) -> Policy {
    Policy::new(limits.into())
}

// ---- verbs, waited for -----------------------------------------------------------------------------------------------------

pub fn wait<F: Future>(future: F) -> F::Output {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    RUNTIME.block_on(future)
}

pub fn ask(ledger: &Ledger, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> (Decision, Verdict) {
    wait(ledger.reserve(policy, subject, kind, now))
}

/// What of it is in this process, and kept by nobody else.
pub fn memory_of(ledger: &Ledger) -> Option<&Memory> {
    match ledger {
        Ledger::Memory(memory) => Some(memory),
        Ledger::Durable(durable) => Some(durable.memory()),
        Ledger::Redis(_) => None,
    }
}

/// A reservation, where there must be one.
#[track_caller]
pub fn take(ledger: &Ledger, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> Reservation {
    match ask(ledger, policy, subject, kind, now) {
        (_, Verdict::Reserved(reservation)) => reservation,
        (decision, other) => panic!("{other:?}: {decision:?}"),
    }
}

/// A code that goes out.
#[track_caller]
pub fn buy(ledger: &Ledger, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) {
    wait(take(ledger, policy, subject, kind, now).settle(Settlement::Keep));
}

/// How long a request would have to wait now; `None` if it would pass. Leaves everything as it was.
#[track_caller]
pub fn wait_of(ledger: &Ledger, policy: &Policy, subject: &Subject, kind: Kind, now: Moment) -> Option<Duration> {
    match ask(ledger, policy, subject, kind, now) {
        (_, Verdict::Reserved(reservation)) => {
            wait(reservation.settle(Settlement::GiveBack));
            None
        }
        (decision, Verdict::Refused(_)) => Some(decision.refusal.unwrap().retry_after),
        (_, Verdict::NoRoom | Verdict::Away) => panic!("it is not counted"),
    }
}

/// All that a ledger holds about a key: when its sends and its resends were charged, newest first, and until when it is held.
///
/// Found by asking only: a limit of *n* in ten years is refused until ten years after the n-th newest charge.
pub fn contents(ledger: &Ledger, key: Key, now: Moment) -> (Vec<Moment>, Vec<Moment>, Option<Moment>) {
    const AGES: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    let nth = |kind, n| {
        let counts = if kind == Kind::Send { SENDS } else { Counts::RESENDS };
        // The second limit is there so that asking makes the log forget nothing.
        let policy = policy([counting(counts, limit(key.per(), n, AGES)), shadow(limit(key.per(), 1000, AGES))]);
        wait_of(ledger, &policy, &only(key), kind, now).map(|wait| now + wait)
    };
    let all = |kind| -> Vec<Moment> {
        (1..).map_while(|n| nth(kind, n).filter(|until| *until > now + AGES / 2)).map(|until| until - AGES).collect()
    };
    let (sends, resends) = (all(Kind::Send), all(Kind::Resend));
    (sends, resends, nth(Kind::Send, 1000))
}

// ---- what can happen -------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
pub enum Event {
    Reserve { phone: Option<usize>, verification: Option<usize>, account: usize, kind: Kind },
    Keep(usize),
    GiveBack(usize),
    Drop(usize),
    Record { key: usize, kind: Kind, age: Step },
    Hold { key: usize, span: Step },
    Absorb(usize, usize),
    Clear { key: usize },
    Advance(Step),
    StepBack(Step),
    Sweep,
}

/// A span of time that matters to a policy.
#[derive(Clone, Debug)]
pub enum Step {
    Micros(u64),
    /// To the end of a limit's window, a microsecond before it or a microsecond after it.
    Edge(usize, i8),
    /// A part of a limit's window.
    Part(usize, u32),
}

impl Step {
    fn span(&self, limits: &[Limit]) -> Duration {
        let window = |nth: &usize| limits[nth % limits.len()].window;
        match self {
            Step::Micros(micros) => Duration::from_micros(*micros),
            Step::Edge(nth, -1) => window(nth) - MICRO,
            Step::Edge(nth, 0) => window(nth),
            Step::Edge(nth, _) => window(nth) + MICRO,
            Step::Part(nth, parts) => window(nth) / *parts,
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Send), Just(Kind::Resend)]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u64).prop_map(Step::Micros),
        2 => (0..5_usize, -1..=1_i8).prop_map(|(nth, edge)| Step::Edge(nth, edge)),
        2 => (0..5_usize, 2..9_u32).prop_map(|(nth, parts)| Step::Part(nth, parts)),
    ]
}

/// One to five limits, whatever an operator may write.
pub fn policies() -> impl Strategy<Value = Vec<Limit>> {
    prop::collection::vec(limits(), 1..=5)
}

fn limits() -> impl Strategy<Value = Limit> {
    let windows = prop_oneof![
        (1..20_u64).prop_map(Duration::from_micros),
        (1..5_000_u64).prop_map(Duration::from_millis),
        (1..600_u64).prop_map(Duration::from_secs),
        (1..50_u64).prop_map(|hours| HOUR * u32::try_from(hours).unwrap()),
    ];
    let per = prop_oneof![3 => Just(Per::Phone), 2 => Just(Per::Verification), 1 => Just(Per::Account)];
    let counts = prop_oneof![2 => Just(Counts::BOTH), 1 => Just(Counts::RESENDS), 1 => Just(SENDS)];
    let mode = prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Shadow)];
    (per, 1..=7_u32, windows, counts, mode).prop_map(|(per, max, window, counts, mode)| Limit {
        counts,
        mode,
        ..limit(per, max, window)
    })
}

fn requests() -> impl Strategy<Value = Event> {
    // Few of each, the first one mostly: limits are to be reached.
    let few = |all: usize| prop_oneof![3 => Just(0), 2 => 0..all];
    let phone = prop::option::weighted(0.9, few(PHONES));
    let verification = prop::option::weighted(0.7, few(VERIFICATIONS));
    (phone, verification, few(ACCOUNTS), kinds()).prop_map(|(phone, verification, account, kind)| Event::Reserve {
        phone,
        verification,
        account,
        kind,
    })
}

/// Requests and what becomes of them, in time that goes on.
pub fn forward() -> impl Strategy<Value = Event> {
    let which = 0..100_usize;
    prop_oneof![
        12 => requests(),
        2 => which.clone().prop_map(Event::Keep),
        3 => which.clone().prop_map(Event::GiveBack),
        1 => which.prop_map(Event::Drop),
        4 => steps().prop_map(Event::Advance),
        1 => Just(Event::Sweep),
    ]
}

/// The same, while time runs backwards now and then.
pub fn to_and_fro() -> impl Strategy<Value = Event> {
    prop_oneof![5 => forward(), 1 => steps().prop_map(Event::StepBack)]
}

/// All that can happen.
pub fn anything() -> impl Strategy<Value = Event> {
    let key = 0..PHONES + VERIFICATIONS + ACCOUNTS;
    let key_to_clear = key.clone();
    prop_oneof![
        20 => to_and_fro(),
        1 => (key.clone(), kinds(), steps()).prop_map(|(key, kind, age)| Event::Record { key, kind, age }),
        1 => (key, steps()).prop_map(|(key, span)| Event::Hold { key, span }),
        1 => (0..VERIFICATIONS, 0..VERIFICATIONS).prop_map(|(into, from)| Event::Absorb(into, from)),
        1 => key_to_clear.prop_map(|key| Event::Clear { key }),
    ]
}

pub fn sequences<S: Strategy<Value = Event>>(events: S) -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(events, 1..80)
}

// ---- the world -------------------------------------------------------------------------------------------------------------

/// A ledger, its model, and the time.
pub struct World {
    pub ledger: Ledger,
    pub policy: Policy,
    pub model: Model,
    pub now: Moment,
    /// The latest that it ever was.
    latest: Moment,
    open: Vec<(Reservation, Charged)>,
    /// Which verification each id is rooted in, as `Verifications` would know it.
    roots: Vec<usize>,
}

/// Whether a reservation taken then can still be open now.
pub fn may_be_open(taken: Moment, now: Moment) -> bool {
    taken + UNSETTLED > now
}

/// A request that was made in it, and both answers.
pub struct Answer {
    pub subject: Subject,
    pub kind: Kind,
    pub ledger: Judgement,
    pub model: Judgement,
    pub no_room: bool,
    /// When it was charged, if it was.
    pub charged: Option<Moment>,
    /// When the model charged it.
    pub expected: Option<Moment>,
}

impl World {
    pub fn new(ledger: Ledger, limits: Vec<Limit>) -> Self {
        let (policy, model) = (Policy::new(limits.clone()), Model::new(limits));
        Self { ledger, policy, model, now: START, latest: START, open: Vec::new(), roots: (0..VERIFICATIONS).collect() }
    }

    /// Puts other limits in force.
    pub fn reload(&mut self, limits: &[Limit]) {
        self.policy = self.policy.succeed(limits.into(), self.now);
        self.model.reload(limits.into());
    }

    /// All keys that events speak of.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        (0..PHONES + VERIFICATIONS + ACCOUNTS).map(|nth| self.key(nth))
    }

    fn key(&self, nth: usize) -> Key {
        match nth {
            nth if nth < PHONES => Key::Phone(phone(nth)),
            nth if nth < PHONES + VERIFICATIONS => Key::Verification(self.root(nth - PHONES)),
            nth => Key::Account(account(nth - PHONES - VERIFICATIONS)),
        }
    }

    fn root(&self, nth: usize) -> Verification {
        verification(self.roots[nth])
    }

    fn request(&self, event: &Event) -> Option<(Subject, Kind)> {
        let Event::Reserve { phone: phone_, verification, account: account_, kind } = event else { return None };
        let (phone, verification) = (phone_.map(phone), verification.map(|nth| self.root(nth)));
        Some((Subject { phone, verification, account: account(*account_) }, *kind))
    }

    /// Whether this is a request that the model would refuse.
    pub fn would_refuse(&self, event: &Event) -> bool {
        let refused = |(subject, kind)| self.model.clone().reserve(&subject, kind, self.now).1.is_none();
        self.request(event).is_some_and(refused)
    }

    /// Lets one thing happen. Returns the answers, if it was a request.
    pub fn step(&mut self, event: &Event) -> Option<Answer> {
        let limits = self.policy.limits();
        match event {
            Event::Reserve { .. } => return self.request(event).map(|(subject, kind)| self.reserve(subject, kind)),
            Event::Keep(nth) => self.settle(*nth, Some(Settlement::Keep)),
            Event::GiveBack(nth) => self.settle(*nth, Some(Settlement::GiveBack)),
            Event::Drop(nth) => self.settle(*nth, None),
            Event::Record { key, kind, age } => {
                let (key, at) = (self.key(*key), self.now - age.span(limits));
                wait(self.ledger.record(&self.policy, key, *kind, at));
                self.model.record(key, *kind, at);
            }
            Event::Hold { key, span } => {
                let (key, until) = (self.key(*key), self.now + span.span(limits));
                wait(self.ledger.hold(key, until, self.now));
                self.model.hold(key, until);
            }
            Event::Absorb(into, from) => {
                let (into, from) = (self.roots[*into], self.roots[*from]);
                if into != from {
                    let keys = [into, from].map(|nth| Key::Verification(verification(nth)));
                    wait(self.ledger.absorb(&self.policy, keys[0], keys[1], self.now));
                    self.model.absorb(keys[0], keys[1]);
                    self.roots.iter_mut().filter(|root| **root == from).for_each(|root| *root = into);
                }
            }
            Event::Clear { key } => {
                // What is under way then gives nothing back: here it is kept before.
                self.close();
                let key = self.key(*key);
                wait(self.ledger.clear(&self.policy, key, self.now));
                self.model.clear(key);
            }
            Event::Advance(step) => {
                self.now = self.now + step.span(limits);
                self.latest = self.latest.max(self.now);
                // No exchange takes as long as that: whatever is still open was dropped.
                let now = self.now;
                let late = self.open.extract_if(.., |(reservation, _)| !may_be_open(reservation.at(), now));
                late.for_each(|(_, charged)| self.model.keep(&charged));
            }
            // Nor do clocks disagree by more.
            Event::StepBack(step) => self.now = (self.now - step.span(limits)).max(self.latest - UNSETTLED),
            Event::Sweep => {
                if self.policy.has_past_until(self.now) {
                    self.policy = self.policy.without_past();
                }
                // Redis' keys expire by themselves, on a clock that no test moves.
                if let Some(memory) = memory_of(&self.ledger) {
                    memory.sweep(&self.policy, self.now, || ());
                    self.model.sweep(self.now);
                }
            }
        }
        None
    }

    fn reserve(&mut self, subject: Subject, kind: Kind) -> Answer {
        let (decision, verdict) = ask(&self.ledger, &self.policy, &subject, kind, self.now);
        let (model, expected) = self.model.reserve(&subject, kind, self.now);
        let no_room = matches!(verdict, Verdict::NoRoom);
        let (charged, expected) = match (verdict, expected) {
            (Verdict::Reserved(reservation), Some((at, charged))) => {
                let both = (Some(reservation.at()), Some(at));
                self.open.push((reservation, charged));
                both
            }
            (Verdict::Reserved(reservation), None) => (Some(reservation.at()), None),
            (_, expected) => (None, expected.map(|(at, _)| at)),
        };
        Answer { subject, kind, ledger: decision.into(), model, no_room, charged, expected }
    }

    /// When an event will have happened.
    pub fn after(&self, event: &Event) -> Moment {
        match event {
            Event::Advance(step) => self.now + step.span(self.policy.limits()),
            _ => self.now,
        }
    }

    /// Drops all reservations that are open.
    pub fn close(&mut self) {
        self.open.drain(..).for_each(|(_, charged)| self.model.keep(&charged));
    }

    /// Gives back all reservations that are open.
    pub fn give_all_back(&mut self) {
        for (reservation, charged) in std::mem::take(&mut self.open) {
            wait(reservation.settle(Settlement::GiveBack));
            self.model.give_back(charged);
        }
    }

    fn settle(&mut self, nth: usize, settlement: Option<Settlement>) {
        if self.open.is_empty() {
            return;
        }
        let (reservation, charged) = self.open.swap_remove(nth % self.open.len());
        match settlement {
            Some(Settlement::GiveBack) => self.model.give_back(charged),
            _ => self.model.keep(&charged),
        }
        match settlement {
            Some(settlement) => wait(reservation.settle(settlement)),
            None => drop(reservation),
        }
    }
}
