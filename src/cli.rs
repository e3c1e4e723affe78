//! The command line: what can be asked of the program, and how it ends.

mod ask;
mod run;
mod signals;
mod table;
mod verbs;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::clock::Clock;
use crate::config::{Config, Log, LogFormat, Mistakes};
use crate::log;
use crate::sandbox::{self, Sandbox};
use crate::server;
use signals::{SignalRequest, Signals};

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
    Run(run::Run),
    /// Read a configuration, name every mistake in it, and exit: 0 if there is none, 64 if there is.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the hash by which the gateway knows an API key: for accounts.allow, and to find a key in logs. The key is read from standard
    /// input or a file, since others can read a command line.
    Account {
        /// The configuration that has the hash_key.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The file that holds the key, instead of standard input.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Print the hash; there is nothing else to print.
        #[arg(long)]
        hash: bool,
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
    /// Show the phone and the cooldown of a verification.
    Verification(verbs::OfVerification),
    /// Phones that no limit refuses.
    #[command(subcommand)]
    Exempt(verbs::Exempt),
    /// Starts a successor for the gateway that runs this.
    #[command(hide = true)]
    StartSuccessor(run::StartSuccessor),
}

/// How the program ends early: what to say, and with which code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn usage(message: impl ToString) -> Self {
        Self { code: USAGE, message: message.to_string() }
    }

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
        Command::Run(run) => run::run(&run),
        Command::Check { config } => check(&config),
        Command::Account { config, key_file, .. } => account(&config, key_file.as_deref()),
        Command::Sandbox { listen, limits } => run_sandbox(listen, limits),
        Command::Health(whereabouts) => verbs::health(&whereabouts),
        Command::Status(target) => verbs::status(&target),
        Command::Phone(asked) => verbs::of_phone(&asked),
        Command::Verification(asked) => verbs::of_verification(&asked),
        Command::Exempt(asked) => verbs::exempt(&asked),
        Command::StartSuccessor(start) => start.run(),
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
    for warning in &config.warnings {
        say(&format!("warning: {warning}\n"))?;
    }
    // What it names may be there and yet be of no use.
    let unusable = server::examine(&config);
    if !unusable.is_empty() {
        let lines: Vec<_> = unusable.iter().map(|mistake| format!("{}: {mistake}", file.display())).collect();
        return Err(Failure::usage(lines.join("\n")));
    }
    say(&format!(
        "{}: {} limits, {} throttles, no mistake\n",
        file.display(),
        config.limits.len(),
        config.throttles.len()
    ))
}

fn account(config: &Path, key_file: Option<&Path>) -> Result<(), Failure> {
    let config = Config::load(config, environment())?;
    if config.hash_key.is_drawn() {
        return Err(Failure::usage("there is no hash_key: each start draws another one, and no hash outlives it"));
    }
    let key = match key_file {
        Some(file) => fs::read_to_string(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display()))),
        None => io::read_to_string(io::stdin()).map_err(|error| Failure::usage(format!("standard input: {error}"))),
    }?;
    let key = key.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage("expected one API key, without Bearer and without spaces"));
    }
    say(&format!("{:032x}\n", config.hash_key.account(key.as_bytes()).bits()))
}

fn run_sandbox(listen: SocketAddr, limits: bool) -> Result<(), Failure> {
    let clock = Clock::system();
    let log = Log { filter: "info".to_owned(), format: LogFormat::Text, access: true };
    let _log = log::start(&log, clock.clone()).map_err(Failure::unavailable)?;
    runtime(1)?.block_on(async {
        let listener =
            TcpListener::bind(listen).await.map_err(|error| Failure::unavailable(format!("{listen}: {error}")))?;
        let sandbox = Arc::new(Sandbox::new(sandbox::Options { limits, ..sandbox::Options::default() }));
        let mut signals = Signals::new()?;
        tracing::info!(address = %listener.local_addr().map_err(Failure::unavailable)?, limits, "sandbox Sendly");
        sandbox::serve(listener, sandbox, clock, async move {
            while !matches!(signals.next().await, SignalRequest::Stop(_)) {}
        })
        .await;
        Ok(())
    })
}

fn runtime(workers: usize) -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).thread_name("worker").enable_all();
    builder.build().map_err(Failure::unavailable)
}

fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::unavailable)
}
