//! The new process' side.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::line::{Hello, Line, Message, REVISION, Received, VERSION};
use super::other_process::OtherProcess;
use super::relay;
use super::snapshot::{self, Sender};
use super::steps::{Step, reached};
use crate::clock::Moment;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::retries::News;
use crate::phone::Phone;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long the old process may take for each step: it waits for exchanges, and tells of ten million phones.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the old process may take to end once its line has: the kernel closes what a process had open before it has ended.
const LAST_STEP: Duration = Duration::from_secs(5);

/// A process that waits for another to give it everything. Dropping it ends that.
#[derive(Debug)]
pub struct Waiting {
    listener: UnixListener,
    path: PathBuf,
}

/// The sockets of another process, and all that it knows about to come.
#[derive(Debug)]
pub struct Estate {
    line: Line,
    /// Whose it was.
    other: OtherProcess,
    hello: Hello,
    /// Where clients connect.
    pub proxy: TcpListener,
    /// Where operators do.
    pub admin: TcpListener,
}

/// A hand-over that goes on in another thread. Dropping it breaks that off: unless the other process knows by then that this one judges, it
/// never will.
#[derive(Debug)]
pub struct UnderWayThere(Option<UnixStream>);

/// Everything has been taken over, but the other process does not know yet.
#[derive(Debug)]
pub struct Taken {
    line: Line,
    other: OtherProcess,
    sender: Sender,
    /// That the old process knows.
    revision: u16,
}

impl Waiting {
    /// Waits at this path, where only its owner may come.
    ///
    /// # Errors
    /// Somebody else waits there, or it cannot be bound.
    pub fn at(path: &Path) -> Result<Self, String> {
        let wrong = |error: io::Error| format!("upgrade.socket: {}: {error}", path.display());
        if UnixStream::connect(path).is_ok() {
            return Err(wrong(io::ErrorKind::AddrInUse.into()));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(wrong)?;
        let waiting = Self { listener, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(wrong)?;
        Ok(waiting)
    }

    /// Waits until another process comes, however long that takes. It blocks.
    ///
    /// # Errors
    /// It does not say what it should.
    pub fn estate(self) -> Result<Estate, String> {
        let broke = |error: io::Error| format!("the old process broke off: {error}");
        loop {
            let (stream, _) = self.listener.accept().map_err(broke)?;
            let line = Line::new(stream);
            line.set_patience(PATIENCE).map_err(broke)?;
            // Somebody who only looked whether anybody waits here brings none.
            let Ok([proxy, admin]) = line.take() else { continue };
            let (proxy, admin) = (TcpListener::from(proxy), TcpListener::from(admin));
            let other = line.other_process().map_err(broke)?;
            return match line.hear().map_err(broke)? {
                Some(Received::Message(message)) => match *message {
                    Message::Hello(hello) => Ok(Estate { other, line, hello, proxy, admin }),
                    _ => Err("the old process says something else than who it is".to_owned()),
                },
                _ => Err("the old process does not say who it is".to_owned()),
            };
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Another one may wait there next. Nothing is to be done if that cannot be.
        let _ = fs::remove_file(&self.path);
    }
}

impl Estate {
    /// Which process gives it.
    pub const fn process(&self) -> u32 {
        self.hello.process
    }

    /// The key that was drawn where there was none in the configuration.
    pub const fn drawn_key(&self) -> Option<[u8; 16]> {
        self.hello.drawn_key
    }

    /// To be held for as long as somebody waits for it to be taken.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn under_way(&self) -> Result<UnderWayThere, String> {
        let line = self.line.stream().try_clone();
        line.map(|line| UnderWayThere(Some(line))).map_err(|error| self.refuse(error.to_string()))
    }

    /// Says whether this configuration can take over.
    ///
    /// # Errors
    /// Why it cannot. The old process knows that too, and goes on.
    pub fn suits(&self, config: &Config) -> Result<(), String> {
        let Hello { version, listen, admin, .. } = &self.hello;
        let is_same =
            |wanted: SocketAddr, given: SocketAddr| wanted == given || wanted.port() == 0 && wanted.ip() == given.ip();
        let why = if *version != VERSION {
            Some("the two versions do not understand each other".to_owned())
        } else if !is_same(config.listen, *listen) {
            Some(format!("listen is {} here and {listen} there", config.listen))
        } else if !is_same(config.admin.listen, *admin) {
            Some(format!("admin.listen is {} here and {admin} there", config.admin.listen))
        } else {
            None
        };
        why.map_or(Ok(()), |why| Err(self.refuse(why)))
    }

    /// Tells the old process why nothing comes of it.
    pub fn refuse(&self, why: String) -> String {
        // It may have ended: then it needs no telling.
        let _ = self.line.say(&Message::Refused(why.clone()));
        why
    }

    /// Takes over all that the old process knows, into a gateway that has seen nothing yet. It blocks.
    ///
    /// # Errors
    /// Why that cannot be. The old process goes on then.
    pub fn take(self, gateway: &Gateway) -> Result<Taken, String> {
        match self.try_to_take(gateway) {
            Ok(sender) => Ok(Taken { line: self.line, other: self.other, sender, revision: self.hello.revision }),
            Err(why) => Err(self.refuse(why)),
        }
    }

    fn try_to_take(&self, gateway: &Gateway) -> Result<Sender, String> {
        reached(Step::NewGreeted);
        let mut sender = Sender::new(gateway.key().1 == self.hello.key_check);
        if !sender.same_key {
            tracing::warn!("hash_key is not what it was: what the old process knows of ids and accounts means nothing");
        }
        let dir = gateway.config().state.dir;
        let real = |dir: &Option<PathBuf>| dir.as_ref().and_then(|dir| fs::canonicalize(dir).ok());
        // A folder that is not there yet is not the one that the old process writes to.
        let is_written = real(&dir).is_some_and(|dir| Some(dir) == real(&self.hello.state));
        let succeed = |at_once: bool| match &dir {
            Some(dir) if at_once != is_written => snapshot::take_folder(gateway, dir, is_written),
            _ => Ok(()),
        };
        succeed(true)?;
        let broke = |error: io::Error| format!("the old process broke off: {error}");
        let ready = if self.hello.revision > 0 { Message::ReadyIn(REVISION) } else { Message::Ready };
        self.line.say(&ready).map_err(broke)?;
        reached(Step::NewReady);
        loop {
            match self.line.hear().map_err(broke)? {
                Some(Received::Records(records)) => {
                    snapshot::take_records(gateway, &records, &mut sender, !is_written)?
                }
                Some(Received::Message(message)) => match *message {
                    Message::Kept(kept) => snapshot::take_answer(gateway, None, kept, &sender),
                    Message::KeptUnder(key, kept) => snapshot::take_answer(gateway, Some(key), kept, &sender),
                    Message::News(news) => hear(gateway, sender.same_key, news),
                    Message::Exempt(digits, until) => {
                        if let Some(phone) = Phone::from_digits(digits) {
                            snapshot::take_exemption(gateway, phone, Moment::from_micros(until), &sender);
                        }
                    }
                    Message::Complete => {
                        reached(Step::NewTold);
                        return succeed(false).map(|()| sender);
                    }
                    _ => return Err("the old process says something else than was to be said".to_owned()),
                },
                None => return Err("the old process has ended".to_owned()),
            }
        }
    }
}

impl UnderWayThere {
    /// It has come to its end.
    pub fn succeeded(mut self) {
        self.0 = None;
    }
}

impl Drop for UnderWayThere {
    fn drop(&mut self) {
        // Should it fail, the line has ended already.
        self.0.as_ref().map(|line| line.shutdown(Shutdown::Both));
    }
}

impl Taken {
    /// Tells the old process that this one can serve, and once that one judges no more, has this one judge. From then on it does what the
    /// old one asks for, until it ends; `under_way` lives for as long. It blocks.
    ///
    /// # Errors
    /// The old one goes on, and this one must not.
    pub fn serves(self, gateway: &Arc<Gateway>, runtime: Handle, under_way: TaskTrackerToken) -> Result<(), String> {
        let Self { line, other, mut sender, revision } = self;
        // Where that fails, the line has ended, which is heard next.
        let _ = line.say(&Message::Serving);
        reached(Step::NewCanServe);
        loop {
            match line.hear() {
                // What is settled there meanwhile.
                Ok(Some(Received::Records(records))) => snapshot::take_records(gateway, &records, &mut sender, true)?,
                Ok(Some(Received::Message(message))) => match *message {
                    Message::Left => break,
                    Message::News(news) => hear(gateway, sender.same_key, news),
                    _ => return Err("the old process goes on".to_owned()),
                },
                // The end of the line says nothing by itself: it may have been broken off.
                Ok(None) | Err(_) if other.has_ended_within(LAST_STEP) => {
                    tracing::warn!("the old process ended before it could say that it left: this one goes on for it");
                    break;
                }
                Ok(None) | Err(_) => return Err("the old process goes on".to_owned()),
            }
        }
        reached(Step::NewCommitted);
        if revision > 0 {
            // Before anything is judged. If it cannot be said, the old process has ended; or it has not waited, and goes on.
            let said = line.say(&Message::Judges);
            if said.is_err() && !other.has_ended_within(LAST_STEP) {
                return Err("the old process goes on".to_owned());
            }
        }
        reached(Step::NewJudges);
        snapshot::discard_earlier_state(gateway);
        snapshot::resume(gateway);
        // Where it fails, the old process has ended.
        let _ = line.may_be_silent();
        let hearing = Arc::clone(gateway);
        let listening = thread::Builder::new().name("old process".to_owned());
        let listening = listening.spawn(move || {
            listen(&Arc::new(line), &hearing, sender, &runtime);
            drop(under_way);
        });
        if let Err(error) = listening {
            tracing::error!(%error, "what the old process asks for cannot be heard: its clients are told that nobody answers");
            gateway.retries.nobody_tells_any_more();
        }
        Ok(())
    }
}

/// Takes in what the old process tells of its exchanges. Under another key it would mean nothing here.
fn hear(gateway: &Gateway, same_key: bool, news: News) {
    if same_key {
        gateway.retries.hear(news);
    }
}

/// Does what the old process asks for, until it ends.
fn listen(line: &Arc<Line>, gateway: &Arc<Gateway>, mut sender: Sender, runtime: &Handle) {
    let there: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>> = Arc::default();
    while let Ok(Some(received)) = line.hear() {
        match received {
            Received::Records(records) => {
                if let Err(error) = snapshot::take_records(gateway, &records, &mut sender, true) {
                    tracing::error!(error, "what the old process tells cannot be read");
                }
            }
            Received::Message(message) => match *message {
                Message::Ask(serial, ask) => {
                    let (gone, is_gone) = oneshot::channel();
                    there.lock().insert(serial, gone);
                    let (gateway, line, there) = (Arc::clone(gateway), Arc::clone(line), Arc::clone(&there));
                    runtime.spawn(async move {
                        let say = |told| {
                            there.lock().remove(&serial);
                            // Where it has ended, its clients have gone.
                            let _ = line.say(&Message::Told(serial, told));
                        };
                        relay::serve(&gateway, ask, is_gone, say).await;
                    });
                }
                Message::News(news) => hear(gateway, sender.same_key, news),
                Message::Gone(serial) => drop(there.lock().remove(&serial)),
                _ => {}
            },
        }
    }
    gateway.retries.nobody_tells_any_more();
    // Whoever it asked for has gone with it.
    there.lock().clear();
    tracing::info!("the old process has ended");
}
