"""The web client in a real browser when something goes wrong: connections, sessions, clocks, what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Tab
from cable import Cable
from web_people import Lines, Server, leave_chat, open_chat, own_id, said, say, sign_in, sign_up, wait_said, write_to

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def test_what_is_read_while_offline_is_told_afterwards(tabs: Callable[..., Tab], web_server: Server) -> None:
    writer = tabs()
    sign_up(writer, "curious")
    with Cable(web_server.port) as cable:
        reader = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(reader, "away")
        write_to(writer, "away")
        say(writer, "first")
        open_chat(reader, "curious")
        writer.wait_text("Read", ".message.own .stamp")
        leave_chat(reader)
        say(writer, "second")
        reader.wait("document.title === '(1) flux'")
        cable.cut()
        reader.wait_text("connection", ".link-state")
        open_chat(reader, "curious")
        reader.wait("document.title === 'flux'")
        # Receipts go out together, this long after the first; timers end in the order they were set in.
        reader.js("new Promise((resolve) => setTimeout(resolve, 300))")
        cable.mend()
        stamps = "[...document.querySelectorAll('.message.own .stamp')]"
        writer.wait(f"{stamps}.every((e) => e.innerText.includes('Read'))")
        say(writer, "third")
        writer.wait(f"{stamps}.length === 3 && {stamps}.every((e) => e.innerText.includes('Read'))")


def test_what_was_not_sent_goes_out_when_the_same_account_signs_in_again(
    tabs: Callable[..., Tab], web_server: Server, lines: Callable[[str], Lines]
) -> None:
    friend = lines("patient")
    with Cable(web_server.port) as cable:
        tab = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(tab, "nomad")
        uid = own_id(tab)
        write_to(tab, "patient")
        say(tab, "first")
        tab.wait_text("Sent", ".message.own .stamp")
        cable.cut()
        tab.wait_text("connection", ".link-state")
        say(tab, "written on the road 1")
        say(tab, "written on the road 2")
        elsewhere = tabs()
        sign_in(elsewhere, "nomad")
        open_chat(elsewhere, "patient")
        cable.mend()
        # The login elsewhere made this one's token void.
        tab.wait_text("Your session has ended")
        sign_in(tab, "nomad")
        tab.wait("!document.body.innerText.includes('Not sent yet') && document.querySelectorAll('.row').length === 1")
        elsewhere.wait_text("signed in elsewhere")
        elsewhere.wait("document.querySelector('.composer').hidden", "nobody writes where nothing is sent")
        while len(history := friend.ask("history", to=uid)["messages"]) < 3:
            pass
        assert [message["text"] for message in history] == ["first", "written on the road 1", "written on the road 2"]
        open_chat(tab, "patient")
        wait_said(tab, ["first", "written on the road 1", "written on the road 2"])


def test_without_a_connection_nobody_is_said_to_be_there(
    tabs: Callable[..., Tab], web_server: Server, lines: Callable[[str], Lines]
) -> None:
    friend = lines("lighthouse")
    with Cable(web_server.port) as cable:
        tab = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(tab, "sailor")
        uid = own_id(tab)
        friend.ask("friend.add", to=uid)
        friend.ask("send", to=uid, text="ahoy")
        tab.click("People")
        tab.click("Accept lighthouse")
        open_chat(tab, "lighthouse")
        there = "document.querySelectorAll('.avatar.online').length"
        tab.wait(f"{there} === 2")
        tab.wait_text("Online", ".chat-head")
        tab.wait_text("Online", ".side")
        cable.cut()
        tab.wait_text("connection", ".link-state")
        tab.wait(f"{there} === 0")
        assert "line" not in tab.text(".chat-head p") + tab.text(".side .row-last")
        cable.mend()
        tab.wait(f"{there} === 2")
        tab.wait_text("Online", ".chat-head")


def test_history_that_was_cut_off_is_read_after_the_next_login(
    tabs: Callable[..., Tab], web_server: Server, lines: Callable[[str], Lines]
) -> None:
    writer = lines("novelist")
    with Cable(web_server.port) as cable:
        tab = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(tab, "unlucky")
        writer.ask("send", to=own_id(tab), text="chapter one")
        tab.wait_text("novelist", ".side")
        cable.swallow()
        open_chat(tab, "novelist")
        tab.wait_text("Loading", ".log-top")
        cable.cut()
        tab.wait_text("connection was lost", ".log-top")
        cable.mend()
        tab.wait_text("This is where it began", ".log-top")
        tab.wait("!document.querySelector('.row .badge')", "what is in sight is read")


def test_a_day_that_comes_twice_stands_there_twice_and_not_more_often(
    tabs: Callable[..., Tab], web_server: Server, lines: Callable[[str], Lines]
) -> None:
    lines("calendar")
    with Cable(web_server.port) as cable:
        tab = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(tab, "early")
        write_to(tab, "calendar")
        say(tab, "today")
        tab.wait_text("Sent", ".message.own .stamp")
        cable.cut()
        tab.wait_text("connection", ".link-state")
        # This machine's clock is a day behind, and is then put right.
        tab.js("window.now = Date.now; Date.now = () => now() - 86_400_000; 0")
        say(tab, "yesterday")
        tab.js("Date.now = now; 0")
        for text in ("one", "two", "three"):
            say(tab, text)
            tab.wait_text(text, ".log")
        assert tab.texts(".log-list .day") == ["Today", "Yesterday", "Today"]
        cable.mend()
        tab.wait("!document.querySelector('.log').innerText.includes('Not sent yet')")
        assert tab.texts(".log-list .day") == ["Today"]
        assert said(tab) == ["today", "yesterday", "one", "two", "three"]


def test_what_the_server_cannot_read_is_marked_and_holds_nothing_up(tabs: Callable[..., Tab], tmp_path: Path) -> None:
    server = Server(tmp_path, limits__max_line="1k")
    try:
        tab, other = tabs(server.url), tabs(server.url)
        sign_up(tab, "ann")
        sign_up(other, "bob")
        write_to(tab, "bob")
        say(tab, "x" * 1500)
        say(tab, "short")
        tab.wait_text("Not sent. This is too long for the server.", ".log")
        tab.click("Discard")
        open_chat(other, "ann")
        wait_said(other, ["short"])
        # Half a character.
        half = "'half \\ud83d'; found.dispatchEvent(new Event('input'))"
        tab.js(f"window.found = document.querySelector('.composer textarea'); found.value = {half}")
        tab.click("Send")
        wait_said(other, ["short", "half \ufffd"])
        tab.click("ann: profile and signing out")
        tab.js(f"window.found = document.querySelector('dialog [name=nick]'); found.value = {half}")
        tab.click("Save")
        tab.wait("document.querySelector('dialog .problem:not(:empty)')", "the form says that it was not taken")
        assert tab.count(".link-state") == 0
    finally:
        server.stop()
