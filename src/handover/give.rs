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

use super::line::{Hello, Line, Message, Received, VERSION};
use crate::gateway::Gateway;
use crate::gateway::relay::{Errand, Heir};

/// How long the new process may take for each step: reading its configuration, taking over ten million phones.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Gives everything to the process that waits at a Unix socket. It blocks, and is to be called from a thread that may; the gateway's
/// runtime is `runtime`. Returns which process took over.
///
/// # Errors
/// Why it did not. The gateway goes on then.
pub fn give(path: &Path, gateway: &Arc<Gateway>, given: &Given<'_>, runtime: &Handle) -> Result<u32, NotTaken> {
    let nobody = |error| NotTaken::NobodyWaits(format!("{}: {error}", path.display()));
    let stream = UnixStream::connect(path).map_err(nobody)?;
    let line = Arc::new(Line::new(stream));
    let broke = |error: io::Error| format!("the new process broke off: {error}");
    line.set_patience(PATIENCE).map_err(broke)?;
    let process = line.other_process().map_err(broke)?;
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
    };
    line.give([given.listen.1, given.admin.1]).map_err(broke)?;
    line.say(&Message::Hello(hello)).map_err(broke)?;
    hear(&line, |message| matches!(message, Message::Ready))?;

    runtime.block_on(gateway.pause());
    if let Err(error) = tell_everything(&line, gateway) {
        // If it does not hear this, it hears that the line has ended before the old one left.
        let _ = line.say(&Message::Stays);
        gateway.go_on();
        return Err(error.into());
    }
    // From here on there is no way back. Should it not hear this, it takes the end of the line for the end of this process.
    let _ = line.say(&Message::Left);
    let _ = line.may_be_silent();
    let heir = Arc::new(heir(&line));
    gateway.leave_to(Arc::clone(&heir));
    let listening = thread::Builder::new().name("heir".to_owned()).spawn({
        let heir = Arc::clone(&heir);
        move || {
            while let Ok(Some(Received::Message(message))) = line.hear() {
                if let Message::Told(serial, told) = *message {
                    heir.answered(serial, told);
                }
            }
            heir.ended();
        }
    });
    if listening.is_err() {
        // Nobody would hear an answer.
        heir.ended();
    }
    Ok(process)
}

/// To be called while the gateway is paused.
fn tell_everything(line: &Arc<Line>, gateway: &Gateway) -> Result<(), String> {
    let broke = |error: io::Error| format!("the new process broke off: {error}");
    let is_complete = Arc::new(AtomicBool::new(false));
    gateway.bequeath({
        let (line, is_complete) = (Arc::clone(line), Arc::clone(&is_complete));
        move |record| {
            // Should it fail, so does what is said next; and afterwards there is nobody to tell.
            let _ = line.tell(&record.encode(), is_complete.load(Ordering::Relaxed));
        }
    });
    for (key, kept) in gateway.kept_answers() {
        let message = match key {
            None => Message::Kept(kept),
            Some(key) => Message::KeptUnder(key, kept),
        };
        line.say(&message).map_err(broke)?;
    }
    for (phone, until) in gateway.exempt_for_a_while() {
        line.say(&Message::Exempt(phone.digits(), until.as_micros())).map_err(broke)?;
    }
    is_complete.store(true, Ordering::Relaxed);
    gateway.finish_saving();
    line.say(&Message::Complete).map_err(broke)?;
    hear(line, |message| matches!(message, Message::Serving))
}

fn heir(line: &Arc<Line>) -> Heir {
    let line = Arc::clone(line);
    Heir::new(move |errand| {
        // Should it fail, the line has ended, and whoever waits is told so.
        let _ = line.say(&match errand {
            Errand::Ask(serial, ask) => Message::Ask(serial, ask),
            Errand::Gone(serial) => Message::Gone(serial),
        });
    })
}

/// Waits for what is wanted next.
fn hear(line: &Line, is_wanted: impl Fn(&Message) -> bool) -> Result<(), String> {
    match line.hear() {
        Ok(Some(Received::Message(message))) if is_wanted(&message) => Ok(()),
        Ok(Some(Received::Message(message))) => match *message {
            Message::Refused(why) => Err(format!("the new process refuses: {why}")),
            _ => Err("the new process says something else than was to be said".to_owned()),
        },
        Ok(Some(Received::Records(_))) => Err("the new process says something else than was to be said".to_owned()),
        Ok(None) => Err("the new process has ended".to_owned()),
        Err(error) => Err(format!("the new process broke off: {error}")),
    }
}
