//! The steps of a hand-over by name, so that tests can stop a process in each of them.

/// A step of one of the two processes: reached, and what comes next has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The old one has said who it is.
    OldGreeted,
    /// The old one lets no code be judged any more.
    OldPaused,
    /// The old one has told everything.
    OldTold,
    /// The old one has heard that the new one can serve.
    OldHeard,
    /// The old one has said that it judges no more.
    OldCommitted,
    /// The old one has heard that the new one judges.
    OldLeft,
    /// The new one has read who the old one is.
    NewGreeted,
    /// The new one is about to take over what is counted.
    NewReady,
    /// The new one knows everything.
    NewTold,
    /// The new one has said that it can serve.
    NewCanServe,
    /// The new one has read that the old one judges no more.
    NewCommitted,
    /// The new one has said that it judges, and does not yet.
    NewJudges,
}

/// Stops this process in a step, if a test wants that: with the name of the step in the variable `HAND_OVER_STOPS_AT`. Whoever continues
/// it lets it go on. A release build does nothing here.
pub(super) fn reached(step: Step) {
    #[cfg(debug_assertions)]
    if std::env::var("HAND_OVER_STOPS_AT").is_ok_and(|wanted| wanted == format!("{step:?}")) {
        use rustix::process::{Signal, getpid, kill_process};

        // It is this process itself. Another thread may take the signal, and this one would go on until all are stopped.
        let _ = kill_process(getpid(), Signal::STOP);
        std::thread::park_timeout(std::time::Duration::from_secs(4));
    }
    #[cfg(not(debug_assertions))]
    let _ = step;
}
