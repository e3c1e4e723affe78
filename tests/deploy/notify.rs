//! What the process tells whoever supervises it, over a socket as systemd has one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::program::PROGRAM;

/// For a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with its sandbox. It is killed when this is dropped.
pub(crate) struct Gateway {
    child: Child,
    err: BufReader<ChildStderr>,
    address: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Gateway {
    /// Starts it with these variables, and waits until it says that it serves.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        let mut gateway = Self::begin(variables);
        gateway.says_where();
        gateway
    }

    /// Starts it with these variables.
    fn begin(variables: &[(&str, &str)]) -> Self {
        Self::with(&[], variables)
    }

    /// Starts it with these arguments and variables.
    fn with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--sandbox"]).args(arguments).env_remove("NOTIFY_SOCKET");
        command.env("SENDLY_GATEWAY_LISTEN", "127.0.0.1:0").env("SENDLY_GATEWAY_ADMIN_LISTEN", "127.0.0.1:0");
        command.envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        Self { child, err, address: None, admin: None }
    }

    /// Reads what it logs, up to the line that says where it serves.
    fn says_where(&mut self) -> String {
        let mut said = String::new();
        while !said.contains("serving") {
            assert!(self.err.read_line(&mut said).unwrap() > 0, "it ends:\n{said}");
        }
        let after = |name: &str| said.split(name).nth(1).unwrap().split_whitespace().next().unwrap().parse().ok();
        (self.address, self.admin) = (after(" address="), after(" admin="));
        said
    }

    fn ask(address: Option<SocketAddr>, request: &str) -> String {
        let mut stream = TcpStream::connect(address.unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn admin(&self, path: &str) -> String {
        Self::ask(self.admin, &format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n"))
    }

    fn send(&self) -> String {
        let body = r#"{"to":"+15550100123"}"#;
        let head = "POST /api/v1/verify HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer sk_test_v1_notify\r\n\
                    content-type: application/json\r\nconnection: close";
        Self::ask(self.address, &format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status().unwrap();
        assert!(kill.success());
    }

    /// Its exit code, and what else it has said.
    fn ends(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.err.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A supervisor's socket.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // The path of a socket may have 107 bytes.
        let name = format!("sendly-gateway-notify-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn variable(&self) -> (&str, &str) {
        ("NOTIFY_SOCKET", self.path.to_str().unwrap())
    }

    /// What it is told next.
    fn hears(&self) -> String {
        let mut message = [0; 1024];
        let length = self.socket.recv(&mut message).expect("nothing is told");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Whether it was told nothing more.
    fn has_heard_all(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        self.socket.recv(&mut [0; 1]).is_err()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn it_is_ready_once_clients_can_connect_and_stopping_when_it_is_told_to_stop() {
    for signal in ["TERM", "INT"] {
        let supervisor = Supervisor::new();
        let mut gateway = Gateway::begin(&[supervisor.variable()]);
        // Nothing was read of it before: what it says first is this.
        assert_eq!(supervisor.hears(), "READY=1\n");
        gateway.says_where();
        assert!(gateway.send().starts_with("HTTP/1.1 201 "), "without a second try");
        assert!(gateway.admin("/livez").starts_with("HTTP/1.1 200 "));
        gateway.signal(signal);
        assert_eq!(supervisor.hears(), "STOPPING=1\n");
        let (code, said) = gateway.ends();
        assert_eq!(code, Some(0), "{said}");
        assert!(supervisor.has_heard_all());
    }
}

#[test]
fn a_reload_is_told_from_its_beginning_to_its_end_whatever_comes_of_it() {
    for config in ["drain_timeout = \"40s\"\n", "drain_timeout = 40\n"] {
        let file = crate::program::scratch("reload").join("gateway.toml");
        fs::write(&file, "reload.watch = false\n").unwrap();
        let supervisor = Supervisor::new();
        let gateway = Gateway::with(&["--config", file.to_str().unwrap()], &[supervisor.variable()]);
        assert_eq!(supervisor.hears(), "READY=1\n");
        fs::write(&file, format!("{config}reload.watch = false\n")).unwrap();
        gateway.signal("HUP");
        assert!(supervisor.hears().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(supervisor.hears(), "READY=1\n");
    }
}

#[test]
fn it_is_never_ready_if_it_cannot_serve() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let supervisor = Supervisor::new();
    let mut gateway = Gateway::begin(&[supervisor.variable(), ("SENDLY_GATEWAY_LISTEN", &address)]);
    let (code, said) = gateway.ends();
    assert_eq!(code, Some(69), "{said}");
    assert!(supervisor.has_heard_all());
}

#[test]
fn it_serves_all_the_same_where_nobody_listens_and_says_so() {
    let supervisor = Supervisor::new();
    fs::remove_file(&supervisor.path).unwrap();
    let mut gateway = Gateway::start(&[supervisor.variable()]);
    assert!(gateway.send().starts_with("HTTP/1.1 201 "));
    gateway.signal("TERM");
    let (code, said) = gateway.ends();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the supervisor cannot be told"), "{said}");
}

#[test]
fn it_says_nothing_of_a_supervisor_where_there_is_none() {
    let mut gateway = Gateway::start(&[]);
    gateway.signal("TERM");
    let (code, said) = gateway.ends();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("supervisor"), "{said}");
}
