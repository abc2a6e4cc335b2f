"""``etc/cluster`` and ``etc/systemd`` as they stand, on other ports, with a Redis and a PostgreSQL of the tests."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from processes import PASSWORD, Person, ended, start_admin
from redis_parts import new_prefix
from server_process import ServerProcess, environment, server
from store_invariants import check_dsn, check_file

from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import free_port
from flux.config import Settings
from flux.workers.supervisor import STOP_WITHIN

CHECKOUT = Path(__file__).parent.parent
CLUSTER = CHECKOUT / "etc" / "cluster"
UNITS = CHECKOUT / "etc" / "systemd"
PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Here:
    """Where the example runs: its engines, and other ports than those that it names."""

    def __init__(self, redis: RedisServer, postgres: PostgresServer, database: str, stack: ExitStack) -> None:
        theirs = ("50052", "8091", "8092", "8080", "9093", "9094", "9095", "9096")
        self.ports = {number: free_port() for number in theirs}
        self._stack = stack
        # The key that the test's Redis needs is the prefix of its own.
        self._prefix = new_prefix()
        self.dsn = postgres.create_database(database)
        self._env = {
            **environment(),
            "FLUX_DSN": self.dsn,
            "FLUX_REDIS_URL": redis.url,
        }

    def overrides(self, file: str) -> list[str]:
        """What is different here from what a file of the example says."""
        said = configparser.RawConfigParser()
        said.read(CLUSTER / file)
        changes = [f"state.prefix={self._prefix}"]
        for section in said.sections():
            for key in said[section].keys() & {"listen", "status", "advertise"}:
                changes.append(f"{section}.{key}={self.elsewhere(said[section][key])}")
        return [argument for change in changes for argument in ("--set", change)]

    def elsewhere(self, text: str) -> str:
        """An endpoint or an address of the example, with the port that it has here."""
        changed, count = re.subn(r"\d{4,5}", lambda found: str(self.ports.get(found[0], found[0])), text, count=1)
        assert count == 1
        return changed

    def run(self, command: list[str], told: str) -> ServerProcess:
        process: ServerProcess = self._stack.enter_context(server(command, CHECKOUT, self._env))
        process.wait_for(told)
        return process

    def check(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(PROGRAMS / "flux"), "check", *arguments]
        return subprocess.run(command, cwd=folder, env=self._env, capture_output=True, text=True, check=False)

    def person(self, server: str, name: str) -> tuple[Person, int]:
        """Somebody new, logged in at a server, and the account's id."""
        person = self._stack.enter_context(closing(Person(self.ports[f"809{server[-1]}"])))
        account = person.ask("register", name=name, password=PASSWORD)["id"]
        assert person.ask("login", id=account, password=PASSWORD)["server"] == server
        return person, account

    def talk(self) -> None:
        """From one server to the other."""
        ann, _ = self.person("chat1", "ann")
        bob, to = self.person("chat2", "bob")
        assert ann.ask("send", to=to, text="hello")["type"] == "send.ok"
        assert bob.next()["text"] == "hello"
        ann.close()
        bob.close()

    def sent_by_the_gate(self, name: str) -> int:
        """The port of the chat server where somebody new is sent, and let in."""
        connection = HTTPConnection("127.0.0.1", self.ports["8080"])
        body = json.dumps({"name": name, "password": PASSWORD})
        for path in ("/v1/accounts", "/v1/login"):
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = json.load(connection.getresponse())
        connection.close()
        with closing(Person(answer["port"])) as person:
            assert person.ask("login", id=answer["id"], token=answer["token"])["server"] == answer["server"]
        return int(answer["port"])

    def ready(self, file: str) -> tuple[int, bytes]:
        """What the admin port that a file of the example names says of its process."""
        said = configparser.RawConfigParser()
        said.read(CLUSTER / file)
        endpoint = said["admin"]["listen"]
        assert f"127.0.0.1:{endpoint.split(':')[1]}" in (CLUSTER / "README.md").read_text()
        connection = HTTPConnection("127.0.0.1", int(self.elsewhere(endpoint).split(":")[1]))
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        with closing(connection):
            return answer.status, answer.read()

    def admin(self, *arguments: str) -> tuple[int, str, str]:
        return ended(start_admin(*arguments, "--status", f":{self.ports['50052']}"))


@pytest.fixture
def here(redis_server: RedisServer, postgres_server: PostgresServer, stack: ExitStack, request: Any) -> Here:
    here = Here(redis_server, postgres_server, f"deploy_{request.node.name[:40]}", stack)
    stack.callback(check_dsn, here.dsn, perhaps_empty=True)
    return here


# --- the cluster -------------------------------------------------------------


@pytest.mark.slow
def test_the_cluster_starts_as_its_page_says(here: Here) -> None:
    page = (CLUSTER / "README.md").read_text()
    commands = re.findall(
        r"^ +\.venv/bin/(twistd -n --pidfile= (\S+) --config etc/cluster/(\S+)) &$", page, re.MULTILINE
    )
    first = {}
    for command, name, file in commands[:4]:
        first[file] = here.run(
            [str(PROGRAMS / command.split()[0]), *command.split()[1:], *here.overrides(file)], f"{name} started"
        )
    assert set(first) == {"status.ini", "chat1.ini", "chat2.ini", "gate.ini"}
    here.talk()
    assert here.sent_by_the_gate("dan") in (here.ports["8091"], here.ports["8092"])
    status, output, _ = here.admin("servers", "--json")
    assert status == 0
    assert {node["name"]: (node["host"], node["port"], node["state"]) for node in json.loads(output)} == {
        "chat1": ("127.0.0.1", here.ports["8091"], "up"), "chat2": ("127.0.0.1", here.ports["8092"], "up"),
    }  # fmt: skip
    for file in first:
        assert here.ready(file)[0] == 200, here.ready(file)
    [asked] = re.findall(r"^ +\.venv/bin/flux admin stats --admin (\S+)$", page, re.MULTILINE)
    status, output, _ = ended(start_admin("stats", "--json", "--admin", here.elsewhere(asked)))
    assert status == 0
    assert json.loads(output)["process"]["name"] == "chat1"
    # The page's last command starts the one again that it has drained.
    assert re.search(r"flux admin drain chat1 --wait --config etc/cluster/status.ini$", page, re.MULTILINE)
    assert here.admin("drain", "chat1", "--wait")[:2] == (0, "chat1 is down\n")
    assert first["chat1.ini"].end() == (0, "")
    command, name, file = commands[4]
    assert file == "chat1.ini"
    here.run([str(PROGRAMS / command.split()[0]), *command.split()[1:], *here.overrides(file)], f"{name} started")
    person, _ = here.person("chat1", "cy")
    assert person.ask("ping")["type"] == "ping.ok"


@pytest.mark.slow
def test_a_check_finds_nothing_wrong_with_its_files(here: Here, tmp_path: Path) -> None:
    def check(part: str, file: str) -> subprocess.CompletedProcess[str]:
        return here.check(tmp_path, "--part", part, "--config", str(CLUSTER / file), *here.overrides(file))

    assert check("status", "status.ini").returncode == 0
    status = ["twistd", "-n", "--pidfile=", "flux-status", "--config", "etc/cluster/status.ini"]
    here.run([str(PROGRAMS / status[0]), *status[1:], *here.overrides("status.ini")], "flux-status started")
    # What else runs is in nobody's way.
    for part, file in (("chat", "chat1.ini"), ("chat", "chat2.ini"), ("gate", "gate.ini")):
        done = check(part, file)
        assert done.returncode == 0, done.stdout
    assert "Address already in use" in check("status", "status.ini").stdout
    page = (CLUSTER / "README.md").read_text()
    assert re.findall(r"flux check --part (\S+) --config etc/cluster/(\S+)$", page, re.MULTILINE) == [
        ("status", "status.ini"), ("chat", "chat1.ini"), ("chat", "chat2.ini"), ("gate", "gate.ini"),
    ]  # fmt: skip


# --- units of systemd --------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """The [Service] of a unit: each key with all its values."""

    class Several(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if isinstance(value, list) and key in self:
                value = [*self[key], *value]
            super().__setitem__(key, value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Several, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text())
    return {key: str(value).split("\n") for key, value in parser["Service"].items()}


ALL = ("flux.service", "flux-status.service", "flux-chat@.service", "flux-gate.service")


def started_by(name: str, configuration: Path, instance: str = "") -> list[str]:
    """The command that systemd would start, from where the programs and the configuration are here."""
    [start] = unit(name)["ExecStart"]
    program, *arguments = shlex.split(start.replace("%i", instance))
    assert program == "/opt/flux/bin/twistd"
    return [str(PROGRAMS / "twistd"), *(each.replace("/etc/flux", str(configuration)) for each in arguments)]


@pytest.mark.slow
def test_the_units_of_a_cluster_start(here: Here, tmp_path: Path) -> None:
    for file in ("status.ini", "chat1.ini", "chat2.ini", "gate.ini"):
        shutil.copy(CLUSTER / file, tmp_path)
    here.run([*started_by("flux-status.service", tmp_path), *here.overrides("status.ini")], "flux-status started")
    for name in ("chat1", "chat2"):
        command = started_by("flux-chat@.service", tmp_path, name)
        here.run([*command, *here.overrides(f"{name}.ini")], "flux-chat started")
    here.run([*started_by("flux-gate.service", tmp_path), *here.overrides("gate.ini")], "flux-gate started")
    here.talk()
    here.sent_by_the_gate("dan")


@pytest.mark.slow
def test_the_unit_of_a_single_server_starts_reloads_and_stops(tmp_path: Path) -> None:
    port, status = free_port(), free_port()
    file = tmp_path / "flux.ini"
    file.write_text(
        f"[chat]\nlisten = tcp:{port}:interface=127.0.0.1\n[status]\nlisten = tcp:{status}:interface=127.0.0.1\n"
        "[gate]\nlisten =\n[admin]\nlisten =\n"
    )
    with server(started_by("flux.service", tmp_path), tmp_path, environment()) as process:
        process.wait_for("flux started in")
        with closing(Person(port)) as person:
            assert person.ask("ping")["type"] == "ping.ok"
        file.write_text(file.read_text() + "[limits]\ncatchups = 5\n")
        [reload] = unit("flux.service")["ExecReload"]
        subprocess.run(["sh", "-c", reload], env={**os.environ, "MAINPID": str(process.popen.pid)}, check=True)
        process.wait_for("SIGHUP: changed limits.catchups")
        process.popen.terminate()
        assert process.end() == (0, "")
    # Where the working directory is, the data is.
    check_file(tmp_path / "flux-data" / "flux.db")


@pytest.mark.parametrize("name", ALL)
def test_a_unit_waits_for_a_stop_and_leaves_alone_who_was_drained(name: str) -> None:
    service = unit(name)
    assert int(service["TimeoutStopSec"][0]) > Settings().chat.drain + STOP_WITHIN
    assert service["Restart"] == ["on-failure"]
    assert service["KillMode"] == ["mixed"]
    assert int(service["LimitNOFILE"][0]) >= 65536


def test_the_units_differ_only_in_what_they_start() -> None:
    services = [unit(name) for name in ALL]
    for service in services:
        del service["ExecStart"]
    assert all(service == services[0] for service in services)


@pytest.mark.system
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for name in ALL:
        text = (UNITS / name).read_text()
        (tmp_path / name.replace("@", "@chat1")).write_text(
            text.replace("/opt/flux/bin/twistd", str(PROGRAMS / "twistd"))
        )
    for file in sorted(tmp_path.iterdir()):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        # 10 is a service without any protection.
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", file],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
