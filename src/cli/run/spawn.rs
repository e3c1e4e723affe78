//! Starts the process that takes over, so that it is not a child of this one by the time it serves.
//!
//! systemd waits for a main process to end only if it is its own child. A child of the process that tells `MAINPID=` is killed at once when
//! the service is stopped. So an intermediate process starts the successor: this program again, by a verb that `--help` does not show. It
//! reports over its standard input, a socket, what becomes of the successor, and ends when this process closes the socket. The system then
//! gives the successor to systemd, or to whatever looks after orphans.
//!
//! The intermediate is the program of the process that runs (`/proc/self/exe`), so that both ends of the socket are of one version; the
//! successor is the program that stands at the path, and may be older or newer.

use std::ffi::OsString;
use std::future::pending;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::cli::Failure;

/// The hidden verb, as `cli` names it.
const VERB: &str = "start-successor";

/// How often the intermediate looks whether the successor has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long the intermediate may take to end when it is told to: it has nothing to do but that.
const LAST_STEP: Duration = Duration::from_secs(5);

const STARTED: &str = "started ";
const KILL: u8 = b'k';

/// A successor that does not serve yet. Dropping it leaves it alone.
#[derive(Debug)]
pub(super) struct Spawned {
    process: u32,
    line: UnixStream,
    /// How the successor ended. It breaks off where that is not known.
    ended: oneshot::Receiver<String>,
    /// It breaks off when the intermediate has ended, and the successor has another parent.
    released: oneshot::Receiver<()>,
}

impl Spawned {
    /// Starts the program. If it is to read a configuration, that is checked first. Once `given_up` says why, it is not waited for any more.
    ///
    /// # Errors
    /// It cannot be started, or every mistake in its configuration, or what `given_up` says.
    pub(super) async fn start(
        program: &Path,
        arguments: &[OsString],
        config: Option<&Path>,
        given_up: impl Future<Output = String>,
    ) -> Result<Self, String> {
        let (line, its_end) = UnixStream::pair().map_err(|error| error.to_string())?;
        let mut command = Command::new("/proc/self/exe");
        // For those who list processes.
        command.arg0(program).arg(VERB);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command.arg("--").arg(program).args(arguments).stdin(Stdio::from(OwnedFd::from(its_end)));
        let intermediate = command.spawn().map_err(|error| format!("/proc/self/exe: {error}"))?;
        // It holds the other end of the socket, which would never break off.
        drop(command);
        let reading = line.try_clone().map_err(|error| error.to_string())?;
        let (tell_start, has_started) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let follow = move || follow(reading, intermediate, tell_start, tell_end, release);
        thread::Builder::new().name("successor".to_owned()).spawn(follow).map_err(|error| error.to_string())?;
        let started = tokio::select! {
            started = has_started => started.unwrap_or_else(|_| Err("the intermediate process broke off".to_owned())),
            why = given_up => {
                // It is to hear that nobody waits, though `reading` is still open.
                let _ = line.shutdown(Shutdown::Both);
                Err(why)
            }
        };
        Ok(Self { process: started?, line, ended, released })
    }

    pub(super) const fn process(&self) -> u32 {
        self.process
    }

    /// Waits until it has ended, and says how. To be called until it returns, and not again.
    pub(super) async fn ended(&mut self) -> String {
        match (&mut self.ended).await {
            Ok(how) => how,
            // The intermediate was ended from outside: nothing is known of the successor.
            Err(_) => pending().await,
        }
    }

    /// Leaves it alone. When this returns it has another parent.
    pub(super) async fn release(self) {
        // Should it fail, the intermediate has ended already.
        let _ = self.line.shutdown(Shutdown::Write);
        if timeout(LAST_STEP, self.released).await.is_err() {
            tracing::warn!(process = self.process, "the successor is still a child of its intermediate process");
        }
    }

    /// Ends it at once. It does nothing if it has ended already.
    pub(super) async fn kill(mut self) {
        // As above.
        let _ = self.line.write_all(&[KILL]);
        let _ = timeout(LAST_STEP, &mut self.released).await;
    }
}

/// Reads what the intermediate reports, until it has ended.
fn follow(
    line: UnixStream,
    mut intermediate: Child,
    tell_start: oneshot::Sender<Result<u32, String>>,
    tell_end: oneshot::Sender<String>,
    release: oneshot::Sender<()>,
) {
    let (mut first, mut rest) = (String::new(), String::new());
    let mut line = BufReader::new(line);
    // What breaks off says nothing.
    let _ = line.read_line(&mut first);
    let process = first.trim_end().strip_prefix(STARTED).and_then(|process| process.parse().ok());
    if let Some(process) = process {
        let _ = tell_start.send(Ok(process));
        let _ = line.read_to_string(&mut rest);
        if !rest.is_empty() {
            let _ = tell_end.send(rest);
        }
    } else {
        let _ = line.read_to_string(&mut rest);
        let _ = tell_start.send(Err((first + &rest).trim_end().to_owned()));
    }
    if let Err(error) = intermediate.wait() {
        tracing::warn!(%error, "the end of the intermediate process cannot be heard");
    }
    drop(release);
}

/// The hidden verb.
#[derive(Debug, Args)]
pub(in crate::cli) struct StartSuccessor {
    #[arg(long)]
    config: Option<PathBuf>,
    program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl StartSuccessor {
    /// Starts the successor, reports what becomes of it, and ends when the old process wants to hear no more, or has ended.
    pub(in crate::cli) fn run(&self) -> Result<(), Failure> {
        let line = io::stdin().as_fd().try_clone_to_owned().map_err(Failure::unavailable)?;
        let mut line = UnixStream::from(line);
        line.set_read_timeout(Some(LOOK_EVERY)).map_err(|_| Failure::usage("the gateway itself starts this"))?;
        let report = self.start_and_watch(&mut line).unwrap_or_else(|error| error);
        // Should it fail, there is no old process that would read it.
        let _ = line.write_all(report.as_bytes());
        Ok(())
    }

    /// Returns the last thing to report; nothing where there is nobody to report to.
    fn start_and_watch(&self, line: &mut UnixStream) -> Result<String, String> {
        let failed = |error: io::Error| format!("{}: {error}", self.program.display());
        self.check()?;
        let mut successor =
            Command::new(&self.program).args(&self.arguments).stdin(Stdio::null()).spawn().map_err(failed)?;
        if writeln!(line, "{STARTED}{}", successor.id()).is_err() {
            // Nobody waits for it any more.
            successor.kill().map_err(failed)?;
        }
        loop {
            if let Some(status) = successor.try_wait().map_err(failed)? {
                return Ok(status.to_string());
            }
            match line.read(&mut [0]) {
                Ok(0) => return Ok(String::new()),
                Ok(_) => successor.kill().map_err(failed)?,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return Ok(String::new()),
            }
        }
    }

    /// Asks the successor's own program for the mistakes in its configuration. They would stand in the log as bare lines, where `run`
    /// finds them before it knows how to log.
    fn check(&self) -> Result<(), String> {
        let Some(config) = &self.config else { return Ok(()) };
        let mut check = Command::new(&self.program);
        let checked = check.arg("check").arg("--config").arg(config).stdin(Stdio::null()).output();
        let checked = checked.map_err(|error| format!("{}: {error}", self.program.display()))?;
        if checked.status.success() {
            return Ok(());
        }
        Err(format!("{}: {}", checked.status, String::from_utf8_lossy(&checked.stderr).trim()))
    }
}
