"""What the shipped unit promises, under a real systemd. Run by scripts/test-systemd: checks.py LEADER [CHECK...]"""

import json
import re
import sys
import time
import traceback

from machine import PATIENCE, REPOSITORY, UNIT, Machine, Redis, new_certificate, serial, wait_until

PHONE, OTHER = "+15550100001", "+15550100002"

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def is_over(pid):
    return lambda m: wait_until(lambda: m.process("State", pid) is None, f"the end of process {pid}")


def stops_with_a_code_in_flight(m, *more):
    """Stops (or restarts) the service while a code is in flight, which is answered a second later and reaches its client."""
    with m.upstream.holds(PHONE) as answer:
        code = m.in_flight(PHONE)
        stopping = m.start_later("systemctl", *(more or ("stop",)), UNIT)
        m.logs("draining")
        # Long enough for a supervisor that does not wait.
        time.sleep(1)
        assert stopping.done is None, f"it does not wait for the code in flight: {stopping.done}"
        assert code.status is None and code.error is None, f"answered too soon: {code.status} {code.error!r}"
        answer()
        assert code.is_answered() == 201
    stopping.join(PATIENCE)
    assert stopping.done == (0, ""), stopping.done


def ended_well(m):
    assert (m.show("Result"), m.show("ExecMainCode"), m.show("ExecMainStatus")) == ("success", "1", "0")
    assert "not our child" not in m.journal(), "systemd does not supervise the process that took over"
    assert "SIGKILL" not in m.journal()


@check
def start_returns_once_clients_can_connect(m):
    m.started()
    assert m.send(PHONE) == 201, "without a second try"
    assert (m.show("ActiveState"), m.show("SubState"), m.show("NRestarts")) == ("active", "running", "0")


@check
def start_fails_on_a_wrong_configuration_and_is_not_tried_again(m):
    m.install()
    m.configure("drain_timeot = '40s'\n")
    code, _ = m.systemctl("start", UNIT, check=False)
    assert code != 0
    assert (m.show("ActiveState"), m.show("ExecMainStatus"), m.show("NRestarts")) == ("failed", "64", "0")
    assert "drain_timeot" in m.journal()


@check
def it_runs_as_a_user_that_exists_only_while_it_runs(m):
    main = m.started()
    uid = int(m.process("Uid", main))
    assert 61184 <= uid <= 65519, uid
    assert m.run("stat", "-c", "%u %a", "/var/lib/private/sendly-gateway")[1].split() == [str(uid), "700"]
    assert m.process("CapEff", main) == "0000000000000000"
    m.systemctl("stop", UNIT)
    assert m.run("getent", "passwd", str(uid), check=False)[0] != 0


@check
def stop_waits_for_a_code_in_flight(m):
    m.started()
    stops_with_a_code_in_flight(m)
    ended_well(m)


@check
def counts_outlive_a_restart(m):
    main = m.started()
    assert [m.send(PHONE) for _ in range(4)] == [201] * 4
    m.systemctl("restart", UNIT)
    assert m.main() != main
    assert [m.send(PHONE) for _ in range(2)] == [201, 429]
    assert m.upstream.codes[PHONE] == 5


@check
def reload_fails_on_a_mistake_and_tells_systemd_from_its_beginning_to_its_end(m):
    main = m.started()
    m.systemctl("log-level", "debug")
    try:
        m.configure("drain_timeot = '40s'\n")
        assert m.systemctl("reload", UNIT, check=False)[0] != 0
        assert "drain_timeot" in m.journal(), "the mistake is named"
        assert (m.main(), m.show("ActiveState")) == (main, "active")
        m.configure("")
        told = m.journal().count("RELOADING=1")
        m.systemctl("reload", UNIT)
        wait_until(lambda: m.journal().count("RELOADING=1") > told, "RELOADING=1")
        wait_until(lambda: "READY=1" in m.journal().rsplit("RELOADING=1", 1)[1], "READY=1 after it")
        assert (m.main(), m.show("ActiveState")) == (main, "active")
    finally:
        m.systemctl("log-level", "info")


@check
def after_an_upgrade_the_process_that_took_over_is_systemds_own_child(m):
    old = m.started()
    assert [m.send(PHONE) for _ in range(4)] == [201] * 4
    new = m.upgrade()
    assert m.process("PPid", new) == "1", "its parent is systemd"
    is_over(old)(m)
    assert (m.show("ActiveState"), m.show("NRestarts"), m.main()) == ("active", "0", new)
    assert [m.send(PHONE) for _ in range(2)] == [201, 429], "nothing is forgotten"
    assert m.upstream.codes[PHONE] == 5
    m.systemctl("reload", UNIT)
    m.logs("the configuration was loaded anew")
    assert m.main() == new


@check
def stop_after_an_upgrade_waits_for_a_code_in_flight(m):
    m.started()
    m.upgrade()
    stops_with_a_code_in_flight(m)
    ended_well(m)


@check
def stop_after_two_upgrades_waits_for_a_code_in_flight(m):
    first = m.started()
    second = m.upgrade()
    is_over(first)(m)
    third = m.upgrade()
    assert len({first, second, third}) == 3
    assert m.process("PPid", third) == "1"
    is_over(second)(m)
    stops_with_a_code_in_flight(m)
    ended_well(m)


@check
def a_code_in_flight_in_the_old_process_keeps_its_client_over_upgrade_and_stop(m):
    old = m.started()
    with m.upstream.holds(PHONE) as answer:
        code = m.in_flight(PHONE)
        m.upgrade()
        stopping = m.start_later("systemctl", "stop", UNIT)
        m.logs("draining")
        time.sleep(1)
        assert m.process("State", old) is not None, "the old process does not wait for its client"
        assert stopping.done is None, stopping.done
        answer()
        assert code.is_answered() == 201
    stopping.join(PATIENCE)
    assert stopping.done == (0, ""), stopping.done
    ended_well(m)


@check
def restart_after_an_upgrade_waits_for_a_code_in_flight_and_forgets_nothing(m):
    m.started()
    assert [m.send(PHONE) for _ in range(3)] == [201] * 3
    new = m.upgrade()
    stops_with_a_code_in_flight(m, "restart")
    assert m.show("ActiveState") == "active" and m.main() not in (0, new)
    assert [m.send(PHONE) for _ in range(2)] == [201, 429]
    assert m.upstream.codes[PHONE] == 5


@check
def a_process_that_took_over_and_is_killed_is_started_again(m):
    m.started()
    assert [m.send(PHONE) for _ in range(4)] == [201] * 4
    new = m.upgrade()
    assert m.send(OTHER) == 201
    m.systemctl("kill", "--kill-whom=main", "-s", "KILL", UNIT)
    wait_until(lambda: m.main() not in (0, new) and m.show("ActiveState") == "active", "another start")
    assert m.show("NRestarts") == "1"
    assert [m.send(PHONE) for _ in range(2)] == [201, 429]


@check
def a_successor_with_a_wrong_configuration_leaves_the_service_as_it_was(m):
    old = m.started()
    m.configure("drain_timeot = '40s'\n")
    m.systemctl("kill", "--kill-whom=main", "-s", "QUIT", UNIT)
    journal = m.logs("this process goes on")
    [line] = [line for line in journal.splitlines() if "this process goes on" in line]
    assert "drain_timeot" in line and line.startswith("{"), f"the reason stands in the log's own line: {line}"
    assert (m.main(), m.show("ActiveState")) == (old, "active")
    assert m.send(PHONE) == 201
    m.configure("")
    assert m.upgrade() != old, "it still can be taken over from"
    assert m.send(PHONE) == 201


@check
def a_successor_that_cannot_take_over_leaves_the_service_as_it_was(m):
    old = m.started()
    m.write(
        "/etc/sendly-gateway/gateway.toml",
        (m.root / "etc/sendly-gateway/gateway.toml").read_text().replace('"127.0.0.1:8080"', '"127.0.0.1:8081"'),
    )
    m.systemctl("kill", "--kill-whom=main", "-s", "QUIT", UNIT)
    journal = m.logs("this process goes on")
    assert "listen is 127.0.0.1:8081 here" in journal
    assert (m.main(), m.show("ActiveState")) == (old, "active")
    stops_with_a_code_in_flight(m)
    ended_well(m)


SECRETS = "/etc/sendly-gateway/secrets"
GROUP = "sendly-gateway-secrets"
LINEAGE = "/etc/letsencrypt/live/gateway.example"
HASH_KEY, TOKEN, PASSWORD = "0123456789abcdef-hash", "0123456789abcdef-token", "0123456789abcdef-redis"


def renew(m):
    """What certbot does. Returns the new certificate's serial number."""
    certificate, key = new_certificate()
    m.write(f"{LINEAGE}/fullchain.pem", certificate)
    m.write(f"{LINEAGE}/privkey.pem", key, mode=0o600)
    m.run("env", f"RENEWED_LINEAGE={LINEAGE}", "/etc/letsencrypt/renewal-hooks/deploy/sendly-gateway")
    return serial(certificate)


def secrets_as_the_readme_has_them(m):
    """Follows deploy/README.md, and uses every secret that there is."""
    m.install((REPOSITORY / "deploy/sendly-gateway-secrets.conf").read_text() + "UnsetEnvironment=SENDLY_GATEWAY_STATE_DIR\n")
    m.run("groupadd", "--system", "--force", GROUP)
    m.run("install", "-d", "-m", "750", "-g", GROUP, SECRETS)
    for name, text in (("hash_key", HASH_KEY), ("admin_token", TOKEN), ("redis_url", f"redis://:{PASSWORD}@127.0.0.1:6379/0")):
        m.run("install", "-m", "640", "-g", GROUP, "/dev/stdin", f"{SECRETS}/{name}", text=text)
    m.write("/etc/letsencrypt/renewal-hooks/deploy/sendly-gateway", (REPOSITORY / "deploy/certbot-deploy-hook").read_text(), 0o755)
    shown = renew(m)
    config = (REPOSITORY / "config/gateway.toml").read_text()
    for key, file in (
        ("hash_key_file", "hash_key"),
        ("token_file", "admin_token"),
        ("url_file", "redis_url"),
        ("cert_file", "tls.crt"),
        ("key_file", "tls.key"),
    ):
        config, found = re.subn(rf'^#{key} = ".*"$', f'{key} = "{SECRETS}/{file}"', config, count=1, flags=re.M)
        assert found, key
    config = config.replace('backend = "memory"', 'backend = "redis"')
    m.write("/etc/sendly-gateway/gateway.toml", config)
    return shown


@check
def secrets_that_only_a_group_can_read_serve_over_start_reload_renewal_and_upgrade(m):
    redis = Redis()
    try:
        shown = secrets_as_the_readme_has_them(m)
        m.systemctl("start", UNIT)
        m.is_tls = True
        assert m.certificate() == shown
        assert m.admin("/v1/phones/%2B15550100001")[0] == 401
        assert m.admin("/v1/phones/%2B15550100001", {"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert json.loads(m.admin("/v1/config")[1])["ledger"]["backend"] == "redis"
        wait_until(lambda: PASSWORD.encode() in redis.heard, "the password at Redis")
        for name in ("hash_key", "admin_token", "redis_url", "tls.key"):
            other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", f"{SECRETS}/{name}"]
            assert m.run(*other, check=False)[0] != 0, f"{name} can be read by others"
        m.systemctl("reload", UNIT)
        m.logs("the configuration was loaded anew")
        shown = renew(m)
        wait_until(lambda: m.certificate() == shown, "the renewed certificate, by itself")
        shown = renew(m)
        m.upgrade()
        assert m.certificate() == shown, "the one that took over has the newest"
        shown = renew(m)
        wait_until(lambda: m.certificate() == shown, "the renewed certificate, after an upgrade")
        m.systemctl("stop", UNIT)
        ended_well(m)
    finally:
        redis.close()


@check
def a_certificate_of_another_name_is_left_alone(m):
    secrets_as_the_readme_has_them(m)
    before = m.run("cat", f"{SECRETS}/tls.crt")
    m.run("env", "RENEWED_LINEAGE=/etc/letsencrypt/live/other.example", "/etc/letsencrypt/renewal-hooks/deploy/sendly-gateway")
    assert m.run("cat", f"{SECRETS}/tls.crt") == before


@check
def credentials_serve_over_start_reload_and_upgrade(m):
    [drop_in] = re.findall(r"```ini\n(.*?)```", (REPOSITORY / "deploy/README.md").read_text(), re.S)
    m.install(drop_in)
    m.write("/etc/sendly-gateway/hash_key", HASH_KEY, mode=0o600)
    m.systemctl("start", UNIT)
    m.systemctl("reload", UNIT)
    m.logs("the configuration was loaded anew")
    m.upgrade()
    m.systemctl("reload", UNIT)
    wait_until(lambda: m.journal().count("the configuration was loaded anew") > 1, "a reload after the upgrade")
    m.configure("drain_timeot = '40s'\n")
    m.systemctl("reload", UNIT)
    assert "drain_timeot" in m.logs("the configuration is not taken")
    assert m.send(PHONE) == 201
    m.systemctl("stop", UNIT)
    ended_well(m)


@check
def journald_has_a_line_for_each_request(m):
    # journald multiplies that by up to seven where its disk has room; what the unit says goes before it.
    m.write("/etc/systemd/journald.conf.d/rate.conf", "[Journal]\nRateLimitBurst=500\n")
    m.systemctl("restart", "systemd-journald")
    m.started()
    many, connection = 8_000, m.connect()
    for _ in range(many):
        connection.request("POST", "/api/v1/verify", "{}", {"Content-Type": "application/json"})
        connection.getresponse().read()
    connection.close()
    m.systemctl("stop", UNIT)
    lines = m.journal().count('"target":"access"')
    assert lines == many, f"{lines} lines of {many} requests"


@check
def the_package_installs_starts_is_upgraded_without_a_gap_and_leaves_nothing(m):
    m.install_package()
    try:
        old = m.main()
        assert (m.show("ActiveState"), m.show("UnitFileState")) == ("active", "enabled")
        assert m.show("FragmentPath").endswith(f"/lib/systemd/system/{UNIT}"), m.show("FragmentPath")
        assert "/usr/bin/sendly-gateway" in m.show("ExecStart") + m.show("ExecReload")
        assert [m.send(PHONE) for _ in range(4)] == [201] * 4
        m.configure("# an operator's own\n")
        idle = m.connect()
        idle.request("GET", "/api/v1/account")
        assert idle.getresponse().read()
        m.run("dpkg", "--install", "--force-confold", "/root/sendly-gateway.deb")
        new = wait_until(lambda: (main := m.main()) not in (0, old) and main, "another main process")
        idle.close()
        is_over(old)(m)
        assert (m.process("PPid", new), m.show("NRestarts")) == ("1", "0")
        assert [m.send(PHONE) for _ in range(2)] == [201, 429], "nothing is forgotten"
        config = m.root / "etc/sendly-gateway/gateway.toml"
        assert config.read_text().startswith("# an operator's own"), "an upgrade keeps the configuration"
        m.run("dpkg", "--remove", "sendly-gateway")
        assert m.process("State", new) is None
        assert config.exists() and (m.root / "var/lib/private/sendly-gateway").exists(), "until it is purged"
    finally:
        m.run("dpkg", "--purge", "sendly-gateway")
    left = [place for place in ("etc/sendly-gateway", "var/lib/private/sendly-gateway", "usr/bin/sendly-gateway") if (m.root / place).exists()]
    assert left == [], left
    m.systemctl("unmask", UNIT)


def main():
    machine, wanted = Machine(sys.argv[1]), sys.argv[2:]
    unknown = set(wanted) - {function.__name__ for function in CHECKS}
    assert not unknown, f"there is no check of this name: {unknown}"
    failed = []
    for function in CHECKS:
        if wanted and function.__name__ not in wanted:
            continue
        begun = time.monotonic()
        try:
            function(machine)
            assert not machine.upstream.mistakes, machine.upstream.mistakes
            print(f"ok      {time.monotonic() - begun:5.1f} s  {function.__name__}", flush=True)
        except Exception:  # every check runs, whatever became of the one before
            failed.append(function.__name__)
            print(f"FAILED  {time.monotonic() - begun:5.1f} s  {function.__name__}", flush=True)
            traceback.print_exc()
            print("".join(f"    {line}\n" for line in machine.journal().splitlines()[-40:]), file=sys.stderr, flush=True)
    print(f"systemd: {len(failed)} of {len(wanted or CHECKS)} checks failed" if failed else "systemd: all checks passed")
    sys.exit(1 if failed else 0)


main()
