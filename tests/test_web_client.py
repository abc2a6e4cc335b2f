"""The web client in a real browser: people in tabs of their own, against a whole server."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from browser import Tab
from cable import Cable
from web_people import (
    PASSWORD,
    Lines,
    Server,
    leave_chat,
    open_chat,
    own_id,
    said,
    say,
    sign_in,
    sign_up,
    try_now,
    wait_said,
    write_to,
)

from flux.bench.servers import free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


# --- signing in --------------------------------------------------------------


def test_mistakes_are_shown_beside_what_caused_them(tabs: Callable[..., Tab], lines: Callable[[str], Lines]) -> None:
    lines("taken")
    tab = tabs()
    problem = "[data-field={}] .problem"
    sign_in(tab, "taken", "not the password")
    tab.wait_text("do not match", problem.format("password"))
    sign_in(tab, "", "x")
    tab.wait_text("This is needed", problem.format("who"))
    assert tab.js("document.activeElement.name") == "who"
    tab.click("Create an account")
    tab.wait_text("At least 8 characters")
    tab.fill("Name", "taken")
    tab.fill("Password", PASSWORD)
    tab.press("Enter")
    tab.wait_text("taken", problem.format("name"))
    tab.fill("Name", "new one")
    # What was wrong is not, once it is written anew.
    assert tab.text(problem.format("name")) == ""
    tab.fill("Password", "short")
    tab.press("Enter")
    tab.wait_text("at least 8 characters", problem.format("password"))
    assert tab.js("document.activeElement.getAttribute('aria-invalid')") == "true"


def test_a_session_outlives_the_page_and_keeps_no_password(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    sign_up(tab, "keeper")
    stored = tab.js("JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])")
    assert PASSWORD not in stored
    assert "token" in stored
    tab.reload()
    tab.wait_text("keeper", ".me")
    tab.click("keeper: profile and signing out")
    tab.click("Sign out")
    tab.wait_text("You are signed out")
    assert tab.js("sessionStorage.length") == 0
    tab.reload()
    tab.wait_text("Sign in")


def test_plain_http_from_another_machine_will_do(tabs: Callable[..., Tab], web_server: Server) -> None:
    tab = tabs(web_server.url.replace("127.0.0.1", "plain.test"))
    assert tab.js("isSecureContext") is False
    sign_up(tab, "plain")
    other = tabs()
    sign_up(other, "fancy")
    write_to(tab, "fancy")
    say(tab, "hello")
    open_chat(other, "plain")
    other.wait_text("hello", ".log")


def test_a_second_place_takes_over_and_the_first_can_have_it_back(tabs: Callable[..., Tab]) -> None:
    first = tabs()
    sign_up(first, "twice")
    second = tabs()
    sign_in(second, "twice")
    second.wait_text("No conversations yet")
    first.wait_text("signed in elsewhere")
    first.click("Use it here")
    # A login makes the token before it void.
    first.wait_text("Your session has ended")
    sign_in(first, "twice")
    first.wait_text("No conversations yet")
    second.wait_text("signed in elsewhere")


# --- chatting ----------------------------------------------------------------


def test_two_people_become_friends_and_chat(tabs: Callable[..., Tab]) -> None:
    ann, bob = tabs(), tabs(width=360, height=740, dark=True)
    sign_up(ann, "ann")
    sign_up(bob, "bob")
    ann.click("New conversation")
    ann.fill("Who?", "bo")
    ann.click("Ask bob to be a friend")
    ann.wait_text("Asked to be a friend")
    ann.click("Write")
    bob.click("People")
    bob.wait_text("Want to be friends")
    bob.click("Accept ann")
    bob.wait_text("Online")
    ann.wait("document.querySelector('.chat-head .avatar.online')")
    say(ann, "Hello Bob")
    bob.wait("document.title === '(1) flux'")
    bob.click("Chats")
    bob.wait_text("1", ".row.unread .badge")
    # Not read yet, so not marked so.
    ann.wait_text("Sent", ".message.own .stamp")
    open_chat(bob, "ann")
    bob.wait_text("Hello Bob", ".log")
    ann.wait_text("Read", ".message.own .stamp")
    bob.wait("document.title === 'flux'")
    bob.type("Hel")
    ann.wait_text("writing", ".chat-head")
    bob.type("lo Ann")
    bob.click("Send")
    wait_said(ann, ["Hello Bob", "Hello Ann"])
    assert "writing" not in ann.text(".chat-head")
    # A new line, and what looks like markup.
    ann.js("document.querySelector('.composer textarea').focus()")
    ann.type("two")
    ann.press("Enter", shift=True)
    ann.type("lines")
    ann.press("Enter")
    wait_said(bob, ["Hello Bob", "Hello Ann", "two\nlines"])
    bob.click("Back")
    bob.wait_text("ann", ".side")


def test_markup_is_text_wherever_it_stands(tabs: Callable[..., Tab]) -> None:
    evil = "<img src=x onerror='window.hacked=1'>"
    script = "<script>window.hacked=1</script> javascript:hacked=1 https://example.net/?a=<b>"
    one, other = tabs(), tabs()
    sign_up(one, evil)
    sign_up(other, "<b>bold</b>")
    write_to(one, "<b>bold</b>")
    say(one, evil)
    say(one, script)
    other.wait_text(evil, ".side")
    open_chat(other, evil)
    wait_said(other, [evil, script.replace("https://example.net/?a=", "")])
    assert other.js("document.querySelector('.bubble a').href") == "https://example.net/?a="
    other.click("New group")
    other.fill("Name", evil)
    other.fill("What it is about", script)
    other.click("Make the group")
    other.wait_text(evil, ".chat-head")
    other.wait_text("<script>", ".chat-head")
    for tab in (one, other):
        assert tab.js("window.hacked") is None
        assert tab.count("#app img:not([src='favicon.svg']), #app script, #app b") == 0


def test_a_lost_connection_loses_nothing_and_doubles_nothing(
    tabs: Callable[..., Tab], web_server: Server, lines: Callable[[str], Lines]
) -> None:
    sender = lines("steady")
    with Cable(web_server.port) as cable:
        tab = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(tab, "shaky")
        uid = own_id(tab)
        write_to(tab, "steady")
        say(tab, "first")
        wait_said(tab, ["first"])
        sender.ask("send", to=uid, text="heard")
        tab.wait_text("heard", ".log")

        # What is written is stored, but nobody hears of it; then the line is dead.
        cable.swallow()
        say(tab, "stored, not confirmed")
        sender.ask("send", to=uid, text="sent, not arrived")
        while len(history := sender.ask("history", to=uid)["messages"]) < 4:
            pass
        assert history[-1]["text"] == "stored, not confirmed" or history[-2]["text"] == "stored, not confirmed"
        cable.cut()
        tab.wait_text("connection", ".link-state")
        for number in range(60):
            sender.ask("send", to=uid, text=f"while away {number}")
        say(tab, "written while away 1")
        say(tab, "written while away 2")
        stamps = "[...document.querySelectorAll('.message.own .stamp')]"
        tab.wait(f"{stamps}.filter((e) => e.innerText.includes('Not sent yet')).length === 3")
        cable.mend()
        try_now(tab)
        tab.wait("!document.querySelector('.link-state')")
        tab.wait("!document.querySelector('.log').innerText.includes('Not sent yet')")
        history = sender.ask("history", to=uid, limit=200)["messages"]
        texts = [message["text"] for message in history]
        assert len(texts) == len(set(texts)) == 66
        assert [text for text in texts if text.startswith("written")] == [
            "written while away 1",
            "written while away 2",
        ]
        tab.wait_text("while away 59", ".log")
        # As much of it as one page of history has, and on demand the rest.
        assert said(tab) == texts[-len(said(tab)) :]
        tab.js("document.querySelector('.log').scrollTop = 0")
        wait_said(tab, texts)


def test_the_page_comes_back_after_the_server_was_killed(tabs: Callable[..., Tab], tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        tab, other = tabs(server.url), tabs(server.url)
        sign_up(tab, "ann")
        sign_up(other, "bob")
        write_to(tab, "bob")
        say(tab, "before")
        wait_said(tab, ["before"])
        server.stop(signal.SIGKILL)
        tab.wait_text("connection", ".link-state")
        say(tab, "in between")
        server.process = server.start()
        # The tokens were in the memory of the server that is gone.
        for each, name in ((tab, "ann"), (other, "bob")):
            each.wait_text("Your session has ended")
            sign_in(each, name)
            each.wait_text("in between", ".side")
    finally:
        server.stop()


def test_what_is_refused_says_why_and_can_be_tried_again(
    tabs: Callable[..., Tab], lines: Callable[[str], Lines]
) -> None:
    other = lines("picky")
    tab = tabs()
    sign_up(tab, "bothersome")
    uid = own_id(tab)
    write_to(tab, "picky")
    other.ask("user.block", id=uid)
    say(tab, "let me in")
    tab.wait_text("Not sent. You cannot write here.", ".log")
    tab.click("Try again")
    tab.wait_text("Not sent. You cannot write here.", ".log")
    other.ask("user.unblock", id=uid)
    tab.click("Try again")
    tab.wait_text("Sent", ".message.own .stamp")
    assert [message["text"] for message in other.ask("history", to=uid)["messages"]] == ["let me in"]
    other.ask("user.block", id=uid)
    say(tab, "again")
    tab.click("Discard")
    wait_said(tab, ["let me in"])


def test_who_is_blocked_is_no_friend_any_more(tabs: Callable[..., Tab], lines: Callable[[str], Lines]) -> None:
    other = lines("pest")
    tab = tabs()
    sign_up(tab, "patience")
    uid = own_id(tab)
    other.ask("friend.add", to=uid)
    tab.click("People")
    tab.click("Accept pest")
    tab.click("More about pest")
    tab.click("Block")
    tab.wait_text("Blocked")
    tab.wait("!document.querySelector('.side').innerText.includes('pest')")
    assert other.ask("friends")["friends"] == []


def test_who_is_banned_is_told_why(tabs: Callable[..., Tab], tmp_path: Path) -> None:
    admin = free_port()
    server = Server(tmp_path, **{"admin.listen": f"tcp:{admin}:interface=127.0.0.1"})
    try:
        tab = tabs(server.url)
        sign_up(tab, "vandal")
        body = json.dumps({"user": "vandal", "reason": "<b>spam</b>"}).encode()
        url = f"http://127.0.0.1:{admin}/api/ban"
        with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=10) as answer:
            assert json.load(answer)["ending"]["session"] == "ended"
        tab.wait_text("ended by an administrator. This account is banned: <b>spam</b>.", ".notice")
        sign_in(tab, "vandal")
        tab.wait_text("This account is banned: <b>spam</b>.", ".form")
    finally:
        server.stop()


# --- the password, dialogs, drafts -------------------------------------------


def test_who_changes_the_password_stays_signed_in(tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    sign_up(tab, "careful")
    before = tab.js("sessionStorage['flux.session']")
    tab.click("careful: profile and signing out")
    tab.fill("Password now", PASSWORD)
    tab.fill("New password", "battery staple")
    tab.click("Change the password")
    tab.wait_text("Changed.", "dialog")
    tab.wait(f"sessionStorage['flux.session'] !== {json.dumps(before)}", "the tab has a new token")
    assert tab.count(".link-state") == 0
    tab.reload()
    tab.wait_text("careful", ".me")


def test_no_dialog_stands_before_what_the_page_has_to_say(tabs: Callable[..., Tab]) -> None:
    first = tabs()
    sign_up(first, "distracted")
    first.click("New conversation")
    first.wait("document.querySelector('dialog[open]')")
    second = tabs()
    sign_in(second, "distracted")
    first.wait_text("signed in elsewhere")
    first.wait("!document.querySelector('dialog')")
    first.click("New conversation")
    first.wait("document.querySelector('dialog[open]')")
    # What the banner offers is found where it is, not in the dialog.
    first.js("[...document.querySelectorAll('.link-state button')].find((e) => e.innerText === 'Use it here').click()")
    first.wait_text("Your session has ended")
    first.wait("!document.querySelector('dialog')")


def test_what_can_be_pressed_stays_while_the_words_beside_it_change(
    tabs: Callable[..., Tab], web_server: Server
) -> None:
    with Cable(web_server.port) as cable:
        tab = tabs(f"http://127.0.0.1:{cable.port}/")
        sign_up(tab, "patient one")
        cable.cut()
        # The pauses grow, so there is one of several seconds.
        tab.wait("/in [3-9] s/.test(document.querySelector('.link-text')?.innerText)")
        tab.js("window.button = document.querySelector('.link-state button'); button.focus()")
        tab.js("window.words = document.querySelector('.link-text').innerText")
        tab.wait("document.querySelector('.link-text').innerText !== words")
        assert tab.js("document.activeElement === button && button.isConnected")
        cable.mend()
        tab.press("Enter")
        tab.wait("!document.querySelector('.link-state')")


def test_a_draft_is_there_when_the_conversation_is_opened_again(
    tabs: Callable[..., Tab], lines: Callable[[str], Lines]
) -> None:
    lines("listener")
    tab = tabs()
    sign_up(tab, "hesitant")
    write_to(tab, "listener")
    say(tab, "once upon a time")
    tab.js("document.querySelector('.composer textarea').focus()")
    tab.type("to be contin")
    leave_chat(tab)
    open_chat(tab, "listener")
    tab.wait("document.activeElement.value === 'to be contin'")
    tab.type("ued")
    tab.press("Enter")
    wait_said(tab, ["once upon a time", "to be continued"])
    leave_chat(tab)
    open_chat(tab, "listener")
    tab.wait("document.activeElement.value === ''")
    # Pressing what is open already means to go on writing there.
    tab.js("document.activeElement.blur()")
    tab.click("listener", ".side")
    tab.wait("document.activeElement.matches('.composer textarea')")
    assert tab.js("location.hash") != "#/"
