//! A visit: one proxy under load on one path for a while, and what that cost it.

use std::io;
use std::time::{Duration, Instant};

use crate::candidate::Running;
use crate::cores::doing;
use crate::load::{Ask, Expect, Load, PER_ACCOUNT, Script};
use crate::upstream::Upstream;

/// Enough to keep one worker busy, and few enough to wait in line instead of in buffers.
const CONNECTIONS: usize = 64;

/// How long a visit goes on before it counts: connections are new, and the pool to the upstream is cold.
const WARM_UP: Duration = Duration::from_millis(150);

/// The most that any proxy here answers in a second. Phones are set aside for a visit by it.
const FASTEST: f64 = 60_000.0;

/// How many ids are learned for each second of resends. A visit ends with them.
const RESENDS: f64 = 20_000.0;

/// The ways that a request can take through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Passed,
    SendAllowed,
    SendRefused,
    ResendAllowed,
    ResendRefused,
}

impl Path {
    pub(crate) const ALL: [Path; 5] =
        [Path::Passed, Path::SendAllowed, Path::SendRefused, Path::ResendAllowed, Path::ResendRefused];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Path::Passed => "passed through",
            Path::SendAllowed => "send allowed",
            Path::SendRefused => "send refused",
            Path::ResendAllowed => "resend allowed",
            Path::ResendRefused => "resend refused",
        }
    }

    const fn is_refused(self) -> bool {
        matches!(self, Path::SendRefused | Path::ResendRefused)
    }
}

/// What a visit found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) answered: u64,
    pub(crate) cpu: Duration,
    pub(crate) took: Duration,
}

/// Makes one visit after the other, each with phones that no visit before it had.
pub(crate) struct Visitor {
    upstream: Upstream,
    span: Duration,
    fresh: u64,
}

impl Visitor {
    pub(crate) fn new(upstream: Upstream, span: Duration) -> Self {
        Self { upstream, span, fresh: 155_500_000_000 }
    }

    /// Puts a proxy under load, and measures it when it is warm.
    ///
    /// # Errors
    /// An answer was not what it had to be, or what was to be refused reached the upstream, or the reverse.
    pub(crate) async fn visit(&mut self, proxy: &Running, path: Path) -> io::Result<Visit> {
        let mut load = Load::open(proxy.address, CONNECTIONS).await.map_err(doing("connecting"))?;
        let script = self.prepare(&mut load, proxy.candidate.limits, path).await.map_err(doing("preparing"))?;
        load.follow(&script, WARM_UP).await.map_err(doing("warming up"))?;

        let seen = self.upstream.seen();
        let (cpu, began) = (proxy.cpu()?, Instant::now());
        let answered = load.follow(&script, self.span).await.map_err(doing(path.name()))?;
        let (took, cpu) = (began.elapsed(), proxy.cpu()?.saturating_sub(cpu));
        let seen = self.upstream.seen() - seen;

        let expected = if proxy.candidate.limits && path.is_refused() { 0 } else { answered };
        if answered == 0 || seen != expected {
            let what = path.name();
            return Err(io::Error::other(format!("{what}: {answered} answered, {seen} seen by the upstream")));
        }
        Ok(Visit { answered, cpu, took })
    }

    /// Brings a proxy to where the path's requests are what their name says, and returns them.
    async fn prepare(&mut self, load: &mut Load, limits: bool, path: Path) -> io::Result<std::sync::Arc<Script>> {
        use Ask::{List, Resend, Send};
        use Expect::{Refusal, Upstream};

        let refused = if limits { Refusal } else { Upstream };
        let seconds = (self.span + WARM_UP).as_secs_f64();
        let long = Duration::from_secs(60);
        let any_number = u64::MAX;
        match path {
            Path::Passed => Ok(Script::all_to(List, Upstream, self.fresh, any_number)),
            Path::SendAllowed => Ok(Script::once_each(Send, Upstream, self.take((seconds * FASTEST) as u64))),
            Path::SendRefused => {
                // As many as ten minutes allow.
                let phone = self.take(1).start;
                load.follow(&Script::all_to(Send, Upstream, phone, 5), long).await?;
                Ok(Script::all_to(Send, refused, phone, any_number))
            }
            Path::ResendAllowed => {
                let phones = self.take((seconds * RESENDS) as u64);
                if limits {
                    load.follow(&Script::once_each(Send, Upstream, phones.clone()), long).await?;
                }
                Ok(Script::once_each(Resend, Upstream, phones))
            }
            Path::ResendRefused => {
                let phone = self.take(1).start;
                load.follow(&Script::all_to(Send, Upstream, phone, 1), long).await?;
                load.follow(&Script::all_to(Resend, Upstream, phone, 1), long).await?;
                Ok(Script::all_to(Resend, refused, phone, any_number))
            }
        }
    }

    /// Phones that nobody has had, and whose accounts nobody shares.
    fn take(&mut self, count: u64) -> std::ops::Range<u64> {
        let first = self.fresh;
        self.fresh = (first + count).next_multiple_of(PER_ACCOUNT);
        first..first + count
    }
}
