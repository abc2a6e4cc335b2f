"""The web client in a real browser: what is still there when a page comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from browser import Tab
from web_people import PASSWORD, Lines, Server, open_chat, own_id, say, sign_in, sign_up, try_now, wait_said, write_to

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def read(reader: Lines, chat: int, seq: int) -> None:
    """Read a chat, and return when the server has that in its store."""
    reader.tell("read", chat=chat, seq=seq)
    while {row["chat"]: row["read"] for row in reader.ask("chats")["chats"]}[chat] < seq:
        pass


def test_what_was_read_stays_read(tabs: Callable[..., Tab], lines: Callable[[str], Lines]) -> None:
    reader = lines("bookworm")
    tab = tabs()
    sign_up(tab, "author")
    uid = own_id(tab)
    group = reader.ask("group.create", name="Club")["group"]
    reader.ask("group.add", group=group, id=uid)
    stamps = "[...document.querySelectorAll('.message.own .stamp')]"
    states = f"{stamps}.map((e) => e.innerText.includes('Read')).join() === 'true,false'"

    def look(here: Tab) -> None:
        for place in ("Club", "bookworm"):
            open_chat(here, place)
            here.wait(states, f"one of two is read in {place}")

    write_to(tab, "bookworm")
    for text in ("one", "two"):
        say(tab, text)
    wait_said(tab, ["one", "two"])
    open_chat(tab, "Club")
    for text in ("one", "two"):
        say(tab, text)
    wait_said(tab, ["one", "two"])
    tab.wait(f"{stamps}.every((e) => e.innerText.includes('Sent'))")
    for chat in [row["chat"] for row in reader.ask("chats")["chats"]]:
        read(reader, chat, 1)
    look(tab)
    tab.reload()
    look(tab)
    other = tabs()
    sign_in(other, "author")
    look(other)


def test_a_draft_outlives_the_page_and_the_session_but_no_signing_out(tabs: Callable[..., Tab], tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        tab = tabs(server.url)
        with closing(Lines(server.chat_port)) as bob:
            bob.ask("register", name="bob", password=PASSWORD)
        sign_up(tab, "ann")
        write_to(tab, "bob")
        say(tab, "sent")
        wait_said(tab, ["sent"])
        tab.type("half a sentence")
        tab.reload()
        written = "document.querySelector('.composer textarea').value"
        tab.wait(f"{written} === 'half a sentence'")

        def restart() -> None:
            # The tokens are in the memory of the server, and gone with it.
            server.stop()
            server.process = server.start()
            try_now(tab)
            tab.wait_text("Your session has ended")

        restart()
        assert tab.js("document.querySelector('[name=who]').value") == "ann"
        assert tab.js("document.activeElement.name") == "password"
        sign_up(tab, "eve")
        write_to(tab, "bob")
        assert tab.js(written) == "", "it is ann's"
        restart()
        sign_in(tab, "ann")
        open_chat(tab, "bob")
        tab.wait(f"{written} === 'half a sentence'")
        tab.click("ann: profile and signing out")
        tab.click("Sign out")
        tab.wait_text("You are signed out")
        assert tab.js("document.querySelector('[name=who]').value") == ""
        assert tab.js("sessionStorage.length") == 0
        sign_in(tab, "ann")
        open_chat(tab, "bob")
        wait_said(tab, ["sent"])
        assert tab.js(written) == ""
    finally:
        server.stop()
