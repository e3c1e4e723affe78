//! The old process' side.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::attempt::Attempt;
use super::line::{Hello, Line, Message, REVISION, Received, VERSION};
use super::other_process::OtherProcess;
use super::snapshot;
use super::steps::{Step, reached};
use crate::gateway::Gateway;
use crate::gateway::successor::{Successor, ToSuccessor};
use crate::ledger::journal::record::Record;

/// How long the new process may take to get ready: to read its configuration, certificates, and the way to Sendly. Nothing waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long codes are held, from the moment in which none is judged any more to the one in which the new process is told that it
/// judges. A million phones with an id each take about a second, ten million twelve; and a client that waits for so long is still
/// answered within `upstream.answer_within`.
pub(super) const HELD: Duration = Duration::from_secs(15);

/// How long the new process may take to say that it judges, once it was told so; and how long a process takes to end that is killed.
const LAST_STEP: Duration = Duration::from_secs(5);

/// What is given, besides all that the gateway knows.
#[derive(Debug)]
pub struct Given<'s> {
    /// Where clients connect.
    pub listen: (SocketAddr, BorrowedFd<'s>),
    /// Where operators do.
    pub admin: (SocketAddr, BorrowedFd<'s>),
}

/// Why nobody took over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Nobody waits there.
    NobodyWaits(String),
    /// Somebody did, and something went wrong.
    Failed(String),
}

impl From<String> for NotTaken {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

/// Gives everything to the process that waits at a Unix socket, unless the attempt is broken off before it is committed. It blocks, and is
/// to be called from a thread that may; the gateway's runtime is `runtime`. Returns which process took over.
///
/// # Errors
/// Why it did not. The gateway goes on then, and the other process judges nothing.
pub fn give(
    path: &Path,
    gateway: &Arc<Gateway>,
    given: &Given<'_>,
    runtime: &Handle,
    attempt: &Attempt,
) -> Result<u32, NotTaken> {
    let nobody = |error| NotTaken::NobodyWaits(format!("{}: {error}", path.display()));
    let stream = UnixStream::connect(path).map_err(nobody)?;
    let given = try_to_give(Line::new(stream), gateway, given, runtime, attempt);
    // What broke the line off says more than that it broke.
    given.map_err(|error| NotTaken::Failed(attempt.why().map_or(error, str::to_owned)))
}

fn try_to_give(
    line: Line,
    gateway: &Arc<Gateway>,
    given: &Given<'_>,
    runtime: &Handle,
    attempt: &Attempt,
) -> Result<u32, String> {
    let line = Arc::new(line);
    let broke = |error: io::Error| format!("the new process broke off: {error}");
    // The attempt is broken off before that.
    line.set_patience(PATIENCE + LAST_STEP).map_err(broke)?;
    let other = Arc::new(line.other_process().map_err(broke)?);
    attempt.is_on(line.stream(), &other).map_err(broke)?;
    let (drawn_key, key_check) = gateway.key();
    let hello = Hello {
        version: VERSION,
        process: std::process::id(),
        listen: given.listen.0,
        admin: given.admin.0,
        drawn_key,
        key_check,
        // Without what it means only in this process' working directory.
        state: gateway.config().state.dir.map(|dir| fs::canonicalize(&dir).unwrap_or(dir)),
        revision: REVISION,
    };
    line.give([given.listen.1, given.admin.1]).map_err(broke)?;
    line.say(&Message::Hello(hello)).map_err(broke)?;
    reached(Step::OldGreeted);
    let late = break_off_after(PATIENCE, "is not ready", runtime, attempt);
    let ready = hear(&line, |message| matches!(message, Message::Ready | Message::ReadyIn(_)));
    late.abort();
    let revision = match *ready? {
        Message::ReadyIn(revision) => revision,
        _ => 0,
    };

    let late = break_off_after(HELD, "has not taken over", runtime, attempt);
    let paused = runtime.block_on(async {
        tokio::select! {
            () = snapshot::pause(gateway) => Ok(()),
            why = attempt.is_broken_off() => Err(why.to_owned()),
        }
    });
    reached(Step::OldPaused);
    let left = paused.and_then(|()| tell_everything(&line, gateway, revision)).and_then(|()| {
        reached(Step::OldHeard);
        // The one point at which it is decided who judges.
        attempt.commit(|| line.say(&Message::Left)).map_err(broke)
    });
    late.abort();
    if let Err(error) = left {
        // It has not been told that it judges. One of 0.1 takes the end of the line for that, and a message that it is not the end.
        let _ = line.say(&Message::Stays);
        end(&other);
        snapshot::resume(gateway);
        return Err(error);
    }
    reached(Step::OldCommitted);
    if revision > 0
        && let Err(error) = is_judging(&line, &other)
    {
        snapshot::resume(gateway);
        return Err(error);
    }
    reached(Step::OldLeft);
    let process = other.id();
    let _ = line.may_be_silent();
    let successor = Arc::new(successor(&line));
    gateway.gate.lead_to(Arc::clone(&successor));
    let listening = thread::Builder::new().name("successor".to_owned()).spawn({
        let successor = Arc::clone(&successor);
        move || {
            while let Ok(Some(Received::Message(message))) = line.hear() {
                if let Message::Told(serial, told) = *message {
                    successor.answered(serial, told);
                }
            }
            successor.ended();
        }
    });
    if listening.is_err() {
        // Nobody would hear an answer.
        successor.ended();
    }
    Ok(process)
}

/// Breaks the attempt off unless this is aborted before: what hangs is killed.
fn break_off_after(patience: Duration, what: &'static str, runtime: &Handle, attempt: &Attempt) -> JoinHandle<()> {
    let attempt = attempt.clone();
    runtime.spawn(async move {
        tokio::time::sleep(patience).await;
        attempt.break_off(&format!("the new process {what} within {patience:?}"));
    })
}

/// Waits until the new process judges, which has been told so. If it does not say so in time, it is ended, so that it never will.
///
/// # Errors
/// It has ended, and has judged nothing.
fn is_judging(line: &Line, other: &OtherProcess) -> Result<(), String> {
    let judges = |line: &Line| hear(line, |message| matches!(message, Message::Judges)).map(drop);
    let _ = line.set_patience(LAST_STEP);
    judges(line).or_else(|error| {
        // Where it cannot be ended, codes wait until somebody else has ended it: it may judge at any moment.
        let mut has_ended = end(other);
        while !has_ended {
            if judges(line).is_ok() {
                return Ok(());
            }
            has_ended = other.has_ended_within(LAST_STEP);
        }
        // It may have said so in the meantime: then it has judged, and what it knew is lost with it.
        judges(line).map_err(|_| error)
    })
}

/// Ends a process that hangs, or that may go on without having been told that it judges. Returns whether it has ended.
fn end(other: &OtherProcess) -> bool {
    let ended = other.end(LAST_STEP);
    if let Err(error) = &ended {
        tracing::error!(%error, process = other.id(), "the process that was to take over cannot be ended: end it by hand");
    }
    ended.is_ok()
}

/// To be called while the gateway is paused.
fn tell_everything(line: &Arc<Line>, gateway: &Gateway, revision: u16) -> Result<(), String> {
    let broke = |error: io::Error| format!("the new process broke off: {error}");
    let is_complete = Arc::new(AtomicBool::new(false));
    if revision > 0
        && let Some(clock) = gateway.clock.anchor().map(Record::Clock)
    {
        line.tell(&clock.encode(), false).map_err(broke)?;
    }
    gateway.durable.stream_to(gateway.clock.now(), {
        let (line, is_complete) = (Arc::clone(line), Arc::clone(&is_complete));
        move |record| {
            let record = if revision > 0 { Some(*record) } else { record.for_0_1() };
            if let Some(record) = record {
                // Should it fail, so does what is said next; and afterwards there is nobody to tell.
                let _ = line.tell(&record.encode(), is_complete.load(Ordering::Relaxed));
            }
        }
    });
    if revision > 1 {
        let line = Arc::clone(line);
        // As above.
        gateway.retries.stream_to(move |news| drop(line.say(&Message::News(news))));
    }
    for (key, kept) in gateway.retries.kept_answers() {
        let message = match key {
            None => Message::Kept(kept),
            Some(key) if revision > 0 => Message::KeptUnder(key, kept),
            // An 0.1 does not know that message, and would not find the answer by the key.
            Some(_) => continue,
        };
        line.say(&message).map_err(broke)?;
    }
    for (phone, until) in snapshot::temporary_exemptions(gateway) {
        line.say(&Message::Exempt(phone.digits(), until.as_micros())).map_err(broke)?;
    }
    is_complete.store(true, Ordering::Relaxed);
    gateway.finish_saving();
    line.say(&Message::Complete).map_err(broke)?;
    reached(Step::OldTold);
    hear(line, |message| matches!(message, Message::Serving)).map(drop)
}

fn successor(line: &Arc<Line>) -> Successor {
    let line = Arc::clone(line);
    Successor::new(move |errand| {
        // Should it fail, the line has ended, and whoever waits is told so.
        let _ = line.say(&match errand {
            ToSuccessor::Ask(serial, ask) => Message::Ask(serial, ask),
            ToSuccessor::Gone(serial) => Message::Gone(serial),
        });
    })
}

/// Waits for what is wanted next.
fn hear(line: &Line, is_wanted: impl Fn(&Message) -> bool) -> Result<Box<Message>, String> {
    match line.hear() {
        Ok(Some(Received::Message(message))) if is_wanted(&message) => Ok(message),
        Ok(Some(Received::Message(message))) => match *message {
            Message::Refused(why) => Err(format!("the new process refuses: {why}")),
            _ => Err("the new process says something else than was to be said".to_owned()),
        },
        Ok(Some(Received::Records(_))) => Err("the new process says something else than was to be said".to_owned()),
        Ok(None) => Err("the new process has ended".to_owned()),
        Err(error) => Err(format!("the new process broke off: {error}")),
    }
}
