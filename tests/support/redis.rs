//! A `redis-server` of a test's own: on a free port of 127.0.0.1, in a folder of its own, gone when the test is. `REDIS_SERVER` names
//! another program, such as a Valkey's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Long enough for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a program and ends it when nobody holds its standard input any more: also if the test is killed.
const WATCHED: &str = r#"
"$@" 2>&1 </dev/null &
pid=$!
echo "pid $pid"
exec >/dev/null
read -r _
kill -CONT $pid 2>/dev/null
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
"#;

pub(crate) struct Server {
    pub(crate) port: u16,
    program: String,
    arguments: Vec<String>,
    folder: PathBuf,
    running: Option<(Child, u32)>,
}

/// Somebody else listens there.
#[derive(Debug)]
struct PortTaken;

impl Server {
    /// A server that saves nothing, with these arguments besides.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        // A port that was free may be somebody's connection by now. Then it is another one.
        let tries = (0..10).map(|_| Self::stopped(program(), free_port(), arguments));
        let started = tries.filter_map(|mut server| server.try_to_run().is_ok().then_some(server)).next();
        started.expect("no port is free")
    }

    pub(crate) fn start_on(port: u16, arguments: &[&str]) -> Self {
        let mut server = Self::stopped(program(), port, arguments);
        server.run();
        server
    }

    /// A server whose clock a test sets (`clock.c`).
    pub(crate) fn with_clock() -> Self {
        let tries = (0..10).map(|_| {
            let mut server = Self::stopped("env".to_owned(), free_port(), &[]);
            std::fs::write(server.clock_file(), [0; 8]).unwrap();
            let library = server.folder.join("clock.so");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
            let compiled =
                Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
            assert!(compiled.expect("cc is missing: scripts/setup installs it").success());
            let preloaded = format!("LD_PRELOAD={}", library.display());
            let file = format!("CLOCK={}", server.clock_file().display());
            server.arguments.splice(0..0, [preloaded, file, program()]);
            server
        });
        let started = tries.filter_map(|mut server| server.try_to_run().is_ok().then_some(server)).next();
        started.expect("no port is free")
    }

    /// Sets the clock of such a server: how far it is ahead of this machine's, in seconds.
    pub(crate) fn set_clock(&self, ahead: i64) {
        let micros = (ahead * 1_000_000).to_ne_bytes();
        // It is mapped there: it must neither be cut nor replaced.
        let mut file = std::fs::OpenOptions::new().write(true).open(self.clock_file()).unwrap();
        file.write_all(&micros).unwrap();
    }

    fn clock_file(&self) -> PathBuf {
        self.folder.join("clock")
    }

    /// A sentinel with this configuration.
    pub(crate) fn sentinel(configuration: &str) -> Self {
        let given = std::env::var("REDIS_SERVER").ok();
        let mut server = Self::stopped(given.clone().unwrap_or_else(|| "redis-sentinel".to_owned()), free_port(), &[]);
        let file = server.folder.join("sentinel.conf");
        std::fs::write(&file, format!("port {}\n{configuration}", server.port)).unwrap();
        server.arguments = vec![file.to_str().unwrap().to_owned()];
        // By another name it is told that it is one.
        server.arguments.extend(given.map(|_| "--sentinel".to_owned()));
        server.run();
        server
    }

    fn stopped(program: String, port: u16, more: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("redis-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let port_text = port.to_string();
        let own = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--dir", folder.to_str().unwrap()];
        let arguments = own.iter().chain(more).map(|argument| (*argument).to_owned()).collect();
        Self { port, program, arguments, folder, running: None }
    }

    /// Starts it, or starts it again: with nothing in it, unless it was told to save.
    pub(crate) fn run(&mut self) {
        self.try_to_run().expect("its port is taken");
    }

    fn try_to_run(&mut self) -> Result<(), PortTaken> {
        self.kill();
        let mut child = Command::new("sh")
            .args(["-c", WATCHED, "watched", &self.program])
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut said, mut pid, mut ready) = (String::new(), None, false);
        // It says so once it has loaded its data and listens; a sentinel, once it watches.
        let is_ready = |line: &str| line.contains("Ready to accept connections") || line.contains("+monitor master");
        for line in lines.by_ref() {
            let line = line.unwrap();
            pid = line.strip_prefix("pid ").map(|pid| pid.parse().unwrap()).or(pid);
            said.push_str(&line);
            said.push('\n');
            assert!(
                !line.contains("not found"),
                "{} is missing: scripts/setup installs it (Debian: apt-get install redis-server redis-sentinel)",
                self.program
            );
            assert!(!line.contains("cannot be preloaded"), "{line}");
            // On a busy machine it may be ready before the shell has said which process it is.
            ready |= is_ready(&line);
            if let Some(pid) = pid.filter(|_| ready) {
                // What it says from now on nobody reads, but it has to be taken.
                std::thread::spawn(move || lines.for_each(drop));
                self.running = Some((child, pid));
                return Ok(());
            }
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(said.contains("already in use"), "{} ends:\n{said}", self.program);
        Err(PortTaken)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Its files.
    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some((mut child, _)) = self.running.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let (_, pid) = self.running.as_ref().unwrap();
        let kill = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().unwrap();
        assert!(kill.success());
    }

    /// What it answers to a command, as it stands on the wire: one line, or a bulk string without its length.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|| panic!("{command:?}: no answer"))
    }

    fn try_ask(&self, command: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut request = format!("*{}\r\n", command.len());
        command.iter().for_each(|part| request.push_str(&format!("${}\r\n{part}\r\n", part.len())));
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        let mut some = [0; 64 * 1024];
        loop {
            let read = stream.read(&mut some).ok().filter(|read| *read > 0)?;
            answer.extend_from_slice(&some[..read]);
            let text = String::from_utf8_lossy(&answer).into_owned();
            let (head, rest) = text.split_once("\r\n")?;
            match head.strip_prefix('$').map(|length| length.parse::<usize>().ok()) {
                None => return Some(text.trim_end().to_owned()),
                Some(None) => return Some(String::new()),
                Some(Some(length)) if rest.len() >= length => return Some(rest[..length].to_owned()),
                Some(_) => {}
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn program() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
