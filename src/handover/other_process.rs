//! The process at the other end of the line, as the kernel knows it: has it ended, and end it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that was at the other end of a line. It stays that process: its id may be another's by the time it is asked.
#[derive(Debug)]
pub(super) struct OtherProcess {
    id: Pid,
    handle: OwnedFd,
}

impl OtherProcess {
    /// The one at the other end of this stream.
    ///
    /// # Errors
    /// It has ended, or the kernel knows no handles of processes (Linux before 5.3).
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let id = socket_peercred(stream)?.pid;
        Ok(Self { id, handle: pidfd_open(id, PidfdFlags::empty())? })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.id.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has ended, or does within this time. It blocks.
    pub(super) fn has_ended_within(&self, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).ok();
        let mut asked = [PollFd::from_borrowed_fd(self.handle.as_fd(), PollFlags::IN)];
        // An interruption counts as no.
        matches!(poll(&mut asked, patience.as_ref()), Ok(1..))
    }

    /// Ends it at once, also where it is stopped, and waits until it has ended. It blocks.
    ///
    /// # Errors
    /// It may not be ended by this process, or has not ended within `patience`.
    pub(super) fn end(&self, patience: Duration) -> io::Result<()> {
        if self.has_ended_within(Duration::ZERO) {
            return Ok(());
        }
        self.kill()?;
        if self.has_ended_within(patience) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Has it end, also where it is stopped, and does not wait for that. It does nothing if it has ended.
    ///
    /// # Errors
    /// It may not be ended by this process.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Err(Errno::SRCH) => Ok(()),
            killed => Ok(killed?),
        }
    }
}
