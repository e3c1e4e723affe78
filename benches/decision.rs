//! The decision alone, on one thread: the ledger's verbs beside governor's `check_key`. See `benches/README.md`.
//!
//! governor is what a Rust program would reach for, and does less: it knows one limit, remembers one number per key and lets a
//! burst through that an exact window refuses. The question is what exactness, four limits and settlement cost on top.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints a table"
)]
#![allow(clippy::indexing_slicing, reason = "a benchmark says what is wrong by panicking")]

#[path = "support/figures.rs"]
mod figures;
#[path = "support/machine.rs"]
mod machine;

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use figures::Figures;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use sendly_gateway::clock::{Clock, Moment};
use sendly_gateway::config::Config;
use sendly_gateway::ledger::memory::{self, Bounds, Memory};
use sendly_gateway::ledger::{Ledger, Settlement, Verdict};
use sendly_gateway::phone::Phone;
use sendly_gateway::policy::subject::{Account, HashKey, Subject, Verification};
use sendly_gateway::policy::{Key, Kind, Policy, WhenFull};

// The gateway's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START: u64 = 1_795_424_400_000_000;

/// How far apart the codes of one phone are: 12 a day, of the 20 that are allowed, so that none is refused.
const APART: Duration = Duration::from_secs(2 * 60 * 60);

/// Phones that share an API key. At 2 hours apart they make 8 codes a minute; the account's limit is 100.
const PER_ACCOUNT: u64 = 1000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` says `--bench`; `cargo test --benches` does not, and wants to know no more than whether it runs.
    let quick = given.iter().any(|word| word == "--quick") || !given.iter().any(|word| word == "--bench");
    let full = given.iter().any(|word| word == "--full");
    let rounds = if quick { 2 } else { 9 };
    let sizes: &[(u64, u64)] = match (quick, full) {
        (true, _) => &[(1_000, 20_000)],
        (false, false) => &[(1_000, 400_000), (1_000_000, 200_000)],
        (false, true) => &[(1_000, 400_000), (1_000_000, 200_000), (10_000_000, 200_000)],
    };

    println!("{}\n", machine::describe());
    for (keys, decisions) in sizes {
        compare(*keys, *decisions, rounds)?;
    }
    println!("load average {} at the end", machine::load());
    Ok(())
}

/// Time as the decisions see it. The machine's clock is read for each, since a real decision has to; but what it says is left
/// aside, so that hours can pass between two codes to a phone, and the verdicts are the same in every run.
#[derive(Clone)]
struct Time {
    clock: Clock,
    now: Arc<AtomicU64>,
}

impl Time {
    fn new() -> Self {
        Self { clock: Clock::system(), now: Arc::new(AtomicU64::new(START)) }
    }

    fn now(&self) -> Moment {
        black_box(self.clock.now());
        Moment::from_micros(self.now.load(Ordering::Relaxed))
    }

    /// One thread moves it, so that it needs no atomic addition, which would be in every figure.
    fn pass(&self, micros: u64) {
        self.now.store(self.now.load(Ordering::Relaxed) + micros, Ordering::Relaxed);
    }
}

impl governor::clock::Clock for Time {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(Time::now(self).as_micros().saturating_mul(1000))
    }
}

type Governor = RateLimiter<u64, DashMapStateStore<u64>, Time, NoOpMiddleware<Nanos>>;

/// The same keys for all.
struct Keys {
    phones: Vec<Phone>,
    verifications: Vec<Verification>,
    accounts: Vec<Account>,
}

impl Keys {
    fn new(count: u64) -> Result<Self, Box<dyn Error>> {
        let hash_key = HashKey::random();
        let phone = |nth: u64| format!("+{}", 155_500_000_000 + nth).parse::<Phone>();
        Ok(Self {
            phones: (0..count).map(phone).collect::<Result<_, _>>().map_err(|_| "no phone")?,
            verifications: (0..count).map(|nth| hash_key.verification(&format!("ver_{nth:032x}"))).collect(),
            accounts: (0..count.div_ceil(PER_ACCOUNT)).map(|nth| hash_key.account(&nth.to_le_bytes())).collect(),
        })
    }

    fn send(&self, nth: usize) -> Subject {
        Subject { phone: Some(self.phones[nth]), verification: None, account: self.accounts[nth % self.accounts.len()] }
    }
}

/// Takes one decision after the other: time passes, and every key has its turn once before any has it twice, and never right
/// after its neighbour in memory.
struct Turn<'c> {
    time: &'c Time,
    step: u64,
    at: u64,
    keys: u64,
}

/// The ledger's verbs, and what they are called with.
struct Verbs<'c> {
    ledger: Ledger,
    policy: &'c Policy,
    runtime: &'c tokio::runtime::Runtime,
}

type Decide<'c> = Box<dyn FnMut(u64) -> u64 + 'c>;

impl<'c> Turn<'c> {
    fn next(&mut self) -> usize {
        self.time.pass(self.step);
        // Prime, so that it shares no factor with the number of keys.
        self.at = (self.at + 618_033_989) % self.keys;
        self.at as usize
    }

    fn each(mut self, decide: impl Fn(usize) -> bool + 'c) -> Decide<'c> {
        Box::new(move |decisions| (0..decisions).map(|_| u64::from(decide(self.next()))).sum())
    }

    /// The verbs are async, for a store that is not in this process; none of these waits. The loop is inside one future, so
    /// that what is measured is the verbs and not the executor.
    fn verbs(mut self, verbs: &'c Verbs<'c>, kind: Kind, subject: impl Fn(usize) -> Subject + 'c) -> Decide<'c> {
        let Verbs { ledger, policy, runtime } = verbs;
        Box::new(move |decisions| {
            runtime.block_on(async {
                let mut admitted = 0;
                for _ in 0..decisions {
                    let subject = subject(self.next());
                    let (_, verdict) = ledger.reserve(policy, &subject, kind, self.time.now()).await;
                    if let Verdict::Reserved(reservation) = verdict {
                        reservation.settle(Settlement::Keep);
                        admitted += 1;
                    }
                }
                admitted
            })
        })
    }
}

/// One way of deciding: told how many decisions to take, it says how many of them admitted.
struct Candidate<'c> {
    name: &'static str,
    /// Whether it admits all or refuses all: a wrong verdict must not count as a fast one.
    admits: bool,
    /// Whose cost its own is held against: the place of a candidate.
    beside: Option<usize>,
    decide: Decide<'c>,
    nanos: Figures,
}

fn compare(count: u64, decisions: u64, rounds: usize) -> Result<(), Box<dyn Error>> {
    let keys = Keys::new(count)?;
    let policy = Policy::new(Config::parse("", "defaults", std::iter::empty())?.limits);
    let step = u64::try_from(APART.as_micros())? / count;
    let (time, frozen) = (Time::new(), Time::new());

    let (memory, per_phone) = weighed(&keys, || admitting(&keys, &policy, &time, step));
    let (_known, per_verification) = weighed(&keys, || known(&keys, &policy));
    let (governor, per_governor_key) = weighed(&keys, || governor(&keys, &time, step, 1));
    for (id, phone) in keys.verifications.iter().zip(&keys.phones) {
        memory.learn(*id, *phone, Moment::from_micros(START));
    }
    let (full, full_governor) = (full(&keys, &policy), self::governor(&keys, &frozen, 0, 5));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let verbs =
        |memory: &Arc<Memory>| Verbs { ledger: Ledger::Memory(Arc::clone(memory)), policy: &policy, runtime: &runtime };
    let (ledger, full) = (verbs(&memory), verbs(&full));

    let passing = || Turn { time: &time, step, at: 0, keys: count };
    let standing = || Turn { time: &frozen, step: 0, at: 0, keys: count };
    let candidate =
        |name, admits, beside, decide| Candidate { name, admits, beside, decide, nanos: Figures::default() };

    let mut candidates = [
        candidate(
            "the loop, its key and its clock",
            true,
            None,
            passing().each(|nth| black_box(keys.phones[nth]).digits() > 0 && time.now().as_micros() > 0),
        ),
        candidate(
            "governor, admitted",
            true,
            None,
            passing().each(|nth| governor.check_key(&keys.phones[nth].digits()).is_ok()),
        ),
        candidate(
            "send admitted: reserve, keep",
            true,
            Some(1),
            passing().verbs(&ledger, Kind::Send, |nth| keys.send(nth)),
        ),
        candidate(
            "send admitted, the memory without the verbs",
            true,
            Some(1),
            passing().each(|nth| {
                let (_, verdict) = memory.reserve(&policy, &keys.send(nth), Kind::Send, time.now());
                let memory::Verdict::Charged(charge) = verdict else { return false };
                memory.settle(&charge, Settlement::Keep);
                true
            }),
        ),
        candidate(
            "resend admitted: find, reserve, keep",
            true,
            Some(1),
            passing().verbs(&ledger, Kind::Resend, |nth| {
                let found = memory.whose(keys.verifications[nth], Moment::from_micros(START));
                let (phone, verification) = (found.map(|known| known.phone), found.map(|known| known.root));
                Subject { phone, verification, ..keys.send(nth) }
            }),
        ),
        candidate(
            "governor, refused",
            false,
            None,
            standing().each(|nth| full_governor.check_key(&keys.phones[nth].digits()).is_ok()),
        ),
        candidate("send refused: reserve", false, Some(5), standing().verbs(&full, Kind::Send, |nth| keys.send(nth))),
    ];

    for _ in 0..rounds {
        for candidate in &mut candidates {
            let began = Instant::now();
            let admitted = (candidate.decide)(decisions);
            candidate.nanos.push(began.elapsed().as_nanos() as f64 / decisions as f64);
            let expected = if candidate.admits { decisions } else { 0 };
            if admitted != expected {
                return Err(format!("{}: {admitted} of {decisions} admitted, not {expected}", candidate.name).into());
            }
        }
    }

    println!("{count} phones, {decisions} decisions a round, {rounds} rounds\n");
    println!("| decision | ns, median (min–max) | × governor, per round |");
    println!("|---|---|---|");
    for candidate in &candidates {
        let ratio = candidate.beside.map(|other| format!("{:.2}", candidate.nanos.over(&candidates[other].nanos)));
        println!("| {} | {:.0} | {} |", candidate.name, candidate.nanos, ratio.as_deref().unwrap_or("–"));
    }
    // Fewer weigh too little to be told from the process' own coming and going.
    if count >= 1_000_000 {
        println!("\nbytes of resident memory: {per_phone:.0} per tracked phone (one code each, accounts included),");
        print!("{per_verification:.0} per known verification; governor {per_governor_key:.0} per key");
    }
    println!("\n");
    Ok(())
}

fn unbounded() -> Bounds {
    let (keys, verifications, remember) = (usize::MAX, usize::MAX, Duration::from_secs(31 * 24 * 60 * 60));
    Bounds { keys, when_full: WhenFull::Refuse, verifications, remember }
}

/// A ledger in which every phone has had one code.
fn admitting(keys: &Keys, policy: &Policy, time: &Time, step: u64) -> Arc<Memory> {
    let memory = Memory::new(unbounded());
    for nth in 0..keys.phones.len() {
        time.pass(step);
        if let (_, memory::Verdict::Charged(charge)) = memory.reserve(policy, &keys.send(nth), Kind::Send, time.now()) {
            memory.settle(&charge, Settlement::Keep);
        }
    }
    Arc::new(memory)
}

/// A ledger in which every phone has had all the codes that ten minutes allow.
fn full(keys: &Keys, policy: &Policy) -> Arc<Memory> {
    let memory = Memory::new(unbounded());
    let at = Moment::from_micros(START);
    for phone in keys.phones.iter().flat_map(|phone| [phone; 5]) {
        memory.record(policy, Key::Phone(*phone), Kind::Send, at);
    }
    for account in &keys.accounts {
        memory.record(policy, Key::Account(*account), Kind::Send, at);
    }
    Arc::new(memory)
}

/// Every verification learned, and resent once.
fn known(keys: &Keys, policy: &Policy) -> Arc<Memory> {
    let memory = Memory::new(unbounded());
    let at = Moment::from_micros(START);
    for (id, phone) in keys.verifications.iter().zip(&keys.phones) {
        memory.learn(*id, *phone, at);
        memory.record(policy, Key::Verification(*id), Kind::Resend, at);
    }
    Arc::new(memory)
}

/// governor with what comes nearest to 5 in 10 minutes, asked about every key so many times.
fn governor(keys: &Keys, time: &Time, step: u64, times: usize) -> Governor {
    let burst = NonZeroU32::MIN.saturating_add(4);
    let quota = Quota::with_period(Duration::from_secs(120)).unwrap_or(Quota::per_minute(burst)).allow_burst(burst);
    let governor = RateLimiter::dashmap_with_clock(quota, time.clone());
    for phone in &keys.phones {
        time.pass(step);
        for _ in 0..times {
            let _ = governor.check_key(&phone.digits());
        }
    }
    governor
}

/// What `make` makes, and by how many bytes per phone the process grew.
fn weighed<T>(keys: &Keys, make: impl FnOnce() -> T) -> (T, f64) {
    let before = resident();
    let made = make();
    (made, resident().saturating_sub(before) as f64 / keys.phones.len() as f64)
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
