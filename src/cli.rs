//! The command line: what can be asked of the program, and how it ends.

mod ask;
mod table;
mod verbs;

use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::Clock;
use crate::config::{Config, Log, LogFormat, Mistakes, Origin};
use crate::reload::{self, Loaded, Source};
use crate::sandbox::{self, Sandbox};
use crate::server::{self, Sockets};
use crate::supervisor::{self, State};
use crate::telemetry;

/// The command line or the configuration is wrong (`EX_USAGE` of sysexits).
const USAGE: u8 = 64;

/// It cannot serve: a socket, a certificate, a name (`EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;

/// Exact, cost-aware rate limiting in front of the Sendly API.
#[derive(Debug, Parser)]
#[command(name = "sendly-gateway", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve.
    Run(Run),
    /// Read a configuration, name every mistake in it, and exit: 0 if there is none, 64 if there is.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a sandbox Sendly alone: its API on this machine, without a phone network.
    Sandbox {
        /// Where it listens.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
        listen: SocketAddr,
        /// Enforce Sendly's own limits too.
        #[arg(long)]
        limits: bool,
    },
    /// Whether a gateway that runs wants traffic: exit 0 if it does, 69 if not. For a container's health check.
    Health(ask::Where),
    /// What a gateway does now and did in the last hour.
    Status(ask::Target),
    /// How a phone stands with each limit; or, with --clear, give it all its limits again.
    Phone(verbs::OfPhone),
    /// Whose a verification is, and its cooldown.
    Verification(verbs::OfVerification),
    /// Phones that no limit refuses.
    #[command(subcommand)]
    Exempt(verbs::Exempt),
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration.
    #[arg(long, value_name = "FILE", required_unless_present = "sandbox")]
    config: Option<PathBuf>,
    /// Put a sandbox Sendly behind the gateway, inside this process: no account, no cost.
    #[arg(long)]
    sandbox: bool,
    /// Where clients connect, instead of what the configuration says.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

/// How the program ends early: what to say, and with which code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn unavailable(message: impl ToString) -> Self {
        Self { code: UNAVAILABLE, message: message.to_string() }
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self { code: USAGE, message: mistakes.to_string() }
    }
}

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(help) => {
            // Nothing is left to tell of if even this cannot be written.
            let _ = help.print();
            return if help.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let done = match arguments.command {
        Command::Run(run) => self::run(&run),
        Command::Check { config } => check(&config),
        Command::Sandbox { listen, limits } => run_sandbox(listen, limits),
        Command::Health(whereabouts) => verbs::health(&whereabouts),
        Command::Status(target) => verbs::status(&target),
        Command::Phone(asked) => verbs::of_phone(&asked),
        Command::Verification(asked) => verbs::of_verification(&asked),
        Command::Exempt(asked) => verbs::exempt(&asked),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            let _ = writeln!(io::stderr(), "{message}");
            code.into()
        }
    }
}

/// The variables of the environment that a configuration may be read from; one that is not UTF-8 cannot be meant for this program.
fn environment() -> impl Iterator<Item = (String, String)> {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, _)| name != ask::URL)
}

fn check(file: &Path) -> Result<(), Failure> {
    let config = Config::load(file, environment())?;
    say(&format!(
        "{}: {} limits, {} throttles, no mistake\n",
        file.display(),
        config.limits.len(),
        config.throttles.len()
    ))
}

fn run(run: &Run) -> Result<(), Failure> {
    let mut source = Source::new(run.config.clone(), environment());
    (source.listen, source.is_sandbox) = (run.listen, run.sandbox);
    let Loaded { config, marks, .. } = source.load();
    let mut config = config?;
    let clock = Clock::system();
    telemetry::start(&config.log, clock.clone()).map_err(Failure::unavailable)?;
    let sockets = Sockets::bind(&config).map_err(Failure::unavailable)?;
    let runtime = runtime(config.workers)?;
    let served = runtime.block_on(async {
        if run.sandbox {
            config.upstream.origin = start_sandbox(&clock).await?;
            source.upstream = Some(config.upstream.origin.clone());
        }
        let mut signals = Signals::new()?;
        // Heard from now on, and answered once it serves.
        let hup = signals.hup.take();
        let running = tokio::select! {
            started = server::start(config, sockets, clock) => started.map_err(Failure::unavailable)?,
            _ = signals.stop() => return Ok(()),
        };
        tracing::info!(address = %running.address, admin = %running.admin_address, "serving");
        supervisor::tell(State::Ready);
        if run.sandbox {
            say(&welcome(running.address, running.admin_address))?;
        }
        let reload = running.reload().clone();
        if let Some(hup) = hup {
            tokio::spawn(reload::follow(source, marks, reload.clone(), hup));
        }
        let stop = signals.stop().await;
        supervisor::tell(State::Stopping);
        if stop == Stop::Now {
            return Ok(());
        }
        let drained = running.drain(reload.config().drain_timeout);
        tracing::info!("draining");
        tokio::select! {
            left = drained => match left {
                0 => tracing::info!("stopped"),
                left => tracing::warn!(left, "stopped with requests in flight: their charges stay"),
            },
            _ = signals.stop() => tracing::warn!("stopped at once, by a second signal"),
        }
        Ok(())
    });
    // Dropping it would wait for a name that is being looked up, for as long as that takes.
    runtime.shutdown_background();
    served
}

fn run_sandbox(listen: SocketAddr, limits: bool) -> Result<(), Failure> {
    let clock = Clock::system();
    let log = Log { filter: "info".to_owned(), format: LogFormat::Text, access: true };
    telemetry::start(&log, clock.clone()).map_err(Failure::unavailable)?;
    runtime(1)?.block_on(async {
        let listener =
            TcpListener::bind(listen).await.map_err(|error| Failure::unavailable(format!("{listen}: {error}")))?;
        let sandbox = Arc::new(Sandbox::new(sandbox::Options { limits, ..sandbox::Options::default() }));
        let mut signals = Signals::new()?;
        tracing::info!(address = %listener.local_addr().map_err(Failure::unavailable)?, limits, "sandbox Sendly");
        sandbox::serve(listener, sandbox, clock, async move {
            signals.stop().await;
        })
        .await;
        Ok(())
    })
}

/// A sandbox on a free port of this machine, for as long as the process lives.
async fn start_sandbox(clock: &Clock) -> Result<Origin, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Failure::unavailable)?;
    let address = listener.local_addr().map_err(Failure::unavailable)?;
    let sandbox = Arc::new(Sandbox::new(sandbox::Options::default()));
    tokio::spawn(sandbox::serve(listener, sandbox, clock.clone(), std::future::pending()));
    Ok(Origin { tls: false, host: address.ip().to_string(), port: address.port() })
}

fn runtime(workers: usize) -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).thread_name("worker").enable_all();
    builder.build().map_err(Failure::unavailable)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Now,
    WhenIdle,
}

/// What tells the process to stop.
struct Signals {
    term: Signal,
    int: Signal,
    /// Until somebody else hears it.
    hup: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::unavailable);
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: Some(listen(SignalKind::hangup())?),
        })
    }

    async fn stop(&mut self) -> Stop {
        loop {
            tokio::select! {
                _ = self.term.recv() => return Stop::WhenIdle,
                _ = self.int.recv() => return Stop::Now,
                // Unhandled it would end the process.
                Some(()) = next(&mut self.hup) => tracing::warn!("HUP: there is nothing to load"),
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

fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::unavailable)
}

/// The lines to try, as they can be pasted.
fn welcome(address: SocketAddr, admin: SocketAddr) -> String {
    format!(
        r#"
sendly-gateway listens on http://{address}, with a sandbox Sendly behind it. No SMS is sent, and nothing costs anything.
An SDK is pointed at it by its base URL: http://{address}/api/v1 (any key that starts with sk_test_v1_ will do).

Send a code (the sandbox shows it as sandbox_code):

  curl -s http://{address}/api/v1/verify -H 'Authorization: Bearer sk_test_v1_demo' \
    -H 'Content-Type: application/json' -d '{{"to":"+15550100123"}}'

Send five more: the last one is refused, with 429 and the seconds to wait.

  for i in 1 2 3 4 5; do curl -si http://{address}/api/v1/verify -H 'Authorization: Bearer sk_test_v1_demo' \
    -H 'Content-Type: application/json' -d '{{"to":"+15550100123"}}'; echo; echo; done

What the gateway counted:

  curl -s http://{admin}/metrics | grep -E 'requests_total|decisions_total' | grep -v ' 0$'

The same, to look at: http://{admin}/. Ctrl-C stops it.

"#
    )
}
