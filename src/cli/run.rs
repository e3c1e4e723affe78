//! `run`: a gateway, from its configuration to its end.

mod spawn;
mod successor;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use clap::Args;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::signals::{SignalRequest, Signals, Stop};
use super::{Failure, environment, runtime, say};
use crate::clock::Clock;
use crate::config::{Config, Origin};
use crate::handover::{Attempt, Waiting};
use crate::log;
use crate::reload::{self, Loaded, Source};
use crate::sandbox::{self, Sandbox};
use crate::server::{self, Running, Sockets};
use crate::systemd::{self, Notice};
pub(super) use spawn::StartSuccessor;
use successor::Successor;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The configuration.
    #[arg(long, value_name = "FILE", required_unless_present = "sandbox")]
    config: Option<PathBuf>,
    /// Put a sandbox Sendly behind the gateway, inside this process: no account, no cost.
    #[arg(long)]
    sandbox: bool,
    /// Where clients connect, instead of what the configuration says.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Wait for a gateway that runs to be told to hand over (SIGQUIT), and take over its sockets and its counts.
    #[arg(long, conflicts_with = "sandbox")]
    upgrade: bool,
}

/// Where a gateway's sockets come from.
enum From {
    Here(Sockets),
    /// Another process, once it comes.
    There(Waiting),
}

/// Serves until it is told to stop, or another process has taken over.
pub(super) fn run(run: &Run) -> Result<(), Failure> {
    let successor = Successor::of_this_process(run.config.clone());
    let mut source = Source::new(run.config.clone(), environment());
    (source.listen, source.is_sandbox) = (run.listen, run.sandbox);
    let Loaded { config, marks, .. } = source.load();
    let mut config = config?;
    let clock = Clock::system();
    // To the end, so that all of it is written then.
    let _log = log::start(&config.log, clock.clone()).map_err(Failure::unavailable)?;
    let from = match (&config.upgrade.socket, run.upgrade) {
        (_, false) => From::Here(Sockets::bind(&config).map_err(Failure::unavailable)?),
        (Some(socket), true) => From::There(Waiting::at(socket).map_err(Failure::unavailable)?),
        (None, true) => {
            return Err(Failure::usage("upgrade.socket: --upgrade needs it, to meet the gateway that runs"));
        }
    };
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
            started = start(config, from, clock) => started?,
            _ = signals.stop() => return Ok(()),
        };
        tracing::info!(address = %running.address, admin = %running.admin_address, "serving");
        for warning in &running.reload().config().warnings {
            tracing::warn!(warning, "the configuration is allowed, and likely not meant");
        }
        systemd::tell(Notice::Ready);
        if run.sandbox {
            say(&welcome(running.address, running.admin_address))?;
        }
        let reload = running.reload().clone();
        if let Some(hup) = hup {
            tokio::spawn(reload::follow(source, marks, reload, hup));
        }
        serve(running, &mut signals, &successor).await;
        Ok(())
    });
    // Dropping it would wait for a name that is being looked up, for as long as that takes.
    runtime.shutdown_background();
    served
}

async fn start(config: Config, from: From, clock: Clock) -> Result<Running, Failure> {
    match from {
        From::Here(sockets) => server::start(config, sockets, clock).await,
        From::There(waiting) => {
            tracing::info!("waiting for the gateway that runs: send it SIGQUIT");
            let estate = spawn_blocking(move || waiting.estate()).await.map_err(Failure::unavailable)?;
            let estate = estate.map_err(Failure::unavailable)?;
            tracing::info!(process = estate.process(), "taking over");
            server::take_over(config, estate, clock).await
        }
    }
    .map_err(Failure::unavailable)
}

/// Until its end.
async fn serve(running: Running, signals: &mut Signals, successor: &Successor) {
    let stop = loop {
        match signals.next().await {
            SignalRequest::Stop(stop) => break Some(stop),
            SignalRequest::HandOver => match hand_over(&running, signals, successor).await {
                (Ok(process), stop) => {
                    tracing::info!(process, "another process has taken over");
                    systemd::tell(Notice::Succeeded(process));
                    // With TERM this process ends by itself, too, once its clients have gone.
                    break stop.filter(|stop| *stop == Stop::Now);
                }
                (Err(error), stop) => {
                    tracing::error!(error, "nobody has taken over: this process goes on");
                    if stop.is_some() {
                        break stop;
                    }
                }
            },
        }
    };
    let patience = running.reload().config().drain_timeout;
    let gateway = Arc::clone(running.gateway());
    match stop {
        Some(Stop::Now) => {
            systemd::tell(Notice::Stopping);
            // What is charged after the folder is closed would be known to nobody, and the code might go out all the same.
            gateway.gate.stop_judging().await;
        }
        Some(Stop::WhenIdle) => {
            systemd::tell(Notice::Stopping);
            if delay_drain(&running, signals).await == Stop::Now {
                gateway.gate.stop_judging().await;
                return tracing::warn!("stopped at once, by a second signal");
            }
            let drained = running.drain(patience);
            tracing::info!("draining");
            tokio::select! {
                left = drained => match left {
                    0 => tracing::info!("stopped"),
                    left => tracing::warn!(left, "stopped with requests in flight: their charges stay"),
                },
                () = async { signals.stop().await; gateway.gate.stop_judging().await } => {
                    tracing::warn!("stopped at once, by a second signal");
                }
            }
        }
        None => tokio::select! {
            left = running.leave(patience) => tracing::info!(connections = left, "stopped"),
            () = signals.stop_now() => tracing::warn!("stopped at once, by another signal"),
        },
    }
}

/// Takes connections for `drain_delay` more, so that whoever sends them learns first that this process is not ready. Returns how to stop
/// then: a signal ends the delay.
async fn delay_drain(running: &Running, signals: &mut Signals) -> Stop {
    let delay = running.reload().config().drain_delay;
    if delay.is_zero() {
        return Stop::WhenIdle;
    }
    running.withdraw();
    tracing::info!(?delay, "not ready: connections are taken until the drain begins");
    let mut over = pin!(sleep(delay));
    loop {
        tokio::select! {
            () = &mut over => return Stop::WhenIdle,
            asked = signals.next() => match asked {
                SignalRequest::Stop(stop) => return stop,
                // The supervisor was told that it stops, and the endpoint may be gone already.
                SignalRequest::HandOver => tracing::warn!("QUIT: this process is stopping, and hands nothing over"),
            },
        }
    }
}

/// Hands over. A signal that stops the process breaks that off, for as long as there is a way back. Returns which process has taken over,
/// or why none has; and when to stop, if that was asked for meanwhile.
async fn hand_over(
    running: &Running,
    signals: &mut Signals,
    successor: &Successor,
) -> (Result<u32, String>, Option<Stop>) {
    let (attempt, mut stop) = (Attempt::default(), None);
    let mut taking = pin!(successor.take_over_from(running, &attempt));
    loop {
        tokio::select! {
            taken = &mut taking => return (taken, stop),
            asked = signals.next() => match asked {
                SignalRequest::Stop(when) => {
                    attempt.break_off("this process was told to stop");
                    // The sooner of both.
                    stop = if stop == Some(Stop::Now) { stop } else { Some(when) };
                }
                SignalRequest::HandOver => tracing::warn!("QUIT: a hand-over is under way already"),
            },
        }
    }
}

/// A sandbox on a free port of this machine, for as long as the process lives.
async fn start_sandbox(clock: &Clock) -> Result<Origin, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Failure::unavailable)?;
    let address = listener.local_addr().map_err(Failure::unavailable)?;
    let sandbox = Arc::new(Sandbox::new(sandbox::Options::default()));
    tokio::spawn(sandbox::serve(listener, sandbox, clock.clone(), std::future::pending()));
    Ok(Origin { tls: false, host: address.ip().to_string(), port: address.port() })
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
