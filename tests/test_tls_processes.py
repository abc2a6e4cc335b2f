"""TLS in whole processes: signals, workers, PROXY headers, and the commands that ask a process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from certificates import Authority
from processes import PASSWORD, Place, ended, shared_by_all, start_admin
from pty_terminal import terminal
from server_process import environment
from tls_parts import Peer, client_context, der, shown
from websockets.sync.client import connect as connect_websocket

from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def with_tls(authority: Authority, folder: Path, host: str = "localhost") -> dict[str, str]:
    """Settings with a certificate that :meth:`Authority.issue` replaces in the file ``server``."""
    authority.issue(host, days=60, file="server")
    return {"tls__certificate": str(folder / "server.crt"), "tls__key": str(folder / "server.key")}


def log_in(peer: Peer, name: str) -> int:
    uid = int(peer.ask("register", name=name, password=PASSWORD)["id"])
    assert peer.ask("login", name=name, password=PASSWORD)["type"] == "login.ok"
    return uid


def test_a_renewal_by_signal_and_one_that_went_wrong(tmp_path: Path, stack: ExitStack, authority: Authority) -> None:
    place = Place(tmp_path, stack, **with_tls(authority, tmp_path))
    process = place.start("flux")
    old = der(tmp_path / "server.crt")
    ann = stack.enter_context(closing(Peer(place.chat, authority)))
    log_in(ann, "ann")
    authority.issue("localhost", days=90, file="server")
    new = der(tmp_path / "server.crt")
    process.signal(signal.SIGHUP)
    process.wait_for("new connections get the certificate that is for localhost and expires in 90 days")
    process.wait_for("SIGHUP: changed tls.certificate")
    assert shown(place.chat, authority) == new
    # A key that does not belong to it, half a file: everything stays as it was, and the log says why.
    good = (tmp_path / "server.key").read_bytes()
    _, other = authority.issue("other.example.net")
    (tmp_path / "server.key").write_bytes(other.read_bytes())
    process.signal(signal.SIGHUP)
    process.wait_for(f"SIGHUP: tls.key: {tmp_path}/server.key does not belong to the certificate in")
    process.wait_for("SIGHUP: the settings stay as they are until the configuration is right")
    assert shown(place.chat, authority) == new
    (tmp_path / "server.key").write_bytes(good[: len(good) // 2])
    process.signal(signal.SIGHUP)
    process.wait_for(f"SIGHUP: tls.key: {tmp_path}/server.key holds no private key (PEM) that can be used")
    bob = stack.enter_context(closing(Peer(place.chat, authority)))
    assert bob.certificate == new
    uid = log_in(bob, "bob")
    assert ann.certificate == old
    assert ann.ask("send", to=uid, text="hello")["type"] == "send.ok"
    assert bob.next()["text"] == "hello"
    process.signal(signal.SIGTERM)
    assert ann.next() == {"type": "kicked", "reason": "shutdown"}
    assert ann.next() == {"type": "closed"}
    assert process.end() == (0, "")


def test_a_start_that_cannot_use_the_certificate_says_so(
    tmp_path: Path, stack: ExitStack, authority: Authority
) -> None:
    place = Place(tmp_path, stack, **with_tls(authority, tmp_path))
    (tmp_path / "server.key").unlink()
    with pytest.raises(AssertionError) as failed:
        place.start("flux")
    said = str(failed.value)
    assert f"tls.key: {tmp_path}/server.key cannot be read: No such file or directory" in said
    assert "Traceback" not in said


def test_workers_behind_a_proxy(
    tmp_path: Path, stack: ExitStack, authority: Authority, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    """All have the certificate, on the shared port and on their own, after the PROXY header, and all renew it."""
    place = Place(
        tmp_path, stack, chat__workers="2", **with_tls(authority, tmp_path),
        **shared_by_all(redis_server, postgres_server, "tls_workers"),
    )  # fmt: skip
    place.settings["chat.listen"] = f"haproxy:tcp:{place.chat}:interface=127.0.0.1"
    process = place.start("flux")
    status, output, _ = place.admin("servers", "--json")
    assert status == 0
    servers = json.loads(output)
    assert [server["tls"] for server in servers] == [True, True]
    ports = [place.chat, *(server["port"] for server in servers)]

    def come(port: int, number: int = 1) -> Peer:
        header = f"PROXY TCP4 203.0.113.{number} 127.0.0.1 40000 {port}\r\n".encode()
        return stack.enter_context(closing(Peer(port, authority, before=header)))

    ann = come(place.chat, 9)
    log_in(ann, "ann")
    process.wait_for("logged in from 203.0.113.9")
    assert {come(port).certificate for port in ports} == {der(tmp_path / "server.crt")}
    authority.issue("localhost", days=90, file="server")
    process.signal(signal.SIGHUP)
    # The supervisor says so, too.
    for _ in ("supervisor", *servers):
        process.wait_for("SIGHUP: changed tls.certificate")
    new = der(tmp_path / "server.crt")
    assert {come(port).certificate for port in ports for _ in range(4)} == {new}
    assert ann.ask("ping")["type"] == "ping.ok"
    process.signal(signal.SIGTERM)
    assert process.end() == (0, "")


def test_a_gate_reaches_status_service_and_chat_server_by_tls(
    tmp_path: Path, stack: ExitStack, authority: Authority, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    """Browsers too: relayed, with the client's own address in a PROXY header before TLS."""
    place = Place(
        tmp_path, stack, **with_tls(authority, tmp_path), tls__ca=str(authority.path),
        **shared_by_all(redis_server, postgres_server, "tls_gate"),
    )  # fmt: skip
    gate = free_port()
    place.settings |= {
        "chat.listen": f"haproxy:tcp:{place.chat}:interface=127.0.0.1",
        "chat.advertise": f"localhost:{place.chat}",
        "tls.listeners": "chat, status, gate",
        "status.cluster_key": "0123456789abcdef",
    }
    place.start("flux-status")
    chat = place.start("flux-chat")
    place.settings |= {
        "gate.listen": f"tcp:{gate}:interface=127.0.0.1",
        "gate.status": f"localhost:{place.status}",
        "gate.status_tls": "yes",
        "gate.proxy_header": "yes",
        "gate.proxies": "127.0.0.1",
        "gate.require_code": "no",
    }
    place.start("flux-gate")

    def ask(path: str, **body: object) -> dict[str, object]:
        request = Request(
            f"https://localhost:{gate}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, context=client_context(authority)) as answer:
            return dict(json.load(answer))

    uid = ask("/v1/accounts", name="ann", password=PASSWORD)["id"]
    login = ask("/v1/login", name="ann", password=PASSWORD)
    assert (login["host"], login["port"], login["tls"]) == ("localhost", place.chat, True)
    assert login["websocket"] == "/ws?server=chat1"
    with connect_websocket(
        f"wss://localhost:{gate}{login['websocket']}",
        ssl=client_context(authority),
        additional_headers={"X-Forwarded-For": "203.0.113.77"},
    ) as browser:
        browser.send(json.dumps({"type": "login", "id": uid, "token": login["token"]}))
        assert json.loads(browser.recv())["type"] == "login.ok"
        chat.wait_for("logged in from 203.0.113.77")


def test_admins_and_checks(tmp_path: Path, stack: ExitStack, authority: Authority) -> None:
    """On this machine the configuration says whose certificate it has to be, not the address."""
    admin = free_port()
    place = Place(tmp_path, stack, **with_tls(authority, tmp_path, "*.chat.example.net"))
    place.settings |= {
        "tls.listeners": "chat, status, admin",
        "admin.listen": f"tcp:{admin}:interface=127.0.0.1",
        "admin.token": "0123456789abcdef",
        "status.cluster_key": "0123456789abcdef",
    }
    given = [option for key, value in place.settings.items() for option in ("--set", f"{key}={value}")]
    trusting = ["--set", f"tls.ca={authority.path}"]

    def check() -> str:
        command = [sys.executable, "-c", "from flux.cli.main import main; main()", "check", *given]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        return done.stdout

    output = check()
    assert f"ms  certificate {tmp_path}/server.crt\n" in output
    assert re.search(r"\n +it is for \*\.chat\.example\.net and expires in 60 days, on 20", output)
    assert re.search(r"\n +for chat, status, admin \(tls\.listeners\)\n", output)

    place.start("flux")
    assert ended(start_admin("reload", *given, *trusting)) == (0, "changed: nothing\n", "")
    # Even where nobody is trusted who has signed it: it is the very certificate that the file has.
    assert ended(start_admin("servers", *given))[0] == 0
    assert ended(start_admin("stats", *given))[0] == 0
    # A port that is told has to have a certificate for that host.
    told = ["--status", f"127.0.0.1:{place.status}"]
    status, _, problem = ended(start_admin("servers", *given, *trusting, *told))
    assert (status, "its certificate is not for 127.0.0.1" in problem) == (2, True)
    told = ["--admin", f"127.0.0.1:{admin}", "--tls", "--cafile", str(authority.path)]
    status, _, problem = ended(start_admin("stats", "--set", "admin.token=0123456789abcdef", *told))
    assert (status, "certificate is not valid for '127.0.0.1'" in problem) == (2, True)
    # Another server that took the port would not be told the token.
    Authority(tmp_path, "stranger").issue("*.chat.example.net", file="server")
    status, _, problem = ended(start_admin("stats", *given))
    assert (status, "unable to get local issuer certificate" in problem) == (2, True)
    status, _, problem = ended(start_admin("servers", *given))
    assert (status, "signed by nobody who is trusted here" in problem) == (2, True)
    expired, _ = authority.issue("x.chat.example.net", days=-1, file="server")
    assert re.search(rf"^FAILED +\d+ ms  certificate {re.escape(str(expired))}$", check(), re.MULTILINE)


def test_a_person_at_a_terminal(tmp_path: Path, stack: ExitStack, authority: Authority) -> None:
    place = Place(tmp_path, stack, **with_tls(authority, tmp_path))
    place.start("flux")
    flux = [sys.executable, "-c", "from flux.cli.main import main; raise SystemExit(main())", "chat"]
    trusting = ["--tls", "--cafile", str(authority.path)]
    person = stack.enter_context(terminal([*flux, *trusting, f"localhost:{place.chat}"], tmp_path, environment()))
    person.wait_for("(r)egister")
    person.type("r")
    for question, answer in (("name:", "ann"), ("password:", PASSWORD), ("password again:", PASSWORD)):
        person.wait_for(question)
        person.type(answer)
    person.wait_for("Welcome, ann")
    # Without being told of it.
    person = stack.enter_context(
        terminal([*flux, "--user", "ann", f"localhost:{place.chat}"], tmp_path, {**environment(), "FLUX_PASSWORD": "x"})
    )
    person.wait_for("perhaps it wants TLS")

    def refused(*arguments: str) -> str:
        done = subprocess.run([*flux, *arguments], env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr

    assert refused("--cafile", "x") == "flux chat: --cafile is for TLS: give --tls, or --gate https://...\n"
    gone = f"flux chat: --cafile {tmp_path}/gone: No such file or directory\n"
    assert refused("--tls", "--cafile", f"{tmp_path}/gone") == gone
    assert "(try: openssl s_client -quiet -connect localhost:1)" in refused("--tls", "localhost:1")
