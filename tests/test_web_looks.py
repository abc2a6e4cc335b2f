"""How the web client looks in a real browser: nothing overlaps, sticks out or is cut off.

With ``FLUX_SCREENSHOTS=FOLDER`` there are pictures, for people who want to look.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Tab
from web_people import Lines, say, sign_up

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


MISPLACED = """
(() => {
  const found = [];
  const frame = [innerWidth, innerHeight];
  if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the window');
  const scope = document.querySelector('dialog[open]') ?? document.body;
  const parts = 'button, input, textarea, select, h1, h2, .avatar, .badge, .bubble, .row-name';
  for (const element of scope.querySelectorAll(parts)) {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    const style = getComputedStyle(element);
    if (style.clipPath !== 'none') continue;
    const name = element.getAttribute('aria-label') ?? element.innerText ?? element.name;
    if (box.left < -1 || box.right > innerWidth + 1) found.push(`${name}: outside at the side`);
    const y = box.y + box.height / 2;
    const middle = document.elementFromPoint(box.x + box.width / 2, Math.min(Math.max(y, 0), innerHeight - 1));
    const area = element.closest('.log, .scroll, .dialog-body, .sign')?.getBoundingClientRect();
    const insight = y > (area?.top ?? 0) && y < (area?.bottom ?? innerHeight);
    if (insight && middle && !element.contains(middle) && !middle.contains(element)) {
      found.push(`${name}: covered by ${middle.className || middle.tagName}`);
    }
    if (element.matches('button') && element.scrollWidth > element.clientWidth + 2) found.push(`${name}: cut`);
  }
  return found;
})()
"""

SHOTS = os.environ.get("FLUX_SCREENSHOTS")
"""A folder for pictures, for people who want to look."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_overlaps_or_sticks_out(
    tabs: Callable[..., Tab], lines: Callable[[str], Lines], width: int, dark: bool
) -> None:
    look = f"{width}-{'dark' if dark else 'light'}"
    tab = tabs(width=width, height=740 if width < 500 else 900, dark=dark)

    def check(name: str) -> None:
        # Until nothing moves any more.
        tab.js(
            "Promise.all(document.getAnimations().map((animation) =>"
            " animation.effect.getTiming().iterations === Infinity ? 0 : animation.finished))"
        )
        if SHOTS:
            tab.screenshot(Path(SHOTS) / f"{look}-{name}.png")
        assert tab.js(MISPLACED) == [], name

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
    uid = tab.js("JSON.parse(sessionStorage['flux.session']).id")
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
