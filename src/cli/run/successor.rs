//! The process that takes over from this one: it waits already, or is started now, with the same command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::spawn::Spawned;
use crate::handover::{Attempt, NotTaken};
use crate::server::Running;

/// How long a process may take to be started (its configuration is checked before that), and how long until it waits.
const COMES_WITHIN: Duration = Duration::from_secs(20);

/// How often it is looked for meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a successor that broke off may take to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How to start it.
#[derive(Debug)]
pub(crate) struct Successor {
    /// The program, by its path when this one began: another may stand there now.
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    config: Option<PathBuf>,
}

impl Successor {
    /// Of this process, which has its configuration from there.
    pub(crate) fn of_this_process(config: Option<PathBuf>) -> Self {
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == "--upgrade") {
            arguments.push("--upgrade".into());
        }
        Self { program: std::env::current_exe().ok(), arguments, config }
    }

    /// Lets it take over. Returns which process that is.
    ///
    /// # Errors
    /// Why nobody did.
    pub(crate) async fn take_over_from(&self, running: &Running, attempt: &Attempt) -> Result<u32, String> {
        let socket = running.reload().config().upgrade.socket;
        let socket = socket.ok_or("upgrade.socket is not set")?;
        match running.hand_over(socket.clone(), attempt).await {
            Err(NotTaken::NobodyWaits(_)) => {}
            Err(NotTaken::Failed(error)) => return Err(error),
            Ok(process) => return Ok(process),
        }
        let mut spawned = self.start(&socket, attempt).await?;
        match meet(running, &socket, &mut spawned, attempt).await {
            Ok(process) => {
                spawned.release().await;
                Ok(process)
            }
            Err(error) => {
                // It serves nothing and never will: the hand-over it was started for has failed.
                spawned.kill().await;
                Err(error)
            }
        }
    }

    async fn start(&self, socket: &Path, attempt: &Attempt) -> Result<Spawned, String> {
        let nobody = || format!("nobody waits at {}, and the program is not to be found", socket.display());
        let program = self.program.as_ref().ok_or_else(nobody)?;
        let given_up = async {
            tokio::select! {
                why = attempt.is_broken_off() => why.to_owned(),
                () = sleep(COMES_WITHIN) => format!("{}: not started within {COMES_WITHIN:?}", program.display()),
            }
        };
        let spawned = Spawned::start(program, &self.arguments, self.config.as_deref(), given_up).await?;
        tracing::info!(process = spawned.process(), program = %program.display(), "starting a process that takes over");
        Ok(spawned)
    }
}

/// Hands over to a process that was started, once it waits.
async fn meet(running: &Running, socket: &Path, spawned: &mut Spawned, attempt: &Attempt) -> Result<u32, String> {
    let ended = |how: String| format!("the process that was to take over has ended: {how}");
    let (mut late, mut is_late) = (pin!(sleep(COMES_WITHIN)), false);
    loop {
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = &mut late, if !is_late => is_late = true,
            how = spawned.ended() => return Err(ended(how)),
            why = attempt.is_broken_off() => return Err(why.to_owned()),
        }
        // Once it is under way only the attempt itself knows whether there is a way back.
        match running.hand_over(socket.to_owned(), attempt).await {
            Err(NotTaken::NobodyWaits(_)) if !is_late => {}
            Err(NotTaken::NobodyWaits(error)) => return Err(error),
            Err(NotTaken::Failed(error)) => {
                let how = timeout(LAST_WORDS, spawned.ended()).await;
                return Err(how.map_or(error.clone(), |how| format!("{error} ({how})")));
            }
            Ok(process) => return Ok(process),
        }
    }
}
