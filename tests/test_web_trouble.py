"""The web client in a real browser when something goes wrong: connections, sessions, clocks, what cannot be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser import Tab
from cable import Cable
from web_people import Server, say, sign_up, write_to

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def test_what_is_read_while_offline_is_told_afterwards(tabs: Callable[..., Tab], web_server: Server) -> None:
    writer = tabs()
    sign_up(writer, "curious")
    with Cable(web_server.port) as cable:
        reader = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(reader, "away")
        write_to(writer, "away")
        say(writer, "first")
        reader.click("curious", ".side")
        writer.wait_text("Read", ".message.own .stamp")
        reader.press("Escape")
        reader.wait("location.hash === '#/'")
        say(writer, "second")
        reader.wait("document.title === '(1) flux'")
        cable.cut()
        reader.wait_text("connection", ".link-state")
        reader.click("curious", ".side")
        reader.wait("document.title === 'flux'")
        # Receipts go out together, this long after the first; timers end in the order they were set in.
        reader.js("new Promise((resolve) => setTimeout(resolve, 300))")
        cable.mend()
        stamps = "[...document.querySelectorAll('.message.own .stamp')]"
        writer.wait(f"{stamps}.every((e) => e.innerText.includes('Read'))")
        say(writer, "third")
        writer.wait(f"{stamps}.length === 3 && {stamps}.every((e) => e.innerText.includes('Read'))")
