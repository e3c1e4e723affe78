//! What the process tells whoever supervises it: systemd, for a unit of `Type=notify`.
//!
//! Nothing is told where nobody asks for it (`NOTIFY_SOCKET`), and nothing fails if nobody hears it: a gateway that serves is worth
//! more than one that has been heard.

use std::io;

use sd_notify::NotifyState;

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Clients can connect, for the first time or after [`Reloading`](State::Reloading).
    Ready,
    /// The configuration is being read again. [`Ready`](State::Ready) has to follow, whatever comes of it.
    Reloading,
    /// It takes no more clients, and ends what it has begun.
    Stopping,
    /// Another process of this id has taken over: that is the one to look after now.
    Succeeded(u32),
}

/// Tells it.
pub(crate) fn tell(state: Notice) {
    if let Err(error) = notify(state) {
        tracing::warn!(?state, %error, "the supervisor cannot be told");
    }
}

fn notify(state: Notice) -> io::Result<()> {
    match state {
        Notice::Ready => sd_notify::notify(&[NotifyState::Ready]),
        // With the time, as `Type=notify-reload` wants it.
        Notice::Reloading => sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]),
        Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Notice::Succeeded(process) => sd_notify::notify(&[NotifyState::MainPid(process)]),
    }
}
