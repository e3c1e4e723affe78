//! Ways of deciding, in turn: what each decision takes.

use std::error::Error;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use sendly_gateway::clock::Moment;
use sendly_gateway::ledger::memory::{self, Memory};
use sendly_gateway::ledger::{Ledger, Settlement, Verdict};
use sendly_gateway::policy::{Counts, Kind, Limit, Mode, Per, Policy, RefusalCode, Subject};

use crate::figures::Figures;
use crate::keys::{self, Keys};
use crate::time::{START, Time};

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
    fn verbs(mut self, verbs: &'c Verbs<'c>, settlement: Settlement, kind: Kind, keys: &'c Keys) -> Decide<'c> {
        let Verbs { ledger, policy, runtime } = verbs;
        Box::new(move |decisions| {
            runtime.block_on(async {
                let mut admitted = 0;
                for _ in 0..decisions {
                    let nth = self.next();
                    let mut subject = keys.send(nth);
                    if kind == Kind::Resend {
                        let known = ledger.whose(keys.verifications[nth], Moment::from_micros(START)).await;
                        subject.phone = known.map(|known| known.phone);
                        subject.verification = known.map(|known| known.root);
                    }
                    let (_, verdict) = ledger.reserve(policy, &subject, kind, self.time.now()).await;
                    if let Verdict::Reserved(reservation) = verdict {
                        reservation.settle(settlement).await;
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
    name: String,
    /// Whether it admits all or refuses all: a wrong verdict must not count as a fast one.
    admits: bool,
    /// Whose cost its own is held against: the place of a candidate.
    beside: Option<usize>,
    decide: Decide<'c>,
    nanos: Figures,
}

fn candidate<'c>(name: &str, admits: bool, beside: Option<usize>, decide: Decide<'c>) -> Candidate<'c> {
    Candidate { name: name.to_owned(), admits, beside, decide, nanos: Figures::default() }
}

fn run(candidates: &mut [Candidate<'_>], decisions: u64, rounds: usize) -> Result<(), Box<dyn Error>> {
    for _ in 0..rounds {
        for candidate in &mut *candidates {
            let began = Instant::now();
            let admitted = (candidate.decide)(decisions);
            candidate.nanos.push(began.elapsed().as_nanos() as f64 / decisions as f64);
            let expected = if candidate.admits { decisions } else { 0 };
            if admitted != expected {
                return Err(format!("{}: {admitted} of {decisions} admitted, not {expected}", candidate.name).into());
            }
        }
    }
    println!("| decision | ns, median (min–max) | ×, per round |");
    println!("|---|---|---|");
    for candidate in &*candidates {
        let ratio = candidate.beside.map(|other| format!("{:.2}", candidate.nanos.over(&candidates[other].nanos)));
        println!("| {} | {:.0} | {} |", candidate.name, candidate.nanos, ratio.as_deref().unwrap_or("–"));
    }
    println!();
    Ok(())
}

/// Sends and resends, admitted and refused, beside governor.
pub(crate) fn table(count: u64, decisions: u64, rounds: usize) -> Result<(), Box<dyn Error>> {
    let (keys, policy) = (Keys::new(count)?, keys::defaults()?);
    let (time, frozen, step) = (Time::new(), Time::new(), keys.step());
    let memory = Arc::new(keys::admitting(&keys, &policy, &time, 1)?);
    keys::learn(&memory, &keys);
    let governor = keys::governor(&keys, &time, step, 1);
    let (full, full_governor) = (keys::full(&keys, &policy), keys::governor(&keys, &frozen, 0, 5));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let verbs =
        |memory: &Arc<Memory>| Verbs { ledger: Ledger::Memory(Arc::clone(memory)), policy: &policy, runtime: &runtime };
    let (ledger, full) = (verbs(&memory), verbs(&full));
    let passing = || Turn { time: &time, step, at: 0, keys: count };
    let standing = || Turn { time: &frozen, step: 0, at: 0, keys: count };

    println!("{count} phones, {decisions} decisions a round, {rounds} rounds; × governor\n");
    let loop_only = passing().each(|nth| black_box(keys.phones[nth]).digits() > 0 && time.now().as_micros() > 0);
    let admitted = passing().each(|nth| governor.check_key(&keys.phones[nth].digits()).is_ok());
    let refused = standing().each(|nth| full_governor.check_key(&keys.phones[nth].digits()).is_ok());
    let one = Policy::new(policy.limits().iter().take(1).cloned().collect());
    let alone = keys::admitting(&keys, &one, &time, 1)?;
    let one_limit = passing().each(|nth| {
        matches!(alone.reserve(&one, &keys.send(nth), Kind::Send, time.now()).1, memory::Verdict::Charged(_))
    });
    run(
        &mut [
            candidate("the loop, its key and its clock", true, None, loop_only),
            candidate("governor, admitted", true, None, admitted),
            candidate(
                "send admitted and kept",
                true,
                Some(1),
                passing().verbs(&ledger, Settlement::Keep, Kind::Send, &keys),
            ),
            candidate(
                "send admitted and given back",
                true,
                Some(1),
                passing().verbs(&ledger, Settlement::GiveBack, Kind::Send, &keys),
            ),
            candidate(
                "resend of a learned id, admitted and kept",
                true,
                Some(1),
                passing().verbs(&ledger, Settlement::Keep, Kind::Resend, &keys),
            ),
            candidate("send admitted under one limit", true, Some(1), one_limit),
            candidate("governor, refused", false, None, refused),
            candidate("send refused", false, Some(6), standing().verbs(&full, Settlement::Keep, Kind::Send, &keys)),
        ],
        decisions,
        rounds,
    )
}

/// One to eight limits on phones.
pub(crate) fn limits(count: u64, decisions: u64, rounds: usize) -> Result<(), Box<dyn Error>> {
    let (keys, time) = (Keys::new(count)?, Time::new());
    let policies: Vec<Policy> = [1, 2, 4, 8]
        .map(|limits| {
            let limit = |nth: u32| Limit {
                name: format!("phone-{nth}"),
                per: Per::Phone,
                max: 20 + nth,
                window: Duration::from_secs(24 * 60 * 60) / (nth + 1),
                counts: Counts::BOTH,
                mode: Mode::Enforce,
                code: RefusalCode::RateLimitExceeded,
            };
            Policy::new((0..limits).map(limit).collect())
        })
        .into();
    let memory = keys::admitting(&keys, &policies[3], &time, 1)?;
    println!("{count} phones, {decisions} decisions a round; × one limit\n");
    let step = keys.step();
    let mut candidates: Vec<Candidate<'_>> = policies
        .iter()
        .map(|policy| {
            let (keys, time, memory) = (&keys, &time, &memory);
            let decide = Turn { time, step, at: 0, keys: count }.each(move |nth| {
                let (_, verdict) = memory.reserve(policy, &keys.send(nth), Kind::Send, time.now());
                matches!(verdict, memory::Verdict::Charged(_))
            });
            let (limits, s) = (policy.limits().len(), if policy.limits().len() == 1 { "" } else { "s" });
            candidate(&format!("send admitted, {limits} limit{s}"), true, Some(0), decide)
        })
        .collect();
    run(&mut candidates, decisions, rounds)
}

/// One thread and two, on phones and accounts that they do not share.
pub(crate) fn threads(count: u64, decisions: u64, rounds: usize) -> Result<(), Box<dyn Error>> {
    let (keys, policy, time) = (Arc::new(Keys::new(count)?), Arc::new(keys::defaults()?), Time::new());
    let memory = Arc::new(keys::admitting(&keys, &policy, &time, 1)?);
    let governor = Arc::new(keys::governor(&keys, &time, keys.step(), 1));
    let mut rates = [(); 4].map(|()| Figures::default());
    let mut now = time.now().as_micros();
    for _ in 0..rounds {
        for (place, (threads, exact)) in [(1, true), (2, true), (1, false), (2, false)].into_iter().enumerate() {
            now += 2 * 60 * 60 * 1_000_000;
            let barrier = Arc::new(Barrier::new(threads + 1));
            let running: Vec<_> = (0..threads)
                .map(|thread| {
                    let (keys, policy, memory) = (Arc::clone(&keys), Arc::clone(&policy), Arc::clone(&memory));
                    let (barrier, governor, time) = (Arc::clone(&barrier), Arc::clone(&governor), time.clone());
                    std::thread::spawn(move || {
                        barrier.wait();
                        let (mut nth, mut admitted, half) = (0, 0, keys.phones.len() / 2);
                        for turn in 0..decisions {
                            // Half of the phones, and of the accounts, for each.
                            nth = (nth + 618_033_989) % half;
                            let phone = nth * 2 + thread;
                            let passes = if exact {
                                black_box(time.now());
                                let account = keys.accounts[(phone / 2) % (keys.accounts.len() / 2).max(1) * 2
                                    + thread.min(keys.accounts.len() - 1)];
                                let subject = Subject { account, ..keys.send(phone) };
                                let at = Moment::from_micros(now + turn * 10_000);
                                let (_, verdict) = memory.reserve(&policy, &subject, Kind::Send, at);
                                matches!(verdict, memory::Verdict::Charged(_))
                            } else {
                                governor.check_key(&keys.phones[phone].digits()).is_ok()
                            };
                            admitted += u64::from(passes);
                        }
                        admitted
                    })
                })
                .collect();
            barrier.wait();
            let began = Instant::now();
            for thread in running {
                black_box(thread.join().map_err(|_| "a thread failed")?);
            }
            rates[place].push(threads as f64 * decisions as f64 / began.elapsed().as_secs_f64() / 1e6);
        }
    }
    println!("{count} phones; million decisions a second\n");
    println!("| | 1 thread | 2 threads | × |");
    println!("|---|---|---|---|");
    let [one, two, governor_one, governor_two] = &rates;
    println!("| send: reserve | {one:.2} | {two:.2} | {:.2} |", two.over(one));
    println!("| governor | {governor_one:.2} | {governor_two:.2} | {:.2} |\n", governor_two.over(governor_one));
    Ok(())
}
