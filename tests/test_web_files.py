"""The web client's files as they are served, and what they may not have in them."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files
from pathlib import Path

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from flux.config import Settings
from flux.gate.site import GateSite
from flux.web.files import client_files

STATIC = Path(str(files("flux.web") / "static"))
FILES = sorted(path.name for path in STATIC.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]


class Answer:
    """What came back."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def ask(path: str, *headers: str, method: str = "GET") -> Answer:
    site = GateSite(Settings(), Clock())
    site.routes.update(client_files())
    channel = site.buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
    channel.connectionLost(Failure(ConnectionDone()))
    return Answer(transport.value())


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_as_what_it_is_and_nothing_else(name: str) -> None:
    answer = ask(f"/{name}")
    assert answer.status == 200
    assert answer.body == (STATIC / name).read_bytes()
    kinds = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


def test_the_page_is_at_the_top() -> None:
    answer = ask("/")
    assert answer.body == (STATIC / "index.html").read_bytes()
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"


def test_what_has_not_changed_is_not_sent_again() -> None:
    first = ask("/main.js")
    again = ask("/main.js", f"If-None-Match: {first.headers['etag']}")
    assert (again.status, again.body) == (304, b"")
    assert ask("/main.js", 'If-None-Match: "another"').status == 200
    # Browsers ask before they use what they have.
    assert first.headers["cache-control"] == "no-cache"


def test_who_takes_it_gets_it_packed() -> None:
    packed = ask("/base.css", "Accept-Encoding: br, gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == (STATIC / "base.css").read_bytes()
    assert packed.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in ask("/base.css", "Accept-Encoding: br").headers


def test_head_has_the_headers_alone() -> None:
    answer = ask("/", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str((STATIC / "index.html").stat().st_size)


@pytest.mark.parametrize(
    ("status", "path"),
    [
        (404, "/nothing"),
        (404, "/main.js/x"),
        (404, "/../files.py"),
        (404, "/%2e%2e/files.py"),
        (404, "/..%2ffiles.py"),
        (404, "//main.js"),
        (404, "/static/main.js"),
        (404, "/main.js%00.css"),
        (404, "/" + "x" * 5000),
    ],
)
def test_there_is_nothing_else(status: int, path: str) -> None:
    answer = ask(path)
    assert answer.status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_files_are_only_read(method: str) -> None:
    answer = ask("/", method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


# --- what is in them ---------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_string_becomes_markup_or_program(name: str) -> None:
    source = (STATIC / name).read_text("utf-8")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|setHTML|srcdoc"
    assert not re.search(forbidden, source)
    assert not re.search(r"setTimeout\(\s*[\"'`]|setInterval\(\s*[\"'`]", source)


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"https?://|//[a-z]", page.replace("http://www.w3.org/2000/svg", ""))
    assert not re.search(r"<style|\son[a-z]+=|\sstyle=|javascript:", page)
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="main.js">']
    for name in FILES:
        if name.endswith(".css"):
            assert not re.search(r"url\(|@import", (STATIC / name).read_text("utf-8")), name


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_imported_is_there_and_exported(name: str) -> None:
    source = (STATIC / name).read_text("utf-8")
    for names, module in re.findall(r'import (?:\{([^}]*)\}|\* as \w+) from "\./([^"]+)"', source):
        other = (STATIC / module).read_text("utf-8")
        for each in filter(None, (part.strip() for part in names.split(","))):
            assert re.search(rf"export (?:async )?(?:function|class|const) {re.escape(each)}\b", other), (module, each)
            assert len(re.findall(rf"\b{re.escape(each)}\b", source)) > 1, f"{each} is not used"


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_too_long_to_read(name: str) -> None:
    assert (STATIC / name).read_text("utf-8").count("\n") <= 400


def test_every_symbol_that_is_used_is_on_the_page() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    symbols = set(re.findall(r'<symbol id="i-([a-z]+)"', page))
    used = set()
    for name in SCRIPTS:
        source = (STATIC / name).read_text("utf-8")
        used |= set(re.findall(r'\b(?:icon|iconButton)\("([a-z]+)"', source))
        used |= set(re.findall(r'\["(clock|check|read)"', source))
    assert used <= symbols
    assert symbols <= used
