//! The process that takes over from this one: it waits already, or is started now, with the same command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

use crate::handover::NotTaken;
use crate::server::Running;

/// How often a process that was started is looked for until it waits, and with which pause: for 20 seconds.
const LOOKS: usize = 1000;
const PAUSE: Duration = Duration::from_millis(20);

/// How to start it.
#[derive(Debug)]
pub(super) struct Successor {
    /// The program, by its path when this one began: another may stand there now.
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
}

impl Successor {
    /// Of this process.
    pub(super) fn of_this_process() -> Self {
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == "--upgrade") {
            arguments.push("--upgrade".into());
        }
        Self { program: std::env::current_exe().ok(), arguments }
    }

    /// Lets it take over. Returns which process that is.
    ///
    /// # Errors
    /// Why nobody did.
    pub(super) async fn take_over_from(&self, running: &Running) -> Result<u32, String> {
        let socket = running.reload().config().upgrade.socket;
        let socket = socket.ok_or("upgrade.socket is not set")?;
        match running.hand_over(socket.clone()).await {
            Err(NotTaken::NobodyWaits(_)) => {}
            Err(NotTaken::Failed(error)) => return Err(error),
            Ok(process) => return Ok(process),
        }
        self.start(&socket)?;
        let mut looked = 0;
        loop {
            sleep(PAUSE).await;
            looked += 1;
            match running.hand_over(socket.clone()).await {
                Err(NotTaken::NobodyWaits(_)) if looked < LOOKS => {}
                Err(NotTaken::NobodyWaits(error) | NotTaken::Failed(error)) => return Err(error),
                Ok(process) => return Ok(process),
            }
        }
    }

    fn start(&self, socket: &Path) -> Result<(), String> {
        let nobody = || format!("nobody waits at {}, and the program is not to be found", socket.display());
        let program = self.program.as_ref().ok_or_else(nobody)?;
        let started = Command::new(program).args(&self.arguments).spawn();
        let mut child = started.map_err(|error| format!("{}: {error}", program.display()))?;
        tracing::info!(process = child.id(), program = %program.display(), "starting a process that takes over");
        // Somebody has to hear how it ends, should it end before this one.
        let waiting = thread::Builder::new().name("successor".to_owned()).spawn(move || child.wait());
        waiting.map(drop).map_err(|error| error.to_string())
    }
}
