//! What single calls take: the decision, and the parsers before it. They are made by this very program, started again under
//! callgrind, which tells each function apart by its name.

use std::error::Error;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use sendly_gateway::api::{body, path};
use sendly_gateway::clock::Moment;
use sendly_gateway::config::Config;
use sendly_gateway::ledger::memory::{Bounds, Memory};
use sendly_gateway::ledger::{Ledger, Settlement, Verdict};
use sendly_gateway::phone::Phone;
use sendly_gateway::policy::subject::{HashKey, Subject};
use sendly_gateway::policy::{Kind, Policy, WhenFull};
use tokio::runtime::Runtime;

use crate::callgrind::{Profile, counted, file};

/// The argument that makes this program make the calls.
pub(crate) const ARGUMENT: &str = "make-calls";

/// How often each is made.
const TIMES: u64 = 2000;

const PHONES: u64 = 1000;

const START: Moment = Moment::from_micros(1_795_424_400_000_000);

/// As in `benches/decision.rs`: no code is refused that ought not to be.
const APART: Duration = Duration::from_secs(2 * 60 * 60);

type Calls = fn(&World) -> u64;

/// What is called, under the name of the function here that calls it.
pub(crate) const ALL: [(&str, Calls); 7] = [
    ("path_read", path_read),
    ("body_read_send", body_read_send),
    ("body_read_shown", body_read_shown),
    ("reserve_and_keep", reserve_and_keep),
    ("refuse", refuse),
    ("reserve_in_a_long_log", reserve_in_a_long_log),
    ("refuse_by_a_long_log", refuse_by_a_long_log),
];

/// What the calls are made with.
pub(crate) struct World {
    ledger: Ledger,
    full: Ledger,
    policy: Policy,
    long: LongLogs,
    subjects: Vec<Subject>,
    now: AtomicU64,
    runtime: Runtime,
}

/// Accounts that may have very many sends a day, and a ledger in which one has had nearly all and another has had all.
struct LongLogs {
    ledger: Ledger,
    policy: Policy,
    nearly_full: Subject,
    full: Subject,
}

/// An account's sends in a day.
const MANY: u64 = 500_000;

impl LongLogs {
    fn new(hash_key: &HashKey, memory: Arc<Memory>) -> Result<Self, Box<dyn Error>> {
        let limit = format!(
            "[[limits]]\nname = \"a\"\nper = \"account\"\nmax = {MANY}\nwindow = \"24h\"\ncounts = [\"send\"]\n\
                             [[limits]]\nname = \"b\"\nper = \"account\"\nmax = {MANY}\nwindow = \"24h\"\ncounts = [\"resend\"]\n"
        );
        let policy = Policy::new(Config::parse(&limit, "long", std::iter::empty())?.limits);
        let subject = |name: &[u8], sends: u64| {
            let subject = Subject { phone: None, verification: None, account: hash_key.account(name) };
            for key in subject.keys() {
                for nth in 0..sends {
                    let at = START + Duration::from_micros(nth);
                    memory.record(&policy, key, Kind::Send, at);
                    if nth % 5 == 0 {
                        memory.record(&policy, key, Kind::Resend, at);
                    }
                }
            }
            subject
        };
        let (nearly_full, full) = (subject(b"one", MANY - 1), subject(b"another", MANY));
        Ok(Self { ledger: Ledger::Memory(memory), policy, nearly_full, full })
    }

    /// So many sends, each given back. Returns how many were admitted.
    fn send(&self, subject: &Subject, runtime: &Runtime) -> u64 {
        let now = START + Duration::from_secs(60 * 60);
        runtime.block_on(async {
            let mut admitted = 0;
            for _ in 0..TIMES {
                let (_, verdict) = self.ledger.reserve(&self.policy, subject, Kind::Send, now).await;
                if let Verdict::Reserved(reservation) = verdict {
                    reservation.settle(Settlement::GiveBack).await;
                    admitted += 1;
                }
            }
            admitted
        })
    }
}

impl World {
    fn new() -> Result<Self, Box<dyn Error>> {
        let hash_key = HashKey::random();
        let (keys, when_full) = (usize::MAX, WhenFull::Refuse);
        let memory = || Arc::new(Memory::new(Bounds { keys, when_full, verifications: keys, remember: APART }));
        let (policy, full) = (Policy::new(Config::parse("", "defaults", std::iter::empty())?.limits), memory());
        let subject = |nth: u64| {
            let phone: Phone = format!("+{}", 15_550_000_000 + nth).parse().map_err(|_| "no phone")?;
            let subject = Subject { phone: Some(phone), verification: None, account: hash_key.account(&[nth as u8]) };
            for key in subject.keys() {
                // As many as ten minutes allow.
                for _ in 0..5 {
                    full.record(&policy, key, Kind::Send, START);
                }
            }
            Ok(subject)
        };
        let subjects = (0..PHONES).map(subject).collect::<Result<_, &str>>()?;
        let world = Self {
            ledger: Ledger::Memory(memory()),
            full: Ledger::Memory(full),
            policy,
            long: LongLogs::new(&hash_key, memory())?,
            subjects,
            now: AtomicU64::new(START.as_micros()),
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
        };
        // So that logs hold what they do after a while.
        world.send(&world.ledger, 5 * PHONES, APART / PHONES as u32);
        Ok(world)
    }

    /// So many sends to one phone after the other. Returns how many were admitted.
    fn send(&self, ledger: &Ledger, times: u64, apart: Duration) -> u64 {
        let subjects = self.subjects.iter().cycle().take(times as usize);
        self.runtime.block_on(async {
            let mut admitted = 0;
            for subject in subjects {
                let now = Moment::from_micros(self.now.load(Ordering::Relaxed)) + apart;
                self.now.store(now.as_micros(), Ordering::Relaxed);
                let (_, verdict) = ledger.reserve(&self.policy, subject, Kind::Send, now).await;
                if let Verdict::Reserved(reservation) = verdict {
                    reservation.settle(Settlement::Keep).await;
                    admitted += 1;
                }
            }
            admitted
        })
    }
}

#[inline(never)]
fn path_read(_: &World) -> u64 {
    let targets = ["/api/v1/verify", "/api/v1/verify/ver_0123456789abcdef0123456789abcdef/resend"];
    let is_verify = |target: &str| matches!(path::read(&Method::POST, target), path::Reading::Verify(_));
    targets.iter().cycle().take(TIMES as usize).filter(|target| is_verify(black_box(target))).count() as u64
}

#[inline(never)]
fn body_read_send(_: &World) -> u64 {
    let text = br#"{"to":"+15550100123","app_name":"Bench"}"#.as_slice();
    (0..TIMES).filter(|_| body::read_send(black_box(text)).is_ok()).count() as u64
}

#[inline(never)]
fn body_read_shown(_: &World) -> u64 {
    let text = br#"{"id":"ver_0123456789abcdef0123456789abcdef","status":"pending","phone":"+15550100123","expires_at":"2026-11-24T00:10:00.000Z","sandbox":true}"#.as_slice();
    (0..TIMES).filter(|_| body::read_shown(black_box(text)).phone.is_some()).count() as u64
}

#[inline(never)]
fn reserve_and_keep(world: &World) -> u64 {
    world.send(&world.ledger, TIMES, APART / PHONES as u32)
}

#[inline(never)]
fn refuse(world: &World) -> u64 {
    world.now.store(START.as_micros(), Ordering::Relaxed);
    TIMES - world.send(&world.full, TIMES, Duration::ZERO)
}

#[inline(never)]
fn reserve_in_a_long_log(world: &World) -> u64 {
    world.long.send(&world.long.nearly_full, &world.runtime)
}

#[inline(never)]
fn refuse_by_a_long_log(world: &World) -> u64 {
    TIMES - world.long.send(&world.long.full, &world.runtime)
}

/// Makes the calls.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let world = World::new()?;
    for (name, calls) in ALL {
        let right = black_box(calls)(&world);
        if right != TIMES {
            return Err(format!("{name}: {right} of {TIMES} did what they are to do").into());
        }
    }
    Ok(())
}

/// The instructions of a call of each.
pub(crate) fn count() -> Result<Vec<f64>, Box<dyn Error>> {
    let into = file("calls");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(ARGUMENT);
    let status = counted(&command, &into).stdin(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("the calls ended with {status}").into());
    }
    let profile = Profile::take(&into)?;
    ALL.iter()
        .map(|(name, _)| {
            let count = profile.called(&format!("calls::{name}")).ok_or_else(|| format!("{name} was not called"))?;
            Ok(count as f64 / TIMES as f64)
        })
        .collect()
}
