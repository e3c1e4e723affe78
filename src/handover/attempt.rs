//! One attempt to hand over, which can be broken off for as long as it is not committed.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::SetOnce;

use super::other_process::OtherProcess;

/// See the module's documentation. Clones are of the same attempt.
#[derive(Clone, Debug, Default)]
pub struct Attempt(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stage: Mutex<Stage>,
    /// Why it was broken off.
    why: SetOnce<String>,
}

#[derive(Debug, Default)]
enum Stage {
    /// No process has come yet.
    #[default]
    Begun,
    /// On this line, with this process at its other end.
    UnderWay(UnixStream, Arc<OtherProcess>),
    Committed,
    BrokenOff,
}

impl Attempt {
    /// Breaks it off, unless the other process has been told that it judges from now on. That one is killed, and whoever waits on its line
    /// is interrupted. Returns whether it is broken off.
    pub fn break_off(&self, why: &str) -> bool {
        let mut stage = self.0.stage.lock();
        match &*stage {
            Stage::Committed => return false,
            Stage::UnderWay(line, other) => {
                // First: 0.1 takes the end of the line for the end of this process, and judges. Should it fail, `give` says so.
                let _ = other.kill();
                // Should it fail, the line has ended already.
                let _ = line.shutdown(Shutdown::Both);
            }
            Stage::Begun | Stage::BrokenOff => {}
        }
        *stage = Stage::BrokenOff;
        // The first reason counts.
        let _ = self.0.why.set(why.to_owned());
        true
    }

    /// Waits until it is broken off, and says why.
    pub async fn is_broken_off(&self) -> &str {
        self.0.why.wait().await
    }

    /// Why it was broken off, if it was.
    pub(super) fn why(&self) -> Option<&str> {
        self.0.why.get().map(String::as_str)
    }

    /// From now on it is under way on this line, with this process at its other end.
    pub(super) fn is_on(&self, line: &UnixStream, other: &Arc<OtherProcess>) -> io::Result<()> {
        let mut stage = self.0.stage.lock();
        if matches!(*stage, Stage::BrokenOff) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        *stage = Stage::UnderWay(line.try_clone()?, Arc::clone(other));
        Ok(())
    }

    /// Commits it by `say`: if that succeeds it cannot be broken off any more. Nothing is said if it was.
    pub(super) fn commit(&self, say: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut stage = self.0.stage.lock();
        if matches!(*stage, Stage::BrokenOff) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        say()?;
        *stage = Stage::Committed;
        Ok(())
    }
}
