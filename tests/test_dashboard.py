"""The dashboard in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Tab
from looks import check_looks
from web_people import PASSWORD, Lines, Server

from flux.bench.servers import free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

TOKEN = "a token of an admin"


class AdminServer(Server):
    """Everything in one process, with an admin port that wants a token."""

    def __init__(self, folder: Path) -> None:
        self.admin_port = free_port()
        secret = folder / "token"
        secret.write_text(TOKEN)
        listen = f"tcp:{self.admin_port}:interface=127.0.0.1"
        super().__init__(folder, admin__listen=listen, admin__token=f"file:{secret}")

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}/"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    server = AdminServer(tmp_path_factory.mktemp("admin-server"))
    yield server
    server.stop()


def come_in(tab: Tab) -> None:
    tab.fill("Admin token (admin.token of the configuration)", TOKEN)
    tab.press("Enter")
    tab.wait_text("chat1", "#servers")


def test_an_admin_sees_the_load_and_drains_a_server(tabs: Callable[..., Tab], server: AdminServer) -> None:
    tab = tabs(server.dashboard)
    tab.wait_text("token needed")
    tab.fill("Admin token (admin.token of the configuration)", "a guess")
    tab.press("Enter")
    tab.wait_text("This is not the token.")
    assert tab.js("document.querySelector('#all').hidden")
    come_in(tab)
    tab.wait_text("ready", "#state")
    ann = Lines(server.chat_port)
    ann.ask("register", name="ann", password=PASSWORD)
    ann.ask("login", name="ann", password=PASSWORD)
    tab.wait_text("1", "#servers .load")
    tab.wait("document.querySelector('#now dd').innerText === '1'", "one session")
    tab.click("Drain chat1")
    tab.click("Really drain chat1?")
    tab.wait_text("draining", "#servers")
    tab.click("Resume chat1")
    tab.wait_text("up", "#servers")
    ann.close()
    tab.wait("document.querySelector('#now dd').innerText === '0'", "no session")


def test_it_says_that_what_one_sees_is_old(tabs: Callable[..., Tab], server: AdminServer) -> None:
    tab = tabs(server.dashboard)
    come_in(tab)
    server.stop()
    tab.wait_text("What you see is old: the server does not answer.")
    server.process = server.start()
    tab.wait_text("ready", "#state")
    assert tab.js("document.querySelector('#away').hidden")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_overlaps_or_sticks_out(tabs: Callable[..., Tab], server: AdminServer, width: int, dark: bool) -> None:
    tab = tabs(server.dashboard, width=width, height=740 if width < 500 else 900, dark=dark)
    tab.wait_text("token needed")
    look = f"dashboard-{width}-{'dark' if dark else 'light'}"
    check_looks(tab, f"{look}-1-token")
    come_in(tab)
    check_looks(tab, f"{look}-2-all")
    tab.click("Drain chat1")
    check_looks(tab, f"{look}-3-sure")
