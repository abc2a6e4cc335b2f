"""The exploration of all interleavings notices when a rule is broken: each one here is, on purpose.

A rule is broken by changing a piece of the source, so it can be read here what the rule is
needed for.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from interleavings import Fault, World
from interleavings_judge import explored
from interleavings_reduction import Reduced
from interleavings_scene import Scene

from flux.backends.memory import MemoryState
from flux.chat import requests_account
from flux.chat.delivery import Delivery
from flux.chat.heartbeat import Heartbeat
from flux.chat.node import ChatNode
from flux.chat.sweep import Sweep

BEFORE = """
        node.sessions[uid] = session
        if older is not None:
            older.kick("takeover")
"""
CLAIM = """
        await _claim(session, isinstance(request.token, str))
        _still_here(session)
        if checked is None:
            await _check_token(session, request)
            _still_here(session)
"""
READ = """
        overview = await node.store.overview(uid)
        _still_here(session)
"""


class Broken(NamedTuple):
    """A broken rule.

    :ivar owner: in what it is.
    :ivar function: in which function of it.
    :ivar old: the piece of its source.
    :ivar new: what is there instead.
    :ivar scene: where that is noticed.
    :ivar noticed: by what.
    """

    owner: Any
    function: str
    old: str
    new: str
    scene: Scene
    noticed: str


SECOND = "a second session"
NONE = "0 sessions with the highest number"
LOST = "nobody knows where the session is"
UNSENT = r"the session was told: \('login.ok',\)"
"""What is noticed."""

ALONE = Scene("A")
ELSEWHERE = Scene("AB")
HERE = Scene("AA")
RETURN = Scene("ABA")
RENEWED = Scene("AB", heartbeats="A")
RENEWED_RETURN = Scene("ABA", heartbeats="A")
WIPED = Scene("AB", wipe=True)
WIPED_OLD = Scene("AB", wipe=True, earlier=1, received=1)
SWEPT = Scene("A", wipe=True, sweeps="A", earlier=1, received=1)
SWEPT_OLDER = Scene("AB", wipe=True, sweeps="A")

BROKEN = {
    "a claim wins whatever its number": Broken(
        MemoryState, "claim", "previous.number >= route.number or not takeover", "not takeover", ELSEWHERE, LOST
    ),
    "no kick is sent": Broken(
        requests_account,
        "_claim",
        'await node.bus.publish(previous.node, previous.boot, Kick(session.uid, session.number, "takeover"))',
        "pass",
        ELSEWHERE,
        SECOND,
    ),
    "a kick ends newer sessions, too": Broken(ChatNode, "deliver", " and session.number < below", "", RETURN, NONE),
    "who comes first to a node stays": Broken(
        requests_account, "_begin", "older is not None and older.number > number", "False", HERE, NONE
    ),
    "a login enters the table late": Broken(
        requests_account, "_begin", BEFORE + CLAIM[1:] + READ[1:], CLAIM + READ[1:] + BEFORE[1:], ELSEWHERE, SECOND
    ),
    "a login does not look whether there is a newer one": Broken(
        requests_account, "_begin", "overview.session > number", "False", SWEPT_OLDER, SECOND
    ),
    "what is pending is read before the claim": Broken(
        requests_account, "_begin", CLAIM + READ[1:], READ + CLAIM[1:], ALONE, UNSENT
    ),
    "the older session takes the newer one's route away": Broken(
        MemoryState, "release", "self._routes.get(uid) == route", "uid in self._routes", ELSEWHERE, LOST
    ),
    "a route is restored whatever its number": Broken(
        MemoryState, "renew", "route is None or route.number < number", "True", RENEWED, LOST
    ),
    "a heartbeat does not kick who lost the route": Broken(
        Heartbeat, "_renew", "for uid in renewal.lost:", "for uid in ():", WIPED, SECOND
    ),
    "a heartbeat kicks who came since": Broken(
        Heartbeat, "_renew", " and loser.number == routes[uid]", "", RENEWED_RETURN, NONE
    ),
    "a sweep compares no numbers": Broken(
        Sweep, "_look", "for uid, number in changes.sessions:", "for uid, number in ():", WIPED, SECOND
    ),
    "a sweep passes by who is logging in": Broken(Sweep, "_look", "await self._read_late()", "pass", SWEPT, UNSENT),
    "messages are written before the login is answered": Broken(
        Delivery, "_deliver", " and session.live", "", ALONE, "a client was told: message 1"
    ),
    "who is behind is live after the login": Broken(
        Delivery, "start", "if session.apart or session.stalled:", "if session.stalled:", ALONE, UNSENT
    ),
    "a sweep does not notice new chats": Broken(
        Delivery, "sweep", "for number, version in changes.members:", "for number, version in ():", WIPED, UNSENT
    ),
    "a sweep raises no heads": Broken(
        Delivery, "sweep", "for number, head in changes.heads:", "for number, head in ():", WIPED_OLD, UNSENT
    ),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_rule_is_noticed(broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_rule(broken, monkeypatch)
    world = World(broken.scene, tmp_path / "world")
    with pytest.raises(Fault, match=broken.noticed):
        explored(world, Reduced)
    world.close()


@pytest.mark.parametrize("scene", [ALONE, RENEWED, WIPED, WIPED_OLD, SWEPT], ids=str)
def test_rules_that_are_not_broken_are_no_fault(scene: Scene, tmp_path: Path) -> None:
    """The other scenes are, or are part of, those of ``test_delivery_interleavings``."""
    world = World(scene, tmp_path / "world")
    explored(world, Reduced)
    world.close()


def break_rule(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    function = getattr(broken.owner, broken.function)
    source = inspect.getsource(function)
    assert source.count(broken.old) == 1, f"{broken.function} has changed: {broken.old!r} is not in it"
    made: dict[str, Any] = {}
    exec(textwrap.dedent(source.replace(broken.old, broken.new)), function.__globals__, made)
    monkeypatch.setattr(broken.owner, broken.function, made[broken.function])
