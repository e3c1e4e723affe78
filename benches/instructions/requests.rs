//! What whole requests take, in the real program: one run serves some requests of every path, and another one [`MORE`] of one path.
//! The difference is theirs alone, without start and end, new connections and cold caches.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::callgrind::{self, Profile};
use crate::drive::Drive;
use crate::load::Load;
use crate::script::{Ask, Expect, Script};
use crate::template::PER_ACCOUNT;
use crate::upstream::Seen;

/// How many requests of every path each run serves first.
const FIRST: u64 = 200;

/// How many more of one path are counted.
pub(crate) const MORE: u64 = 1000;

/// Enough that the one worker always has the next request, as in `benches/gateway.rs`: what a wake-up costs is shared.
const CONNECTIONS: usize = 16;

const LONG: Duration = Duration::from_secs(300);

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
}

/// The instructions of a request on each path.
pub(crate) fn count() -> io::Result<Vec<f64>> {
    let before = serve(None)?;
    let mut counts = Vec::new();
    for path in Path::ALL {
        let after = serve(Some(path))?;
        counts.push((after.total as f64 - before.total as f64) / MORE as f64);
    }
    Ok(counts)
}

/// A run without and one with more requests on this path.
pub(crate) fn profiles(path: Path) -> io::Result<(Profile, Profile)> {
    Ok((serve(None)?, serve(Some(path))?))
}

/// Serves, under callgrind, some requests of every path, and more of one.
fn serve(more: Option<Path>) -> io::Result<Profile> {
    let (mut drive, upstream) = Drive::start(false)?;
    let into = callgrind::file("requests");
    let address = free_address()?;
    let mut running = Running::start(&callgrind::counted(&gateway(address, upstream.address)?, &into), address)?;
    ask(&mut drive, &upstream, address, more)?;
    let status = running.stop()?;
    if !status.success() {
        return Err(io::Error::other(format!("the gateway ended with {status}")));
    }
    Profile::take(&into)
}

fn ask(drive: &mut Drive, upstream: &Seen, address: SocketAddr, more: Option<Path>) -> io::Result<()> {
    let many = |path| FIRST + if more == Some(path) { MORE } else { 0 };
    let any = 15_550_000_000_u64.next_multiple_of(PER_ACCOUNT);
    let (full, cooling, learned) = (any + 1, any + 2, any + PER_ACCOUNT);
    // Every run learns as many ids, so that those who resend do not count the sends before.
    let sends = (learned + FIRST + MORE).next_multiple_of(PER_ACCOUNT);
    let load = &mut Load::open(drive, address, CONNECTIONS)?;
    let (send, refusal) = (Ask::Send { body: 0 }, Expect::Refusal("\"retryAfter\":"));
    let mut passed = 0;
    for (mut script, is_passed) in [
        (Script::all_to(Ask::List, Expect::Upstream, any, many(Path::Passed)), true),
        (Script::all_to(send, Expect::Upstream, full, 5), true),
        (Script::all_to(send, refusal, full, many(Path::SendRefused)), false),
        (Script::once_each(send, Expect::Upstream, learned..learned + FIRST + MORE), true),
        (Script::once_each(Ask::Resend, Expect::Upstream, learned..learned + many(Path::ResendAllowed)), true),
        (Script::all_to(send, Expect::Upstream, cooling, 1), true),
        (Script::all_to(Ask::Resend, Expect::Upstream, cooling, 1), true),
        (Script::all_to(Ask::Resend, refusal, cooling, many(Path::ResendRefused)), false),
        (Script::once_each(send, Expect::Upstream, sends..sends + many(Path::SendAllowed)), true),
    ] {
        let answered = load.follow(drive, &mut script, LONG)?;
        passed += if is_passed { answered } else { 0 };
    }
    if upstream.count() != passed {
        return Err(io::Error::other(format!("the upstream has seen {}, not {passed}", upstream.count())));
    }
    Ok(())
}

/// The binary with the configuration that ships, as in `benches/gateway/candidate.rs`.
fn gateway(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sendly-gateway"));
    command.args(["run", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml")]);
    for (key, value) in [
        ("LISTEN", listen.to_string()),
        ("ADMIN_LISTEN", free_address()?.to_string()),
        ("UPSTREAM_URL", format!("http://{upstream}")),
        ("WORKERS", "1".to_owned()),
        // It comes by the clock, not by the request.
        ("MEMORY_SWEEP_EVERY", "1h".to_owned()),
    ] {
        command.env(format!("SENDLY_GATEWAY_{key}"), value);
    }
    Ok(command)
}

/// A process. It is killed when this is dropped before it has ended.
struct Running(Child);

impl Running {
    /// Starts it and waits until it takes connections. Under callgrind that takes a while.
    fn start(command: &Command, address: SocketAddr) -> io::Result<Self> {
        let mut own = Command::new(command.get_program());
        own.args(command.get_args()).env_clear();
        own.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut running = Self(own.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        for _ in 0..3000 {
            if TcpStream::connect(address).is_ok() {
                return Ok(running);
            }
            if let Some(status) = running.0.try_wait()? {
                return Err(io::Error::other(format!("the gateway ended: {status}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("the gateway takes no connections"))
    }

    /// Asks it to end, and waits until it has.
    fn stop(&mut self) -> io::Result<ExitStatus> {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status()?;
        for _ in 0..3000 {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("the gateway does not end"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address of this machine that nobody listens on: at least, nobody did a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
