//! Who is measured: a proxy in a process of its own, with one worker, on a core of its own where there is one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::bare;
use crate::cores::Cores;

/// A proxy, and how it is started. Another one is another entry in [`ALL`].
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    /// Whether it limits. One that does not lets all through, and is measured for scale.
    pub(crate) limits: bool,
    /// The command that serves `listen` in front of `upstream`.
    command: fn(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Command>,
}

/// All of them. The ratios are to the first.
pub(crate) const ALL: [Candidate; 2] = [
    Candidate { name: "bare pingora", limits: false, command: bare::command },
    Candidate { name: "sendly-gateway", limits: true, command: sendly_gateway },
];

/// The binary as it ships, with the configuration that ships; its access log goes to `/dev/null`.
fn sendly_gateway(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sendly-gateway"));
    command.args(["run", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml")]);
    for (key, value) in [
        ("LISTEN", listen.to_string()),
        ("ADMIN_LISTEN", free_address()?.to_string()),
        ("UPSTREAM_URL", format!("http://{upstream}")),
        ("WORKERS", "1".to_owned()),
        // A visit has ten thousands of phones, and a run many visits.
        ("MEMORY_MAX_KEYS", "20000000".to_owned()),
        ("MEMORY_MAX_VERIFICATIONS", "20000000".to_owned()),
    ] {
        command.env(format!("SENDLY_GATEWAY_{key}"), value);
    }
    Ok(command)
}

/// A proxy that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) candidate: &'static Candidate,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Running {
    /// Starts a proxy and waits until it takes connections.
    pub(crate) async fn start(candidate: &'static Candidate, upstream: SocketAddr, cores: &Cores) -> io::Result<Self> {
        let address = free_address()?;
        let mut command = cores.pinned(&(candidate.command)(address, upstream)?);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut running = Self { candidate, address, child };
        for _ in 0..500 {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(running);
            }
            if let Some(status) = running.child.try_wait()? {
                return Err(io::Error::other(format!("{} ended: {status}", candidate.name)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(io::Error::other(format!("{} takes no connections", candidate.name)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that it has used, in user space and in the kernel.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        // proc_pid_stat(5). The second field is a name in parentheses, and may hold anything.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(TICK * u32::try_from(ticks).map_err(io::Error::other)?)
    }
}

/// 100 a second, on every architecture of Linux that this runs on (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine that nobody listens on: at least, nobody did a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
