//! Every fault, at every step of a hand-over (`handover/steps.rs`), to either process, under load, with a state folder and without: in which
//! process the next code is judged, and that no phone gets one too many. It takes some minutes:
//! `cargo nextest run --test process --run-ignored only hand_over_faults`.
#![allow(clippy::disallowed_methods, reason = "how long a failed hand-over takes is one of the promises")]
#![allow(clippy::print_stdout, reason = "what became of each is what it is run for")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::hand_over::join_all;
use super::upgrade::{Meeting, sends};
use crate::client::Wire;
use crate::process::{Process, Serving};
use crate::upstream::{Seen, Upstream};

/// No account's limit: the clients ask for more than a hundred codes.
pub(crate) const CONFIG: &str =
    "[log]\naccess = false\n[[limits]]\nname = \"phone\"\nper = \"phone\"\nmax = 5\nwindow = \"10m\"\n";

/// Phones that the clients do not ask for: one code is left for the first, three for the second.
const PHONES: [&str; 2] = ["+15550900001", "+15550900002"];
const CLIENTS: usize = 4;

/// How long an old process is stopped: longer than it would hold codes.
const HANGS: Duration = Duration::from_secs(17);

/// How long codes may be held, and how long a process that hangs may take to end: what is said in docs/upgrade.md, and what a busy machine
/// takes.
const BOUND: Duration = Duration::from_secs(15 + 5 + 5);
/// The same where the old one waits for the new one to get ready, and holds nothing.
const BOUND_BEFORE: Duration = Duration::from_secs(30 + 5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Hang,
    Term,
    Int,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    step: &'static str,
    side: Side,
    fault: Fault,
    on_disk: bool,
}

/// Who judges once it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    Old,
    New,
    Nobody,
}

impl Case {
    /// Who may judge in the end. It is more than one where the processes race each other for what comes next.
    fn judges(self) -> &'static [Judge] {
        use Judge::{New, Nobody, Old};
        let is = |steps: &[&str]| steps.contains(&self.step);
        // The new one has said that it judges, or the old one is where it hears that.
        let is_over = is(&["NewJudges", "OldLeft"]);
        let is_committed = is_over || is(&["OldCommitted", "NewCommitted"]);
        match (self.side, self.fault) {
            (Side::Old, Fault::Kill) if is(&["OldGreeted", "NewGreeted", "OldPaused"]) => &[Nobody],
            (Side::Old, Fault::Kill) if is(&["NewReady"]) => &[Nobody, New],
            (Side::Old, Fault::Kill) => &[New],
            (Side::Old, Fault::Hang) if is_committed || is(&["OldGreeted", "NewGreeted"]) => &[New],
            (Side::Old, Fault::Hang) => &[Old, New],
            (Side::Old, _) if is_over || is(&["OldCommitted"]) => &[New],
            (Side::Old, _) if self.step.starts_with("New") => &[Nobody],
            (Side::Old, _) => &[Nobody, New],
            (Side::New, Fault::Hang) if is_over => &[New],
            (Side::New, Fault::Hang) if is(&["OldCommitted"]) => &[Old, New],
            (Side::New, _) if is_over && self.fault != Fault::Hang => &[Nobody],
            (Side::New, Fault::Kill | Fault::Term | Fault::Int) if is(&["OldCommitted"]) => &[Old, Nobody],
            (Side::New, Fault::Term | Fault::Int) if self.step.starts_with("New") => &[Old, Nobody],
            (Side::New, _) => &[Old],
        }
    }

    async fn run(self) {
        let meeting = Meeting::new(CONFIG).await;
        let dir = meeting.folder();
        let state: &[(&str, &str)] = if self.on_disk { &[("STATE_DIR", &dir)] } else { &[] };
        let stopping = [state, &[("HAND_OVER_STOPS_AT", self.step)]].concat();
        let stops_old = self.step.starts_with("Old");
        let old = Serving::of(meeting.start(&[], if stops_old { &stopping } else { state })).await;
        let [first, second] = PHONES;
        assert_eq!((sends(&old, first, 4).await, sends(&old, second, 2).await), (vec![201; 4], vec![201; 2]));
        let load = Load::on(&old);
        let new = meeting.start(&["--upgrade"], if stops_old { state } else { &stopping });
        new.logs("waiting for the gateway that runs").await;
        old.process.signal("QUIT");
        let stopped = if stops_old { &old.process } else { &new };
        stopped.is_stopped().await;

        let began = Instant::now();
        self.happens(&old.process, &new, stopped).await;
        let bound = if self.step.ends_with("Greeted") { BOUND_BEFORE } else { BOUND };
        let judge = timeout(bound.max(HANGS), self.settles(&old.process, &new)).await;
        let took = began.elapsed();
        let judge = judge.unwrap_or_else(|_| panic!("{self:?}:\nold\n{}\nnew\n{}", old.process.err(), new.err()));
        assert!(self.judges().contains(&judge), "{self:?}: {judge:?}");
        load.ends().await;
        println!("{self:?}: {judge:?} after {took:?}");

        // Exactly what is left goes out, unless a code that was charged never left a process that was ended at once.
        let is_exact = self.side == Side::New || !matches!(self.fault, Fault::Kill | Fault::Int);
        if judge != Judge::Nobody {
            let judging = Serving {
                process: if judge == Judge::Old { old.process } else { new },
                address: old.address,
                admin: old.admin,
            };
            assert_eq!(sends(&judging, first, 3).await, [201, 429, 429], "{self:?}");
            assert_eq!(sends(&judging, second, 4).await, [201, 201, 201, 429], "{self:?}");
            judging.process.signal("KILL");
            judging.process.code().await;
        }
        if self.on_disk {
            // And it knows of all of them that starts from the folder.
            let next = Serving::of(meeting.start(&[], state)).await;
            let left = if judge == Judge::Nobody {
                (vec![201, 429], vec![201, 201, 201])
            } else {
                (vec![429; 2], vec![429; 3])
            };
            assert_eq!((sends(&next, first, 2).await, sends(&next, second, 3).await), left, "{self:?}");
            for phone in load.phones(&meeting.upstream).into_keys() {
                let more = sends(&next, &phone, 6).await;
                assert_eq!(more.last(), Some(&429), "{self:?}: {more:?}");
            }
            drop(next);
            std::fs::remove_dir_all(&dir).unwrap();
        }
        let codes = load.phones(&meeting.upstream);
        for (phone, codes) in &codes {
            assert!(*codes <= 5, "{self:?}: {phone} got {codes}");
        }
        if is_exact && self.on_disk {
            assert!(codes.values().all(|codes| *codes == 5), "{self:?}: {codes:?}");
        }
    }

    /// Has it happen; whoever was stopped in its step goes on afterwards, unless it is what hangs.
    async fn happens(self, old: &Process, new: &Process, stopped: &Process) {
        let (victim, other) = if self.side == Side::Old { (old, new) } else { (new, old) };
        let is_stopped = |process: &Process| process.id() == stopped.id();
        match self.fault {
            Fault::Kill => {
                victim.signal("KILL");
                victim.code().await;
                other.goes_on();
            }
            Fault::Hang => {
                victim.signal("STOP");
                other.goes_on();
                if self.side == Side::Old {
                    sleep(HANGS).await;
                    victim.goes_on();
                }
            }
            Fault::Term | Fault::Int => {
                victim.signal(if self.fault == Fault::Term { "TERM" } else { "INT" });
                if is_stopped(victim) {
                    victim.goes_on();
                } else if self.side == Side::New || self.step == "NewJudges" {
                    if self.side == Side::New {
                        victim.code().await;
                    }
                    other.goes_on();
                }
            }
        }
    }

    /// Waits until it is known who judges.
    async fn settles(self, old: &Process, new: &Process) -> Judge {
        let is_told_to_stop = |side| self.side == side && matches!(self.fault, Fault::Term | Fault::Int);
        loop {
            let (old_ended, new_ended) = (old.has_ended(), new.has_ended());
            if old_ended && new_ended {
                return Judge::Nobody;
            }
            let gone_on = old.err().contains("nobody has taken over: this process goes on");
            if gone_on && new_ended && !is_told_to_stop(Side::Old) {
                return Judge::Old;
            }
            let judges = old.err().contains("another process has taken over") || new.err().contains("serving");
            if judges && !new_ended && !is_told_to_stop(Side::New) {
                if (self.side, self.fault) == (Side::New, Fault::Hang) {
                    // As any gateway that hangs: it is let go on after a while.
                    sleep(Duration::from_secs(3)).await;
                    new.goes_on();
                }
                new.logs("serving").await;
                return Judge::New;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Clients that ask for codes for one phone after the other, whatever becomes of their connections.
pub(crate) struct Load {
    goes_on: Arc<AtomicBool>,
    clients: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Load {
    pub(crate) fn on(serving: &Serving) -> Self {
        let (goes_on, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let client = |_| {
            let (address, goes_on, asked) = (serving.address, Arc::clone(&goes_on), Arc::clone(&asked));
            tokio::spawn(async move {
                while goes_on.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(20)).await;
                    let Ok(stream) = TcpStream::connect(address).await else { continue };
                    let mut wire = Wire::over(stream);
                    while goes_on.load(Ordering::Relaxed) {
                        // Each phone is asked for a few times more than it may be.
                        let phone = asked.fetch_add(1, Ordering::Relaxed) / 8;
                        if !ask(&mut wire, phone).await {
                            break;
                        }
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        };
        let clients = parking_lot::Mutex::new((0..CLIENTS).map(client).collect());
        Self { goes_on, clients }
    }

    pub(crate) async fn ends(&self) {
        self.goes_on.store(false, Ordering::Relaxed);
        let clients = std::mem::take(&mut *self.clients.lock());
        for client in clients {
            client.await.unwrap();
        }
    }

    /// How many codes went out for each phone.
    pub(crate) fn phones(&self, upstream: &Upstream) -> HashMap<String, usize> {
        let mut phones = HashMap::new();
        for seen in upstream.seen().iter().filter(|seen| Seen::is_send(seen)) {
            *phones.entry(seen.to().unwrap()).or_insert(0) += 1;
        }
        phones
    }
}

/// Asks for a code. Returns whether the connection can be used again.
async fn ask(wire: &mut Wire, phone: usize) -> bool {
    let body = format!(r#"{{"to":"+1555{phone:07}"}}"#);
    let head = "POST /api/v1/verify HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk_test_v1_test\r\n";
    let request = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    if !wire.try_write(request).await {
        return false;
    }
    wire.answer().await.is_some_and(|answer| answer.header("connection") != Some("close"))
}

async fn all_faults_at(step: &'static str) {
    let mut cases = Vec::new();
    for side in [Side::Old, Side::New] {
        for fault in [Fault::Kill, Fault::Hang, Fault::Term, Fault::Int] {
            for on_disk in [false, true] {
                cases.push(Case { step, side, fault, on_disk }.run());
            }
        }
    }
    join_all(cases).await;
}

macro_rules! steps {
    ($($name:ident: $step:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "all of them take some minutes; see the module's documentation"]
        async fn $name() {
            all_faults_at($step).await;
        }
    )*};
}

steps! {
    no_fault_changes_a_count_once_the_old_one_has_said_who_it_is: "OldGreeted",
    no_fault_changes_a_count_once_the_new_one_knows_who_the_old_one_is: "NewGreeted",
    no_fault_changes_a_count_once_the_new_one_is_ready: "NewReady",
    no_fault_changes_a_count_once_the_old_one_lets_no_code_be_judged: "OldPaused",
    no_fault_changes_a_count_once_the_old_one_has_told_everything: "OldTold",
    no_fault_changes_a_count_once_the_new_one_knows_everything: "NewTold",
    no_fault_changes_a_count_once_the_new_one_has_said_that_it_can_serve: "NewCanServe",
    no_fault_changes_a_count_once_the_old_one_has_heard_that: "OldHeard",
    no_fault_changes_a_count_once_the_commit_is_written: "OldCommitted",
    no_fault_changes_a_count_once_the_commit_is_read: "NewCommitted",
    no_fault_changes_a_count_once_the_new_one_has_said_that_it_judges: "NewJudges",
    no_fault_changes_a_count_once_the_old_one_has_heard_that_the_new_one_judges: "OldLeft",
}
