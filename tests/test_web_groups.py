"""The web client in a real browser: groups, history, and doing without a mouse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser import Tab
from web_people import Lines, open_chat, own_id, said, say, sign_up

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


# --- groups ------------------------------------------------------------------


def test_one_of_something_is_one(tabs: Callable[..., Tab]) -> None:
    owner = tabs()
    sign_up(owner, "hermit")
    owner.click("New group")
    owner.fill("Name", "Hermits")
    owner.click("Make the group")
    owner.wait("/1 member(?!s)/.test(document.querySelector('.chat-head').textContent)")
    owner.js("import('./form.js').then(form => window.told = form.explain({name: 'rate_limited', retryAfter: 900}))")
    owner.wait("told === 'Too many tries. Wait 1 second and try again.'")


def test_a_group_from_its_beginning_to_its_end(tabs: Callable[..., Tab]) -> None:
    owner, member = tabs(), tabs()
    sign_up(owner, "owner")
    sign_up(member, "member")
    owner.click("New group")
    owner.fill("Name", "Walkers")
    owner.fill("What it is about", "Every Sunday at nine")
    owner.click("Make the group")
    owner.wait_text("Every Sunday at nine", ".chat-head")
    group = owner.js("location.hash.split('/')[2]")
    # Joining a group that is not there, and then the one that is.
    member.click("New group")
    member.fill("Number of the group", "987654")
    member.click("Join")
    member.wait_text("no such group", "[data-field=group] .problem")
    member.fill("Number of the group", group)
    member.click("Join")
    member.wait_text("Walkers", ".chat-head")
    owner.wait_text("member joined", ".log")
    say(member, "May I bring a dog?")
    owner.wait_text("May I bring a dog?", ".log")
    assert owner.text(".message .who") == "member"
    # A role, and the owner's leaving.
    owner.click("About the group")
    owner.wait("document.querySelectorAll('.members .row').length === 2")
    owner.js("window.role = document.querySelector('.members select')")
    owner.js("role.value = 'admin'; role.dispatchEvent(new Event('change'))")
    owner.wait("document.querySelector('.members select').value === 'admin'")
    member.wait_text("You are now admin", ".log")
    owner.click("Leave the group")
    owner.click("Leave")
    owner.wait_text("Hand the group over", "dialog .problem:not(:empty)")
    owner.click("Remove member")
    owner.wait("document.querySelectorAll('.members .row').length === 1")
    owner.press("Escape")
    member.wait_text("You are not a member", ".chat-head")
    # Who was removed is back only when added.
    member.click("Join the group")
    member.wait_text("You were removed from this group")
    owner.click("About the group")
    owner.fill("Who?", "member")
    owner.click("Add", "dialog")
    owner.wait("document.querySelectorAll('.members .row').length === 2")
    owner.press("Escape")
    member.wait_text("Every Sunday at nine", ".chat-head")
    member.click("About the group")
    member.wait("document.querySelectorAll('.members .row').length === 2", "what is above the button is there")
    member.click("Leave the group")
    member.click("Leave")
    member.wait_text("No conversations yet")


def test_who_is_added_is_no_longer_offered(tabs: Callable[..., Tab], lines: Callable[[str], Lines]) -> None:
    lines("newcomer")
    tab = tabs()
    sign_up(tab, "hiker")
    tab.click("New group")
    tab.fill("Name", "Hikers")
    tab.click("Make the group")
    tab.wait_text("Hikers", ".chat-head")
    tab.click("About the group")
    tab.fill("Who?", "newcomer")
    tab.click("Add")
    tab.wait_text("newcomer", ".members")
    tab.wait_text("Member", "dialog .row-actions")
    assert "Add" not in tab.texts("dialog button")
    tab.click("Remove newcomer")
    tab.click("Add")
    tab.wait_text("Member", "dialog .row-actions")


# --- history -----------------------------------------------------------------


def test_older_messages_come_while_scrolling_and_nothing_jumps(
    tabs: Callable[..., Tab], lines: Callable[[str], Lines]
) -> None:
    writer = lines("chronicler")
    tab = tabs()
    sign_up(tab, "reader")
    uid = own_id(tab)
    texts = [f"page {number} " + "of a long story " * (number % 7) for number in range(180)]
    for text in texts:
        writer.ask("send", to=uid, text=text)
    tab.wait_text("180", ".row .badge")
    open_chat(tab, "chronicler")
    tab.wait("document.querySelectorAll('.bubble').length >= 50")
    # What is new begins in sight, unless it is more than there is.
    tab.js("document.querySelector('.log').scrollTop = 1e9")
    tab.wait("!document.querySelector('.row .badge')")
    while tab.count(".bubble") < len(texts):
        count = tab.count(".bubble")
        tab.js("window.first = document.querySelector('.message'); document.querySelector('.log').scrollTop = 30")
        tab.js("window.y = first.getBoundingClientRect().top")
        tab.wait(f"document.querySelectorAll('.bubble').length > {count}")
        assert abs(tab.js("first.getBoundingClientRect().top - y")) < 2
        assert tab.js("first.isConnected")
    tab.wait_text("This is where it began", ".log-top")
    assert [text.rstrip() for text in said(tab)] == [text.rstrip() for text in texts]
    # Somebody who reads what is old is not taken away from it.
    tab.js("document.querySelector('.log').scrollTop = 500; window.before = document.querySelector('.log').scrollTop")
    writer.ask("send", to=uid, text="news")
    tab.click("1 new")
    tab.wait_text("news", ".message:last-child")
    tab.wait("!document.querySelector('.row .badge')")


# --- the keyboard ------------------------------------------------------------


def focused(tab: Tab) -> str:
    script = """(() => {
        const element = document.activeElement;
        return (element.getAttribute('aria-label') ?? element.labels?.[0]?.innerText ?? element.innerText).trim();
    })()"""
    return str(tab.js(script))


def test_everything_can_be_done_from_the_keyboard(tabs: Callable[..., Tab], lines: Callable[[str], Lines]) -> None:
    lines("typist")
    tab = tabs()
    assert focused(tab) == "Name or e-mail address"
    order = []
    for _ in range(3):
        tab.press("Tab")
        order.append(focused(tab))
    assert order == ["Password", "Sign in", "Create an account"]
    tab.press("Tab")
    sign_up(tab, "keys")
    while focused(tab) != "New conversation":
        tab.press("Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.js(outline) == "solid"
    tab.press("Enter")
    tab.wait("document.querySelector('dialog[open]')")
    assert focused(tab) == "Who?"
    tab.press("Escape")
    tab.wait("!document.querySelector('dialog')")
    assert focused(tab) == "New conversation"
    tab.press("Enter")
    tab.type("typ")
    tab.wait_text("typist", "dialog")
    while focused(tab) != "Write":
        tab.press("Tab")
    tab.press("Enter")
    tab.wait("document.activeElement.getAttribute('aria-label') === 'Write to typist'")
    tab.type("without a mouse")
    tab.press("Enter")
    tab.wait_text("Sent", ".message.own .stamp")
    tab.press("Escape")
    # The field in which one writes to typist has that name, too.
    tab.wait("document.activeElement.matches('a.row')")
    assert "typist" in focused(tab)
    tab.press("Enter")
    tab.wait_text("typist", ".chat-head")
    tab.js("document.querySelector('[role=tab]').focus()")
    tab.press("ArrowRight")
    assert focused(tab) == "People"


def test_an_open_group_is_live_again_for_who_was_removed_and_is_added(
    tabs: Callable[..., Tab], lines: Callable[[str], Lines]
) -> None:
    host = lines("host")
    guest = tabs()
    sign_up(guest, "guest")
    uid = own_id(guest)
    group = host.ask("group.create", name="Revolving door")["group"]
    host.ask("group.add", group=group, id=uid)
    host.ask("send", group=group, text="welcome")
    open_chat(guest, "Revolving door")
    guest.wait_text("welcome", ".log")
    host.ask("group.remove", group=group, id=uid)
    guest.wait_text("You are not a member", ".chat-head")
    host.ask("group.add", group=group, id=uid)
    guest.wait("!document.querySelector('.composer').hidden")
    host.ask("send", group=group, text="welcome back")
    guest.wait_text("welcome back", ".log")
    say(guest, "thank you")
    guest.wait_text("Sent", ".message.own .stamp")


def test_coming_and_going_is_not_asked_about_each_time(tabs: Callable[..., Tab], lines: Callable[[str], Lines]) -> None:
    """The server counts these requests, so others could use up what one's own messages need."""
    host, restless = lines("landlord"), lines("restless")
    tab = tabs()
    sign_up(tab, "watcher")
    group = host.ask("group.create", name="Inn")["group"]
    host.ask("group.add", group=group, id=own_id(tab))
    open_chat(tab, "Inn")
    tab.js("""window.asked = 0;
        const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (line) {
            window.asked += line.includes('group.members');
            return send.call(this, line);
        };""")
    for _ in range(30):
        restless.ask("group.join", group=group)
        restless.ask("group.leave", group=group)
    host.ask("group.role", group=group, id=own_id(tab), role="admin")
    tab.wait_text("You are now admin", ".log")
    assert 1 <= tab.js("window.asked") <= 30


def test_history_is_shown_from_its_end_down_to_the_first_hole(tabs: Callable[..., Tab]) -> None:
    script = """import('./store.js').then(({ Store }) => {
        const store = new Store();
        store.me = { id: 1 };
        const page = (from, to) => Array.from({ length: to - from + 1 }, (_, index) =>
            ({ chat: 9, seq: from + index, from: 2, to: 1, name: 'two', text: '', at: from + index }));
        const conversation = store.conversation('u/2');
        const shown = conversation.messages;
        const state = () => [shown[0].seq, shown.at(-1).seq, shown.length, conversation.more];
        const seen = [];
        store.addHistory(conversation, { messages: page(1, 50), more: false }, true);
        // Another device had 51 to 111; this one was told of what came then.
        store.add(page(112, 162));
        store.addHistory(conversation, { messages: page(113, 162), more: true }, true);
        seen.push(state());
        store.addHistory(conversation, { messages: page(62, 111), more: true }, false);
        store.addHistory(conversation, { messages: page(12, 61), more: true }, false);
        // A newest page without a hole below it takes nothing away.
        store.addHistory(conversation, { messages: page(113, 162), more: true }, true);
        store.addHistory(conversation, { messages: page(1, 11), more: false }, false);
        store.addHistory(conversation, { messages: page(113, 162), more: true }, true);
        seen.push(state());
        return seen;
    })"""
    assert tabs().js(script) == [[112, 162, 51, True], [1, 162, 162, False]]


def test_a_row_that_changes_while_it_is_clicked_is_opened(
    tabs: Callable[..., Tab], lines: Callable[[str], Lines]
) -> None:
    sender = lines("chatterbox")
    tab = tabs()
    sign_up(tab, "slowhand")
    uid = own_id(tab)
    sender.ask("send", to=uid, text="one")
    tab.wait_text("one", ".side")
    release = tab.press_on("chatterbox", ".side")
    sender.ask("send", to=uid, text="two")
    tab.wait_text("two", ".side")
    release()
    tab.wait_text("chatterbox", ".chat-head")
