"""``etc/nginx.conf`` as it stands, on other ports and paths, with two chat servers behind it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from certificates import Authority
from processes import PASSWORD, Person, Place
from server_process import ServerProcess
from tls_parts import Peer, der
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from flux.bench.servers import free_port, listens

pytestmark = pytest.mark.system

CONFIGURATION = Path(__file__).parent.parent / "etc" / "nginx.conf"


class Nginx:
    """An nginx with the configuration of this project."""

    def __init__(self, folder: Path) -> None:
        numbers = ("8090", "8091", "8092", "9091", "9092", "9093", "80", "8080")
        self.ports = {number: free_port() for number in numbers}
        self._folder = folder
        self._file = folder / "nginx.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, *changes: tuple[str, str]) -> None:
        """The file with these changes: a regular expression, which has to match, and what takes its place."""
        text = CONFIGURATION.read_text()
        for path in ("/run/nginx.pid", "/var/log/nginx/error.log", "/var/log/nginx/flux.log"):
            assert path in text
            text = text.replace(path, str(self._folder / Path(path).name))
        for number, port in self.ports.items():
            text = re.sub(rf"(?<=[ :]){number}(?=[ ;])", str(port), text)
        for old, new in (*changes, *self._of_this_machine()):
            text, count = re.subn(old, new, text)
            assert count, old
        self._file.write_text(text)
        subprocess.run([program(), "-t", "-q", "-c", self._file, "-e", "stderr"], check=True)

    @staticmethod
    def _of_this_machine() -> list[tuple[str, str]]:
        changes = [(r"worker_processes auto", "worker_processes 2")]
        if not Path("/etc/nginx/modules-enabled").is_dir():
            changes.append((r"include /etc/nginx/modules-enabled/.*\n", ""))
        return changes

    def start(self) -> None:
        arguments = [program(), "-c", self._file, "-e", self._folder / "error.log", "-g", "daemon off;"]
        self._process = subprocess.Popen(arguments)
        until(lambda: self._alive() and listens(self.ports["8090"]))
        # That was somebody who came, too: another process of nginx may choose a server for it after the next one's.
        until(lambda: self._alive() and bool(self.log()))

    def reload(self) -> None:
        """Returns when the old processes accept nothing any more."""
        before = self._workers()
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        until(lambda: self._alive() and bool(self._workers() - before))
        until(lambda: all(self._shuts_down(pid) for pid in before))

    @staticmethod
    def _shuts_down(pid: str) -> bool:
        try:
            return b"shutting down" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return True

    def _alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "error.log").read_text()
        return True

    def _workers(self) -> set[str]:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return set(children.read_text().split())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def log(self) -> str:
        return (self._folder / "flux.log").read_text()

    def errors(self) -> str:
        return (self._folder / "error.log").read_text()


def until(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.01)


def program() -> str:
    # Debian has it where only root looks.
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert found, "no nginx: apt-get install nginx-light libnginx-mod-stream"
    return found


class Site:
    """nginx, chat1 and chat2 (and more), and the people who come."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.nginx = Nginx(folder)
        self._folder = folder
        self._stack = stack
        self._places: dict[int, Place] = {}
        self.servers: dict[int, ServerProcess] = {}
        for number in (1, 2):
            self.start(number)
        self._names = iter(f"user{number}" for number in range(1, 10_000))
        stack.callback(self.nginx.stop)

    def _place(self, number: int) -> Place:
        folder = self._folder / f"chat{number}"
        folder.mkdir()
        # Everybody comes from one address, and some are many.
        lifted = {f"limits__{name}": "0" for name in ("connections_per_address", "registrations_per_hour_address")}
        place = Place(folder, self._stack, chat__name=f"chat{number}", **lifted)
        port = self.nginx.ports[f"909{number}"]
        place.settings["chat.listen"] = f"haproxy:tcp:{port}:interface=127.0.0.1:backlog=4096"
        return place

    def start(self, number: int) -> ServerProcess:
        if number not in self._places:
            self._places[number] = self._place(number)
        self.servers[number] = self._places[number].start("flux")
        return self.servers[number]

    def come(self, address: str = "127.0.0.1", port: str = "8090") -> Person:
        """Somebody new from an address, logged in."""
        person = Person(self.nginx.ports[port], address)
        self._stack.callback(person.close)
        name = next(self._names)
        assert person.ask("register", name=name, password=PASSWORD)["type"] == "register.ok"
        person.server = person.ask("login", name=name, password=PASSWORD)["server"]
        return person

    def counts(self, number: int) -> Counter[str]:
        return Counter(self.come().server for _ in range(number))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_each_in_turn_and_by_weight_and_a_reload_leaves_connections_alone(site: Site) -> None:
    site.nginx.configure()
    site.nginx.start()
    assert site.counts(10) == {"chat1": 5, "chat2": 5}
    # Each is reached by a port of its own too.
    assert [site.come(port="8091").server, site.come(port="8092").server] == ["chat1", "chat2"]
    staying = [site.come() for _ in range(4)]
    first = f":{site.nginx.ports['9091']} weight="
    site.nginx.configure((f"{first}1", f"{first}3"))
    site.nginx.reload()
    assert site.counts(12) == {"chat1": 9, "chat2": 3}
    for person in staying:
        assert person.ask("ping")["type"] == "ping.ok"


def test_addresses_are_the_clients_own(site: Site) -> None:
    site.nginx.configure((r"#hash", "hash"))
    site.nginx.start()
    servers = {}
    for last in range(1, 21):
        address = f"127.0.1.{last}"
        person = site.come(address)
        servers[address] = person.server
        site.servers[int(person.server[-1])].wait_for(f"logged in from {address}")
        assert f" {address} to 127.0.0.1:" not in site.nginx.log()
        person.close()
    # By hash of the address: the same one, and not all the same.
    assert set(servers.values()) == {"chat1", "chat2"}
    assert {address: site.come(address).server for address in servers} == servers


def test_when_a_server_is_taken_out_the_others_keep_those_who_had_them(site: Site) -> None:
    last = r"(server 127\.0\.0\.1:)\d+( weight=1 max_fails=2 fail_timeout=10s;\n)(\s+\})"
    second, third = site.nginx.ports["9092"], site.nginx.ports["9093"]
    three = (last, rf"\g<1>{second}\g<2>        \g<1>{third}\g<2>\g<3>")
    site.start(3)
    site.nginx.configure((r"#hash", "hash"), three)
    site.nginx.start()
    before = {address: site.come(address).server for address in (f"127.0.1.{last}" for last in range(1, 31))}
    assert set(before.values()) == {"chat1", "chat2", "chat3"}
    site.nginx.configure((r"#hash", "hash"))
    site.nginx.reload()
    after = {address: site.come(address).server for address in before}
    assert {address for address in before if after[address] != before[address]} == {
        address for address in before if before[address] == "chat3"
    }


def test_a_server_that_dies_gets_nobody_until_it_is_back(site: Site) -> None:
    site.nginx.configure((r"#least_conn", "least_conn"))
    site.nginx.start()
    here = [site.come() for _ in range(4)]
    assert Counter(person.server for person in here) == {"chat1": 2, "chat2": 2}
    # Whoever has the fewest connections.
    before = site.nginx.log().count(": status 200, ")
    for person in here:
        if person.server == "chat2":
            person.close()
    until(lambda: site.nginx.log().count(": status 200, ") == before + 2)
    assert [site.come().server for _ in range(2)] == ["chat2"] * 2
    site.servers[1].signal(signal.SIGKILL)
    site.servers[1].end()
    assert site.counts(6) == {"chat2": 6}
    # Nobody waits for it again: two have tried.
    assert site.nginx.errors().count("connect() failed") == 2
    site.start(1)
    until(lambda: site.come().server == "chat1")


def test_browsers_reach_the_gate_with_their_own_addresses(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nginx = Nginx(tmp_path)
        stack.callback(nginx.stop)
        listen = f"tcp:{nginx.ports['8080']}:interface=127.0.0.1:backlog=4096"
        place = Place(tmp_path, stack, gate__listen=listen, gate__proxies="127.0.0.1")
        server = place.start("flux")
        nginx.configure()
        nginx.start()
        place.log_in("ann")
        here = f"127.0.0.1:{nginx.ports['80']}"

        def open_socket(address: str, page: str) -> ClientConnection:
            return connect(f"ws://{here}/ws", origin=page, source_address=(address, 0))

        assert urlopen(f"http://{here}/").read().startswith(b"<!doctype html>")
        with open_socket("127.0.1.7", f"http://{here}") as socket:
            socket.send(json.dumps({"type": "login", "name": "ann", "password": PASSWORD}))
            assert json.loads(socket.recv())["type"] == "login.ok"
            server.wait_for("logged in from 127.0.1.7")
        with pytest.raises(InvalidStatus, match="403"):
            open_socket("127.0.1.7", "http://elsewhere.example.net")


def test_tls_is_behind_the_header_that_nginx_sends(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nginx, authority = Nginx(tmp_path), Authority(tmp_path)
        stack.callback(nginx.stop)
        certificate, key = authority.issue("localhost")
        place = Place(tmp_path, stack, tls__certificate=str(certificate), tls__key=str(key))
        place.settings["chat.listen"] = f"haproxy:tcp:{nginx.ports['9091']}:interface=127.0.0.1"
        server = place.start("flux")
        nginx.configure()
        nginx.start()
        ann = stack.enter_context(closing(Peer(nginx.ports["8091"], authority, address="127.0.1.7")))
        assert ann.certificate == der(certificate)
        assert ann.ask("register", name="ann", password=PASSWORD)["type"] == "register.ok"
        assert ann.ask("login", name="ann", password=PASSWORD)["type"] == "login.ok"
        server.wait_for("logged in from 127.0.1.7")
