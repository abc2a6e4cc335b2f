"""How the web client looks in a real browser, at the sizes of a phone, a tablet and a screen, light and dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser import Tab
from looks import check_looks
from web_people import Lines, own_id, say, sign_up

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_overlaps_or_sticks_out(
    tabs: Callable[..., Tab], lines: Callable[[str], Lines], width: int, dark: bool
) -> None:
    look = f"{width}-{'dark' if dark else 'light'}"
    tab = tabs(width=width, height=740 if width < 500 else 900, dark=dark)

    def check(name: str) -> None:
        check_looks(tab, f"{look}-{name}")

    check("1-sign-in")
    tab.click("Create an account")
    tab.wait_text("At least")
    tab.fill("Name", "x")
    tab.press("Enter")
    tab.wait_text("This is needed")
    check("2-sign-up")
    tab.reload()
    sign_up(tab, f"Somebody {look}")
    check("3-nothing-yet")
    friend = lines(f"Wilhelmina Featherstonehaugh-Cholmondeley {look[:6]}")
    uid = own_id(tab)
    friend.ask("friend.add", to=uid, note="It was nice to meet you at the conference last week, let us stay in touch!")
    for text in ("Hi!", "A longer one. " * 12, "https://example.net/" + "a" * 90, "\U0001f600"):
        friend.ask("send", to=uid, text=text)
    group = friend.ask(
        "group.create", name="A group with quite a long name, as they have", description="And what it is about " * 4
    )["group"]
    tab.wait_text("4", ".row .badge")
    tab.click("People")
    tab.wait_text("Want to be friends")
    check("4-people")
    tab.click("Accept Wilhelmina Featherstonehaugh-Cholmondeley " + look[:6])
    tab.wait_text("Online")
    check("5-friend")
    tab.click("Chats")
    tab.click("a.row", ".side")
    tab.wait("document.querySelectorAll('.bubble').length === 4")
    say(tab, "An answer")
    say(tab, "And another one, which is a little longer than that")
    tab.wait("document.querySelectorAll('.message.own').length === 2")
    check("6-conversation")
    if width < 500:
        tab.click("Back")
    tab.click("New group")
    check("7-new-group")
    tab.fill("Number of the group", str(group))
    tab.click("Join")
    tab.wait_text("A group with", ".chat-head")
    friend.ask("send", group=group, text="Welcome, everybody")
    tab.wait_text("Welcome", ".log")
    check("8-group")
    tab.click("About the group")
    tab.wait("document.querySelectorAll('.members .row').length === 2")
    check("9-about-the-group")
    tab.press("Escape")
    if width < 500:
        tab.click("Back")
    check("10-list")
    tab.click(f"Somebody {look}: profile and signing out")
    check("11-profile")
    tab.press("Escape")
    tab.click("New conversation")
    tab.fill("Who?", "Wil")
    tab.wait_text("Wilhelmina", "dialog")
    check("12-find")
