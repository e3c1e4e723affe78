//! What is asked of the process by signals.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Now,
    WhenIdle,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalRequest {
    Stop(Stop),
    /// Another process is to take over.
    HandOver,
}

/// The signals that it hears.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    /// That a file must not grow is told to whoever writes to it. Heard by nobody, it does not end the process, as it would unhandled.
    _file_size: Signal,
    /// Until somebody else hears it.
    pub(super) hup: Option<Signal>,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::unavailable);
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            _file_size: listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
            hup: Some(listen(SignalKind::hangup())?),
        })
    }

    pub(super) async fn next(&mut self) -> SignalRequest {
        loop {
            tokio::select! {
                _ = self.term.recv() => return SignalRequest::Stop(Stop::WhenIdle),
                _ = self.int.recv() => return SignalRequest::Stop(Stop::Now),
                _ = self.quit.recv() => return SignalRequest::HandOver,
                // Unhandled it would end the process.
                Some(()) = next(&mut self.hup) => tracing::warn!("HUP: there is nothing to load"),
            }
        }
    }

    /// Waits until it is to stop at once. What ends by itself already is not hurried by TERM: a supervisor that stops the service sends it
    /// to every process of it, more than once.
    pub(super) async fn stop_now(&mut self) {
        loop {
            match self.next().await {
                SignalRequest::Stop(Stop::Now) => return,
                SignalRequest::Stop(Stop::WhenIdle) => {
                    tracing::info!("TERM: this process ends with its last connection")
                }
                SignalRequest::HandOver => tracing::warn!("QUIT: there is nothing to hand over"),
            }
        }
    }

    /// Waits until it is to stop.
    pub(super) async fn stop(&mut self) -> Stop {
        loop {
            match self.next().await {
                SignalRequest::Stop(stop) => return stop,
                SignalRequest::HandOver => tracing::warn!("QUIT: there is nothing to hand over"),
            }
        }
    }
}

async fn next(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => pending().await,
    }
}
