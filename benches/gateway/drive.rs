//! The event loop of load and upstream: one thread and one epoll, so that on two cores neither takes the other's turn, and the
//! proxy is what the machine waits for.

use std::io;
use std::thread;
use std::time::Duration;

use mio::{Events, Poll, Registry};

use crate::upstream::{self, Seen, Upstream};

/// More than the largest message that comes at once.
const SCRATCH: usize = 128 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Drive {
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    /// `None` where it has a thread of its own.
    upstream: Option<Upstream>,
}

impl Drive {
    fn new() -> io::Result<Self> {
        let (poll, events) = (Poll::new()?, Events::with_capacity(256));
        Ok(Self { poll, events, scratch: vec![0; SCRATCH], upstream: None })
    }

    /// A loop for the load, and an upstream: in the same loop, or in a thread of its own for the rest of the process.
    pub(crate) fn start(apart: bool) -> io::Result<(Self, Seen)> {
        let mut load = Self::new()?;
        let mut other = if apart { Some(Self::new()?) } else { None };
        let home = other.as_mut().unwrap_or(&mut load);
        let upstream = Upstream::bind(home.registry()?)?;
        let seen = upstream.seen()?;
        home.upstream = Some(upstream);
        if let Some(mut other) = other {
            // An upstream that breaks is found out by the load.
            thread::spawn(move || while other.turn(None, |_, _| Ok(())).is_ok() {});
        }
        Ok((load, seen))
    }

    /// Closes all connections to the upstream, which are idle. One with a thread of its own keeps them.
    pub(crate) fn close_upstream(&mut self) {
        if let Some(upstream) = &mut self.upstream {
            upstream.close();
        }
    }

    pub(crate) fn registry(&self) -> io::Result<Registry> {
        self.poll.registry().try_clone()
    }

    /// Waits for events, at most so long, and has the upstream or the client with that token see to each.
    pub(crate) fn turn(
        &mut self,
        wait: Option<Duration>,
        mut client: impl FnMut(usize, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            let token = event.token().0;
            match &mut self.upstream {
                Some(upstream) if token >= upstream::TOKEN => upstream.ready(token, &mut self.scratch)?,
                _ => client(token, &mut self.scratch)?,
            }
        }
        Ok(())
    }
}
