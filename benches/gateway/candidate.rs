//! Who is measured: a proxy in processes of its own, on cores of its own where there are enough.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cores::{Cores, doing};
use crate::{bare, peers};

/// A proxy, and how it is started. Another one is another entry in [`ALL`].
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    /// What its refusals of sends and of resends say; `None` for one that does not limit, lets all through, and is measured for
    /// scale. None of them limits what passes through.
    pub(crate) refusal: Option<&'static str>,
    /// The command that serves such a site. `NotFound` if the program is not on this machine.
    command: fn(&Site) -> io::Result<Command>,
}

/// The first is what all are held against, and so is [`HAPROXY`].
pub(crate) const ALL: [Candidate; 5] = [
    Candidate { name: BARE, refusal: None, command: bare::command },
    Candidate { name: HAPROXY, refusal: TELLS_THE_WAIT, command: peers::haproxy },
    Candidate { name: "nginx + Lua", refusal: TELLS_THE_WAIT, command: peers::nginx },
    Candidate { name: "Envoy (approximate)", refusal: Some("local_rate_limited"), command: peers::envoy },
    Candidate { name: GATEWAY, refusal: TELLS_THE_WAIT, command: sendly_gateway },
];

pub(crate) const BARE: &str = "bare pingora";
pub(crate) const HAPROXY: &str = "HAProxy";
pub(crate) const GATEWAY: &str = "sendly-gateway";
const TELLS_THE_WAIT: Option<&str> = Some("\"retryAfter\":");

/// The gateway, where only it is measured.
pub(crate) const OURS: &Candidate = &ALL[4];

/// What a proxy is to serve, and how.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) listen: SocketAddr,
    /// Where the gateway's operators ask.
    pub(crate) admin: SocketAddr,
    pub(crate) upstream: SocketAddr,
    pub(crate) workers: usize,
    /// Whether peers write an access log too.
    pub(crate) logged: bool,
    /// How many clients there will be at once. Where an idle connection to the upstream has no room in a pool, it is closed, and a
    /// benchmark is soon out of ports.
    pub(crate) connections: usize,
    /// The longest body of a send, in bytes.
    pub(crate) body: usize,
    /// What the gateway's settings are besides those here, and instead of them: by the names of environment variables.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// The gateway's limits, as TOML, instead of those that it comes with.
    pub(crate) limits: Option<String>,
    /// A folder of its own.
    pub(crate) scratch: PathBuf,
}

impl Site {
    /// Free addresses in front of this upstream, with one worker.
    pub(crate) fn before(upstream: SocketAddr) -> io::Result<Self> {
        let (listen, admin) = free_addresses()?;
        let scratch =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}-{}", std::process::id(), listen.port()));
        let (settings, limits) = (Vec::new(), None);
        Ok(Self {
            listen,
            admin,
            upstream,
            workers: 1,
            logged: false,
            connections: 64,
            body: 4096,
            settings,
            limits,
            scratch,
        })
    }
}

impl Site {
    /// Idle connections to the upstream to be kept: the gateway's default, or more where there are more clients.
    pub(crate) fn pool(&self) -> usize {
        self.connections.next_power_of_two().max(128)
    }
}

/// The binary as it ships, with the configuration that ships; its access log goes to `/dev/null`.
fn sendly_gateway(site: &Site) -> io::Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sendly-gateway"));
    let mut config = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml"));
    if let Some(limits) = &site.limits {
        config = site.scratch.join("gateway.toml");
        fs::write(&config, limits)?;
    }
    command.args(["run", "--config"]).arg(config);
    for (key, value) in [
        ("LISTEN", site.listen.to_string()),
        ("ADMIN_LISTEN", site.admin.to_string()),
        ("UPSTREAM_URL", format!("http://{}", site.upstream)),
        ("WORKERS", site.workers.to_string()),
        ("UPSTREAM_MAX_IDLE", site.pool().to_string()),
        // A visit has ten thousands of phones, and a run many visits.
        ("MEMORY_MAX_KEYS", "20000000".to_owned()),
        ("MEMORY_MAX_VERIFICATIONS", "20000000".to_owned()),
    ]
    .into_iter()
    .chain(site.settings.clone())
    {
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
    scratch: PathBuf,
}

impl Running {
    /// Starts a proxy.
    pub(crate) fn spawn(candidate: &'static Candidate, site: &Site, cores: &Cores) -> io::Result<Self> {
        fs::create_dir_all(&site.scratch)?;
        let mut command = cores.pinned(&(candidate.command)(site)?, site.workers);
        command.current_dir(&site.scratch).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { candidate, address: site.listen, child: command.spawn()?, scratch: site.scratch.clone() })
    }

    /// Starts a proxy and waits until it takes connections.
    pub(crate) fn start(candidate: &'static Candidate, site: &Site, cores: &Cores) -> io::Result<Self> {
        let mut running = Self::spawn(candidate, site, cores).map_err(doing(candidate.name))?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if TcpStream::connect(running.address).is_ok() {
                return Ok(running);
            }
            if let Some(status) = running.child.try_wait()? {
                return Err(io::Error::other(format!("{} ended: {status}", candidate.name)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other(format!("{} takes no connections", candidate.name)))
    }

    /// The CPU time that all its processes have used, in user space and in the kernel.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        family(self.child.id()).into_iter().map(ticks).sum::<io::Result<u32>>().map(|ticks| TICK * ticks)
    }

    /// How long its threads could have run, if others had not been on its core.
    pub(crate) fn waited(&self) -> Duration {
        family(self.child.id()).into_iter().map(waited).sum()
    }

    /// The memory that all its processes have, in bytes; of what they share, each has its part.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        family(self.child.id()).into_iter().map(memory).sum()
    }
}

/// 100 a second, on every architecture of Linux that this runs on (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);

/// The CPU time of this process, which is load and upstream.
pub(crate) fn own_cpu() -> io::Result<Duration> {
    ticks(std::process::id()).map(|ticks| TICK * ticks)
}

/// A process and all that it started.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(family);
    std::iter::once(pid).chain(children).collect()
}

fn ticks(pid: u32) -> io::Result<u32> {
    // proc_pid_stat(5). The second field is a name in parentheses, and may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    Ok(fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum())
}

fn waited(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waited = threads.filter_map(|thread| {
        // Nanoseconds on a core, nanoseconds in the queue before it, and turns.
        let schedule = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedule.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
    });
    waited.sum()
}

fn memory(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let part = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
    part.and_then(|part| part.parse::<u64>().ok()).map(|part| part * 1024).ok_or(io::ErrorKind::InvalidData.into())
}

impl Drop for Running {
    fn drop(&mut self) {
        // A master's workers would outlive it. Any of them may have ended by itself; either way it is gone after this.
        for pid in family(self.child.id()) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Two addresses of this machine that nobody listens on: at least, nobody did a moment ago.
pub(crate) fn free_addresses() -> io::Result<(SocketAddr, SocketAddr)> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let both = (listen()?, listen()?);
    Ok((both.0.local_addr()?, both.1.local_addr()?))
}
