"""The units of ``etc/systemd`` under a systemd, installed as ``docs/operations.md`` says, on other ports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from certificates import Authority
from processes import PASSWORD, Person
from redis_parts import new_prefix
from store_invariants import check_dsn
from systemd_machine import Machine, machine
from tls_parts import Peer, der, shown

from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import free_port

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
SOURCE = "/root/flux"
CLUSTER = ("flux-status", "flux-chat@chat1", "flux-chat@chat2", "flux-gate")


def commands(heading: str) -> list[str]:
    """The blocks of commands in a section of the page."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    [section] = re.findall(rf"^##+ {heading}\n(.*?)(?=^##+ )", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def complaints(there: Machine, unit: str) -> list[str]:
    """What a unit has logged that should not have happened, or was not allowed to."""
    wrong = re.compile(
        r"Operation not permitted|Permission denied|Read-only file system|Traceback|MemoryError|Z (error|critical) "
    )
    logged = there.journal(unit).splitlines()
    assert any("started in" in line for line in logged)
    return [line for line in logged if wrong.search(line)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine where an admin has installed flux."""
    with machine(tmp_path_factory.mktemp("systemd")) as there:
        without = (".*", "build", "*.egg-info", "__pycache__", "dropin.cache", "flux-data", "tests")
        there.copy(ROOT, SOURCE, *without)
        there.run(commands("systemd")[0], cwd=SOURCE)
        yield there


# --- one process -------------------------------------------------------------


class Single:
    """``flux.service``, with a certificate."""

    def __init__(self, there: Machine, folder: Path) -> None:
        self.there = there
        self.port, self.admin = free_port(), free_port()
        self.authority = Authority(folder)
        self._configuration = (
            f"[chat]\nlisten = tcp:{self.port}:interface=127.0.0.1\n"
            f"[status]\nlisten = tcp:{free_port()}:interface=127.0.0.1\n"
            f"[gate]\nlisten = tcp:{free_port()}:interface=127.0.0.1\n"
            f"[admin]\nlisten = tcp:{self.admin}:interface=127.0.0.1\n"
            "[tls]\ncertificate = /etc/flux/tls/fullchain.pem\nkey = /etc/flux/tls/privkey.pem\n"
        )

    def renew(self) -> bytes:
        """What certbot does, and the hook of the page after it; the new certificate, as DER."""
        certificate, key = self.authority.issue("localhost")
        self.there.run("mkdir -p /root/lineage")
        self.there.write("/root/lineage/fullchain.pem", certificate.read_text())
        self.there.write("/root/lineage/privkey.pem", key.read_text())
        [hook] = commands("Renewing it")
        self.there.run(f"RENEWED_LINEAGE=/root/lineage\n{hook}")
        return der(certificate)

    def start(self) -> None:
        self.renew()
        self.there.write(f"{SOURCE}/flux.ini", self._configuration)
        with self.there.until_logged("flux", "flux started in"):
            self.there.run(commands("systemd")[1], cwd=SOURCE)

    def person(self) -> Peer:
        return Peer(self.port, self.authority)

    def log_in(self, peer: Peer, name: str) -> int:
        account = int(peer.ask("register", name=name, password=PASSWORD)["id"])
        assert peer.ask("login", id=account, password=PASSWORD)["type"] == "login.ok"
        return account


@pytest.fixture(scope="module")
def single(installed: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Single]:
    single = Single(installed, tmp_path_factory.mktemp("single"))
    single.start()
    yield single
    installed.run("systemctl disable --now flux")
    assert complaints(installed, "flux") == []


def test_a_server_with_a_certificate_serves_and_renews_it(single: Single) -> None:
    with closing(single.person()) as ann, closing(single.person()) as bob:
        single.log_in(ann, "ann")
        to = single.log_in(bob, "bob")
        assert ann.ask("send", to=to, text="hello")["type"] == "send.ok"
        assert bob.next()["text"] == "hello"
        with single.there.until_logged("flux", "new connections get the certificate that is for localhost"):
            new = single.renew()
        assert shown(single.port, single.authority) == new
        assert ann.ask("ping")["type"] == "ping.ok"


def test_its_unit_says_nothing_in_vain(single: Single) -> None:
    """That what the unit forbids is forbidden here, too: without that these tests would show nothing."""
    [pid] = single.there.show("flux", "MainPID")
    status = dict(line.split(":\t") for line in single.there.read(f"/proc/{pid}/status").splitlines())
    assert {name: int(status[name], 16) for name in ("NoNewPrivs", "Seccomp", "CapBnd", "CapEff")} == {
        "NoNewPrivs": 1, "Seccomp": 2, "CapBnd": 0, "CapEff": 0,
    }  # fmt: skip
    where_it_is = f"nsenter --mount --root --target {pid}"
    as_it = f"{where_it_is} setpriv --reuid=flux --regid=flux --clear-groups"
    assert "Permission denied" in single.there.attempt(f"{as_it} ls /home").stderr
    assert single.there.attempt(f"{as_it} touch /var/lib/flux/touched && rm /var/lib/flux/touched").returncode == 0
    for other in ("/opt/flux", "/etc/flux", "/var/lib", "/usr"):
        assert "Read-only" in single.there.attempt(f"{where_it_is} touch {other}/touched").stderr
    assert single.there.run(f"{as_it} ls /proc").split().count("1") == 0


def test_its_data_is_its_own(single: Single) -> None:
    modes = single.there.run("stat --format='%U:%G %a %n' /var/lib/flux /var/lib/flux/flux-data{,/flux.db}")
    assert modes.splitlines() == [
        "flux:flux 755 /var/lib/flux",
        "flux:flux 700 /var/lib/flux/flux-data",
        "flux:flux 600 /var/lib/flux/flux-data/flux.db",
    ]


def test_its_figures_are_complete(single: Single) -> None:
    with urlopen(f"http://127.0.0.1:{single.admin}/metrics") as answer:
        metrics = answer.read().decode()
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert re.search(rf"^{name} \d", metrics, re.MULTILINE), name


def test_it_is_started_again_when_it_is_killed(single: Single) -> None:
    with closing(single.person()) as cy, closing(single.person()) as cleo:
        to = single.log_in(cleo, "cleo")
        single.log_in(cy, "cy")
        assert cy.ask("send", to=to, text="kept")["type"] == "send.ok"
        with single.there.until_logged("flux", "flux started in"):
            single.there.run("systemctl kill --signal=KILL --kill-who=main flux")
    assert single.there.show("flux", "ActiveState", "NRestarts") == ("active", "1")
    with closing(single.person()) as cy:
        assert cy.ask("login", name="cy", password=PASSWORD)["type"] == "login.ok"
        assert [message["text"] for message in cy.ask("history", to=to)["messages"]] == ["kept"]


def test_a_stop_is_no_failure(single: Single) -> None:
    with single.there.until_logged("flux", "Deactivated successfully"):
        with closing(single.person()) as dan:
            single.log_in(dan, "dan")
            single.there.run("systemctl stop --no-block flux")
            said = list(iter(dan.next, {"type": "closed"}))
        assert said[-1]["type"] == "kicked"
    state = single.there.show("flux", "ActiveState", "Result", "ExecMainCode", "ExecMainStatus")
    # 1: it has exited, and was not killed by a signal.
    assert state == ("inactive", "success", "1", "0")
    with single.there.until_logged("flux", "flux started in"):
        single.there.run("systemctl start flux")


# --- a cluster ---------------------------------------------------------------


class Cluster:
    """The files of ``etc/cluster``, on free ports; the second chat server has two workers."""

    def __init__(self, there: Machine, redis: RedisServer, dsn: str) -> None:
        self.there = there
        theirs = ("50052", "8091", "8092", "8080", "9093", "9094", "9095", "9096")
        self.ports = {number: free_port() for number in theirs}
        prefix = new_prefix()
        for file in (ROOT / "etc" / "cluster").glob("*.ini"):
            text = re.sub("|".join(theirs), lambda found: str(self.ports[found[0]]), file.read_text())
            text = text.replace("kind = redis\n", f"kind = redis\nprefix = {prefix}\n")
            text = text.replace("name = chat2\n", "name = chat2\nworkers = 2\n")
            there.write(f"{SOURCE}/etc/cluster/{file.name}", text)
        there.write(f"{SOURCE}/environment", f"FLUX_DSN='{dsn}'\nFLUX_REDIS_URL='{redis.url}'\n")

    def start(self) -> None:
        """As an admin does it, who waits for each service."""
        install, _, start = commands("systemd")[2].partition("cd /var/lib/flux")
        self.there.run(install, cwd=SOURCE)
        enter, *lines = start.splitlines()
        started = []
        for line in lines:
            command = f"cd /var/lib/flux{enter}\n{line}"
            if match := re.fullmatch("systemctl enable --now (.*)", line):
                started.append(match[1])
                self.start_one(match[1], command)
            else:
                self.there.run(command)
        assert started == list(CLUSTER)

    def start_one(self, unit: str, command: str) -> None:
        with self.there.until_logged(unit, f"{unit.partition('@')[0]} started in"):
            self.there.run(command)

    def sent_by_the_gate(self, name: str) -> dict[str, Any]:
        """What the gate answers somebody new who logs in."""
        connection = HTTPConnection("127.0.0.1", self.ports["8080"])
        body = json.dumps({"name": name, "password": PASSWORD})
        with closing(connection):
            for path in ("/v1/accounts", "/v1/login"):
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                answer: dict[str, Any] = json.load(connection.getresponse())
        return answer


@pytest.fixture(scope="module")
def cluster(installed: Machine, redis_server: RedisServer, postgres_server: PostgresServer) -> Iterator[Cluster]:
    dsn = postgres_server.create_database("systemd")
    cluster = Cluster(installed, redis_server, dsn)
    cluster.start()
    yield cluster
    installed.run(f"systemctl disable --now {' '.join(CLUSTER)}")
    for unit in CLUSTER:
        assert installed.show(unit, "ActiveState", "Result", "ExecMainStatus") == ("inactive", "success", "0")
        assert complaints(installed, unit) == []
    check_dsn(dsn)


def test_a_cluster_serves(cluster: Cluster) -> None:
    for unit in CLUSTER:
        assert cluster.there.show(unit, "ActiveState", "NRestarts") == ("active", "0")
    sent = cluster.sent_by_the_gate("eve")
    elsewhere = "8092" if sent["server"] == "chat1" else "8091"
    with closing(Person(sent["port"])) as eve, closing(Person(cluster.ports[elsewhere])) as finn:
        assert eve.ask("login", id=sent["id"], token=sent["token"])["server"] == sent["server"]
        to = finn.ask("register", name="finn", password=PASSWORD)["id"]
        assert finn.ask("login", id=to, password=PASSWORD)["server"] != sent["server"]
        assert eve.ask("send", to=to, text="hello")["type"] == "send.ok"
        assert finn.next()["text"] == "hello"


def test_a_drained_server_stays_away_until_it_is_started(cluster: Cluster) -> None:
    there, unit = cluster.there, "flux-chat@chat1"
    with there.until_logged(unit, "Deactivated successfully"):
        drain = f"/opt/flux/bin/flux admin drain chat1 --wait --status :{cluster.ports['50052']}"
        assert there.run(drain) == "chat1 is down\n"
    # One that is to be restarted is "activating".
    state = there.show(unit, "ActiveState", "SubState", "Result", "NRestarts")
    assert state == ("inactive", "dead", "success", "0")
    cluster.start_one(unit, f"systemctl start {unit}")
    with closing(Person(cluster.ports["8091"])) as gil:
        gil.ask("register", name="gil", password=PASSWORD)
        assert gil.ask("login", name="gil", password=PASSWORD)["server"] == "chat1"
