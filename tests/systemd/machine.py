"""The container with its systemd, the gateway's unit in it, and a stand-in for Sendly. Run by scripts/test-systemd."""

import http.client
import json
import os
import re
import shutil
import socketserver
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

UNIT = "sendly-gateway.service"
PATIENCE = 20
REPOSITORY = Path(__file__).resolve().parents[2]


def wait_until(is_so, what):
    """Waits until it is so, and returns what says so."""
    end = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
    return found


class Upstream:
    """Sendly's API as far as a send needs it. What no gateway may ask for is a mistake of the test that runs."""

    def __init__(self):
        self.lock, self.codes, self.held, self.mistakes = threading.Lock(), {}, {}, []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body):
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self):
                self.answer(404, {"error": "not_found", "message": "There is no such verification."})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(*upstream.send(self.path, self.headers, body))

        self.server = ThreadingHTTPServer(("127.0.0.1", 9000), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def send(self, path, headers, body):
        try:
            assert path == "/api/v1/verify", f"POST {path}"
            assert headers["Content-Type"] == "application/json", headers["Content-Type"]
            assert headers["Authorization"].startswith("Bearer sk_test_v1_"), "no API key"
            phone = json.loads(body)["to"]
            assert re.fullmatch(r"\+1555\d{7}", phone), phone
        except Exception as error:  # whatever it is, the test that runs is told
            self.mistakes.append(repr(error))
            return 500, {"error": "delivery_failed"}
        with self.lock:
            nth = self.codes[phone] = self.codes.get(phone, 0) + 1
            held = self.held.get(phone)
        if held:
            held.wait(2 * PATIENCE)
        return 201, {"id": f"ver_{phone[1:]}_{nth}", "phone": phone, "status": "pending"}

    @contextmanager
    def holds(self, phone):
        """Leaves sends to this phone without an answer. What is returned ends that when it is called, and so does the end of the block."""
        held = self.held[phone] = threading.Event()
        try:
            yield held.set
        finally:
            held.set()
            del self.held[phone]


class Redis:
    """No Redis, but what hears what a gateway says to one."""

    def __init__(self):
        self.heard = b""
        redis = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                redis.heard += self.request.recv(4096)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 6379), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Send(threading.Thread):
    """A send by a client that waits for its answer."""

    def __init__(self, phone, connection):
        super().__init__(daemon=True)
        self.phone, self.status, self.error = phone, None, None
        self.connection = connection
        self.start()

    def run(self):
        head = {"Authorization": "Bearer sk_test_v1_systemd", "Content-Type": "application/json"}
        try:
            self.connection.request("POST", "/api/v1/verify", json.dumps({"to": self.phone}), head)
            answer = self.connection.getresponse()
            answer.read()
            self.status = answer.status
        except OSError as error:
            self.error = error
        except http.client.HTTPException as error:
            self.error = error

    def is_answered(self):
        self.join(PATIENCE)
        assert self.error is None, f"the client of a code in flight is lost: {self.error!r}"
        return self.status


class Machine:
    def __init__(self, leader):
        self.leader = leader
        self.root = Path(f"/proc/{leader}/root")
        self.upstream = Upstream()
        self.since = None
        self.is_tls = False

    def run(self, *command, check=True, text=None):
        """Runs a command in the container. Returns its exit code and all it said."""
        enter = ["nsenter", "--target", self.leader, "--all", "--", *command]
        done = subprocess.run(enter, input=text, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
        said = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{said}"
        return done.returncode, said

    def systemctl(self, *arguments, check=True):
        return self.run("systemctl", *arguments, check=check)

    def start_later(self, *command):
        """Runs a command in the container while the test goes on."""
        thread = threading.Thread(target=lambda: setattr(thread, "done", self.run(*command, check=False)), daemon=True)
        thread.done = None
        thread.start()
        return thread

    def show(self, name):
        return self.systemctl("show", "--property", name, "--value", UNIT)[1].strip()

    def main(self):
        return int(self.show("MainPID"))

    def write(self, path, text, mode=0o644, group=None):
        path = self.root / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        beside.write_text(text)
        beside.chmod(mode)
        beside.rename(path)
        if group:
            self.run("chgrp", group, "/" + str(path.relative_to(self.root)))

    def install(self, drop_in=""):
        """As deploy/README.md says. `drop_in` is what an operator adds."""
        self.systemctl("stop", UNIT, check=False)
        self.systemctl("reset-failed", UNIT, check=False)
        for place in ("var/lib/private/sendly-gateway", f"etc/systemd/system/{UNIT}.d", "etc/sendly-gateway"):
            shutil.rmtree(self.root / place, ignore_errors=True)
        self.upstream.codes.clear()
        self.upstream.mistakes.clear()
        self.is_tls = False
        self.write("/etc/sendly-gateway/gateway.toml", (REPOSITORY / "config/gateway.toml").read_text())
        self.write(f"/etc/systemd/system/{UNIT}", (REPOSITORY / "deploy" / UNIT).read_text())
        upstream = "[Service]\nEnvironment=SENDLY_GATEWAY_UPSTREAM_URL=http://127.0.0.1:9000\n"
        self.write(f"/etc/systemd/system/{UNIT}.d/upstream.conf", upstream)
        if drop_in:
            self.write(f"/etc/systemd/system/{UNIT}.d/operator.conf", drop_in)
        self.systemctl("daemon-reload")
        self.systemctl("enable", UNIT)
        self.run("journalctl", "--sync")
        self.since = re.search(r"cursor: (.*)", self.run("journalctl", "-n", "0", "--show-cursor")[1])[1].strip()

    def install_package(self):
        """As a user does who has the Debian package, on a machine that has had none."""
        self.install()
        (self.root / "etc/systemd/system" / UNIT).unlink()
        shutil.rmtree(self.root / "etc/sendly-gateway")
        self.systemctl("daemon-reload")
        shutil.copy(os.environ["PACKAGE"], self.root / "root/sendly-gateway.deb")
        self.run("dpkg", "--install", "/root/sendly-gateway.deb")

    def started(self, drop_in=""):
        self.install(drop_in)
        self.systemctl("start", UNIT)
        return self.main()

    def configure(self, text):
        """Puts this before the shipped configuration."""
        self.write("/etc/sendly-gateway/gateway.toml", text + (REPOSITORY / "config/gateway.toml").read_text())

    def journal(self, *more):
        """What the unit logged and what systemd logged about it, since it was installed."""
        self.run("journalctl", "--sync")
        matches = [f"_SYSTEMD_UNIT={UNIT}", "+", f"UNIT={UNIT}"]
        return self.run("journalctl", "--quiet", "-o", "cat", "--after-cursor", self.since, *more, *matches, check=False)[1]

    def logs(self, text):
        return wait_until(lambda: text in (journal := self.journal()) and journal, f"{text!r} in the journal")

    def connect(self):
        """A client's connection. Which certificate it is shown is asked elsewhere."""
        if self.is_tls:
            return http.client.HTTPSConnection("127.0.0.1", 8080, timeout=2 * PATIENCE, context=ssl._create_unverified_context())
        return http.client.HTTPConnection("127.0.0.1", 8080, timeout=2 * PATIENCE)

    def send(self, phone):
        return Send(phone, self.connect()).is_answered()

    def in_flight(self, phone):
        before = self.upstream.codes.get(phone, 0)
        send = Send(phone, self.connect())
        wait_until(lambda: self.upstream.codes.get(phone, 0) > before, "a code in flight")
        return send

    def admin(self, target, head={}):
        connection = http.client.HTTPConnection("127.0.0.1", 9090, timeout=PATIENCE)
        connection.request("GET", target, headers=head)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def process(self, field, pid):
        """A field of /proc/PID/status, as the container counts processes; nothing if there is none."""
        found = re.search(rf"^{field}:\s*(\S+)", self.run("cat", f"/proc/{pid}/status", check=False)[1], re.M)
        return found and found[1]

    def upgrade(self):
        """Sends QUIT and returns the process that has taken over. A client's idle connection keeps the old one alive meanwhile, as in service."""
        old = self.main()
        idle = self.connect()
        Send("+15550109999", idle).is_answered()
        self.systemctl("kill", "--kill-whom=main", "-s", "QUIT", UNIT)
        new = wait_until(lambda: (main := self.main()) not in (0, old) and main, "another main process")
        assert self.process("State", old) is not None, "the old process has left its client"
        idle.close()
        return new

    def certificate(self):
        """The serial number of the certificate that the gateway shows."""
        pem = ssl.get_server_certificate(("127.0.0.1", 8080), timeout=PATIENCE)
        return serial(pem)


def serial(pem):
    shown = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=pem, capture_output=True, text=True, check=True)
    return shown.stdout.strip()


def new_certificate():
    """A certificate and its key, of its own."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj /CN=gateway.test -keyout -".split()
    pem = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    key, certificate = re.findall(r"-----BEGIN [^-]+-----.*?-----END [^-]+-----\n", pem, re.S)
    return certificate, key
