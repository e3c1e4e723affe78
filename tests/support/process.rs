//! The program itself, as a process: what it says, how it is told to stop, how it ends.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use crate::client::{Answer, Wire};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sendly-gateway");

/// Long enough for a machine that is busy, and shorter than the time that requests are given to end by default.
const PATIENCE: Duration = Duration::from_secs(20);

/// Variables that are not the configuration's: a debug build lets a test stop a hand-over, set the wall clock, boot the machine anew; and
/// what a wall clock needs that is set while the program runs.
const FOR_TESTS: [&str; 5] = ["HAND_OVER_STOPS_AT", "WALL_CLOCK_AHEAD", "BOOT", "LD_PRELOAD", "CLOCK"];

/// A running program. It is killed when this is dropped.
pub(crate) struct Process {
    pid: u32,
    out: watch::Receiver<String>,
    err: watch::Receiver<String>,
    /// Its exit code once it has ended; -1 where a signal ended it.
    ended: watch::Receiver<Option<i32>>,
}

impl Process {
    /// Starts it with these arguments, and these variables after `SENDLY_GATEWAY_`. Where nothing else is said, it listens where
    /// the system likes.
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_program(PROGRAM, arguments, variables)
    }

    /// The same of another program.
    pub(crate) fn start_program(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(program), arguments, variables, None)
    }

    fn spawn(mut command: Command, arguments: &[&str], variables: &[(&str, &str)], pause: Option<Pause>) -> Self {
        let anywhere = [("LISTEN", "127.0.0.1:0"), ("ADMIN_LISTEN", "127.0.0.1:0")];
        for (name, value) in anywhere.iter().chain(variables) {
            let prefix = if FOR_TESTS.contains(name) { "" } else { "SENDLY_GATEWAY_" };
            command.env(format!("{prefix}{name}"), value);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, reading_out) = follow(child.stdout.take().unwrap(), None);
        let (err, reading_err) = follow(child.stderr.take().unwrap(), pause);
        let (sender, ended) = watch::channel(None);
        let pid = child.id();
        thread::spawn(move || {
            let status = child.wait().unwrap();
            // All that it said has been read when its end is known.
            reading_out.join().unwrap();
            reading_err.join().unwrap();
            sender.send_replace(Some(status.code().unwrap_or(-1)));
        });
        Self { pid, out, err, ended }
    }

    /// A gateway before this upstream, once it serves.
    pub(crate) async fn gateway(config: &str, upstream: &str, variables: &[(&str, &str)]) -> Serving {
        let file = config_file(config);
        let mut all = vec![("UPSTREAM_URL", upstream)];
        all.extend(variables);
        Serving::of(Self::start(&["run", "--config", &file], &all)).await
    }

    /// A gateway whose standard error nobody reads once it serves, until what is returned beside it is dropped.
    pub(crate) async fn unread_gateway(config: &str, upstream: &str) -> (Serving, mpsc::Sender<()>) {
        let file = config_file(config);
        let (unread, may_read) = mpsc::channel();
        let pause = Pause { at: "serving", may_read };
        let arguments = ["run", "--config", &file];
        let process = Self::spawn(Command::new(PROGRAM), &arguments, &[("UPSTREAM_URL", upstream)], Some(pause));
        (Serving::of(process).await, unread)
    }

    /// A gateway that may open so many files.
    pub(crate) async fn gateway_with_descriptors(config: &str, upstream: &str, most: u32) -> Serving {
        let file = config_file(config);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\""), PROGRAM]);
        Serving::of(Self::spawn(shell, &["run", "--config", &file], &[("UPSTREAM_URL", upstream)], None)).await
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid
    }

    pub(crate) fn out(&self) -> String {
        self.out.borrow().clone()
    }

    pub(crate) fn err(&self) -> String {
        self.err.borrow().clone()
    }

    /// Waits until it has said this on standard output.
    pub(crate) async fn says(&self, text: &str) {
        wait_for(self.out.clone(), text, |out| out.contains(text)).await;
    }

    /// Waits until it has said this on standard error.
    pub(crate) async fn logs(&self, text: &str) {
        wait_for(self.err.clone(), text, |err| err.contains(text)).await;
    }

    /// Waits until so many lines on standard error have this in them, and returns them.
    pub(crate) async fn lines(&self, text: &str, many: usize) -> Vec<String> {
        let with = |err: &str| -> Vec<String> {
            let whole = err.rfind('\n').map_or("", |end| &err[..end]);
            whole.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
        };
        with(&wait_for(self.err.clone(), text, |err| with(err).len() >= many).await)
    }

    /// Waits until it is stopped, as by SIGSTOP.
    pub(crate) async fn is_stopped(&self) {
        let is_stopped = async {
            loop {
                let state = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
                if state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, is_stopped).await.unwrap_or_else(|_| panic!("it goes on:\n{}", self.err()));
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(self.signal_if_there(name));
    }

    /// The same, where it may have ended. Returns whether it was there.
    pub(crate) fn signal_if_there(&self, name: &str) -> bool {
        let kill = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.pid)).status().unwrap();
        kill.success()
    }

    /// Lets it go on, if it is there and was stopped.
    pub(crate) fn goes_on(&self) {
        let _ = Command::new("sh").arg("-c").arg(format!("kill -CONT {} 2>&-", self.pid)).status();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until it has ended, and returns its exit code.
    pub(crate) async fn code(&self) -> i32 {
        let mut ended = self.ended.clone();
        let code = tokio::time::timeout(PATIENCE, ended.wait_for(Option::is_some)).await;
        code.unwrap_or_else(|_| panic!("it does not end:\n{}", self.err())).unwrap().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.borrow().is_none() {
            // It may just have ended by itself.
            let kill = format!("kill -KILL {} 2>&-", self.pid);
            let _ = Command::new("sh").arg("-c").arg(kill).status();
        }
    }
}

/// When to stop reading, and until when.
struct Pause {
    at: &'static str,
    may_read: mpsc::Receiver<()>,
}

/// Reads a stream to its end.
fn follow(
    mut stream: impl Read + Send + 'static,
    mut pause: Option<Pause>,
) -> (watch::Receiver<String>, thread::JoinHandle<()>) {
    let (sender, receiver) = watch::channel(String::new());
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..read]);
            // A character may still be on its way.
            let whole = bytes.utf8_chunks().map(|chunk| chunk.valid().len()).next().unwrap_or(0);
            let text: Vec<u8> = bytes.drain(..whole).collect();
            sender.send_modify(|all| all.push_str(std::str::from_utf8(&text).unwrap()));
            if let Some(Pause { may_read, .. }) = pause.take_if(|pause| sender.borrow().contains(pause.at)) {
                // An error is the end of the pause.
                let _ = may_read.recv();
            }
        }
    });
    (receiver, reading)
}

async fn wait_for(mut said: watch::Receiver<String>, what: &str, is_so: impl Fn(&str) -> bool) -> String {
    let waiting = tokio::time::timeout(PATIENCE, said.wait_for(|said| is_so(said))).await;
    if let Ok(Ok(said)) = waiting.map(|said| said.map(|said| said.clone())) {
        return said;
    }
    panic!("{what:?} is not in\n{}", *said.borrow())
}

/// A configuration in a file of its own.
pub(crate) fn config_file(text: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("{}-{}.toml", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A gateway that serves.
pub(crate) struct Serving {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Serving {
    pub(crate) async fn of(process: Process) -> Self {
        let line = process.lines("serving", 1).await.remove(0);
        // `"address":"127.0.0.1:1"` or `address=127.0.0.1:1`, with or without colours.
        let after = |name: &str| -> SocketAddr {
            let rest = &line[line.find(name).unwrap() + name.len()..];
            let start = rest.find("127.").unwrap();
            let end = rest[start..].find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':')));
            rest[start..][..end.unwrap_or(rest.len() - start)].parse().unwrap()
        };
        Self { address: after("address"), admin: after("admin"), process }
    }

    pub(crate) async fn connect(&self) -> Wire {
        Wire::connect(self.address).await
    }

    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut wire = self.connect().await;
        wire.request(method, target, headers, body.as_bytes()).await;
        wire.answer().await.expect("the connection ends without an answer")
    }

    /// Waits until its metrics have this line.
    pub(crate) async fn until_it_exposes(&self, line: &str) {
        let line = format!("sendly_gateway_{line}");
        let asking = async {
            while !String::from_utf8(self.admin("/metrics").await.body).unwrap().lines().any(|other| other == line) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{line} does not come"));
    }

    pub(crate) async fn admin(&self, path: &str) -> Answer {
        let mut wire = Wire::connect(self.admin).await;
        wire.request("GET", path, &[], b"").await;
        wire.answer().await.expect("the connection ends without an answer")
    }
}
