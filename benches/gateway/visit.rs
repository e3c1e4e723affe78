//! A visit: one proxy under load on one path for a while, and what that cost it.

use std::io;
use std::time::{Duration, Instant};

use crate::candidate::{Candidate, Running, own_cpu};
use crate::cores::doing;
use crate::drive::Drive;
use crate::load::Load;
use crate::script::{Ask, Expect, Script};
use crate::template::PER_ACCOUNT;
use crate::upstream::Seen;

/// Enough to keep one worker busy, and few enough to wait in line instead of in buffers.
pub(crate) const CONNECTIONS: usize = 64;

/// How long a visit goes on before it counts: connections are new, and the pool to the upstream is cold.
const WARM_UP: Duration = Duration::from_millis(150);

/// The most that any proxy here answers in a second. Phones are set aside for a visit by it.
const FASTEST: f64 = 150_000.0;

/// How many ids are learned for each second of resends. A visit ends with them.
const RESENDS: f64 = 30_000.0;

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
    /// What load and upstream used.
    pub(crate) load: Duration,
    pub(crate) took: Duration,
    /// How long the proxy was kept from its core by others.
    pub(crate) waited: Duration,
}

/// Makes one visit after the other, each with phones that no visit before it had.
pub(crate) struct Visitor {
    pub(crate) drive: Drive,
    pub(crate) upstream: Seen,
    pub(crate) span: Duration,
    /// The length of a send's body, in bytes, at least.
    pub(crate) body: usize,
    fresh: u64,
}

impl Visitor {
    pub(crate) fn new(drive: Drive, upstream: Seen, span: Duration) -> Self {
        Self { drive, upstream, span, body: 0, fresh: 15_550_000_000 }
    }

    /// Puts a proxy under load, and measures it when it is warm.
    ///
    /// # Errors
    /// An answer was not what it had to be, or what was to be refused reached the upstream, or the reverse.
    pub(crate) fn visit(&mut self, proxy: &Running, path: Path) -> io::Result<Visit> {
        let load = Load::open(&self.drive, proxy.address, CONNECTIONS).map_err(doing("connecting"))?;
        self.visit_with(load, proxy, path)
    }

    /// The same over connections that are open.
    pub(crate) fn visit_with(&mut self, mut load: Load, proxy: &Running, path: Path) -> io::Result<Visit> {
        let mut script = self.prepare(&mut load, Some(proxy.candidate), path).map_err(doing("preparing"))?;
        load.follow(&mut self.drive, &mut script, WARM_UP).map_err(doing("warming up"))?;

        let seen = self.upstream.count();
        let (load_cpu, waited) = (own_cpu()?, proxy.waited());
        let (cpu, began) = (proxy.cpu()?, Instant::now());
        let answered = load.follow(&mut self.drive, &mut script, self.span).map_err(doing(path.name()))?;
        let (took, cpu) = (began.elapsed(), proxy.cpu()?.saturating_sub(cpu));
        let (load_cpu, waited) = (own_cpu()?.saturating_sub(load_cpu), proxy.waited().saturating_sub(waited));
        let seen = self.upstream.count() - seen;

        let expected = if proxy.candidate.refusal.is_some() && path.is_refused() { 0 } else { answered };
        if answered == 0 || seen != expected {
            let what = path.name();
            return Err(io::Error::other(format!("{what}: {answered} answered, {seen} seen by the upstream")));
        }
        Ok(Visit { answered, cpu, load: load_cpu, took, waited })
    }

    /// Brings a proxy, or the upstream alone, to where the path's requests are what their name says, and returns them.
    pub(crate) fn prepare(&mut self, load: &mut Load, proxy: Option<&Candidate>, path: Path) -> io::Result<Script> {
        use Ask::{List, Resend};
        use Expect::Upstream;

        let send = Ask::Send { body: self.body };
        let refused = proxy.and_then(|proxy| proxy.refusal).map_or(Upstream, Expect::Refusal);
        let seconds = (self.span + WARM_UP).as_secs_f64();
        let any_number = u64::MAX;
        let mut first =
            |drive: &mut Drive, mut script: Script| load.follow(drive, &mut script, Duration::from_secs(60));
        match path {
            Path::Passed => Ok(Script::all_to(List, Upstream, self.fresh, any_number)),
            Path::SendAllowed => Ok(Script::once_each(send, Upstream, self.take((seconds * FASTEST) as u64))),
            Path::SendRefused => {
                // As many as ten minutes allow.
                let phone = self.take(1).start;
                first(&mut self.drive, Script::all_to(send, Upstream, phone, 5))?;
                Ok(Script::all_to(send, refused, phone, any_number))
            }
            Path::ResendAllowed => {
                // All are asked for the sends, also who learns nothing from their answers: what was served before is the same.
                let phones = self.take((seconds * RESENDS) as u64);
                first(&mut self.drive, Script::once_each(send, Upstream, phones.clone()))?;
                Ok(Script::once_each(Resend, Upstream, phones))
            }
            Path::ResendRefused => {
                let phone = self.take(1).start;
                first(&mut self.drive, Script::all_to(send, Upstream, phone, 1))?;
                first(&mut self.drive, Script::all_to(Resend, Upstream, phone, 1))?;
                Ok(Script::all_to(Resend, refused, phone, any_number))
            }
        }
    }

    /// Phones that nobody has had, and whose accounts nobody shares.
    pub(crate) fn take(&mut self, count: u64) -> std::ops::Range<u64> {
        let first = self.fresh;
        self.fresh = (first + count).next_multiple_of(PER_ACCOUNT);
        first..first + count
    }
}
