//! One process takes over from another: its sockets, so that no client finds the door closed, and its counts, so that nobody gets a code
//! more.
//!
//! The new process waits at a Unix socket ([`Waiting`]); the old one comes there when it is told to ([`give`]). It gives its sockets, and
//! once the new one is ready it lets no code be judged for a moment, tells it all that is counted, and leaves everything to it:
//! limited requests that still come on its own connections are served by the new one, answer by answer, until the last is closed. If
//! anything goes wrong before that, the old one goes on as if nothing had been.
//!
//! Who judges is decided at one point. The new process judges only once it has read `Left`, or once the kernel says that the old one has
//! ended. The old one judges again only if it has not written `Left`, or if the kernel says that the new one ended before it said
//! `Judges`. Whatever hangs is ended before that: codes wait for 15 seconds at most.

mod attempt;
mod give;
mod line;
mod other_process;
mod relay;
pub mod snapshot;
mod steps;
mod take;

pub use attempt::Attempt;
pub use give::{Given, NotTaken, give};
pub use take::{Estate, Taken, Waiting};
