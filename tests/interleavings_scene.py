"""What happens at the same time, and how it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from delivery_backends import InlineStore
from delivery_lab import BIG, TOKEN, Client, Lab
from delivery_steps import now
from interleavings_backends import AttentiveState, Call, outcome, stands_still
from interleavings_nodes import Script
from twisted.internet.defer import Deferred, fail, succeed

from flux.backends.sqlite import SqliteStore
from flux.errors import FluxError
from flux.model.chats import CursorMove
from flux.model.placement import Choice
from flux.tokens import digest

ANN, BOB = 1, 2
"""Who logs in, and who sends."""

CHAT = 1

PRELUDE = ("token_digest", "credentials", "failures")
"""What is over before the beginning."""


@dataclass(frozen=True)
class Scene:
    """What happens at the same time.

    :ivar logins: the node of each login of the account, in the order of their session numbers.
    :ivar sender: the node of the client that sends the message.
    :ivar wipe: the shared state forgets everything, once.
    :ivar heartbeats: the nodes that renew their routes, once each.
    :ivar sweeps: the nodes that look what moved in the store, once each.
    :ivar earlier: messages stored before.
    :ivar received: how many of these the account has received.
    :ivar group: both are in a group, and the message goes there.
    :ivar numbered: the logins are in the numbered dialect.
    :ivar attentive: the shared state says which routes a heartbeat did not name.
    :ivar takeover: the setting. Without it the order of ``logins`` means nothing.
    """

    logins: str
    sender: str = "S"
    wipe: bool = False
    heartbeats: str = ""
    sweeps: str = ""
    earlier: int = 0
    received: int = 0
    group: bool = False
    numbered: bool = False
    attentive: bool = False
    takeover: bool = True

    def __str__(self) -> str:
        """Where it differs from the simplest one."""
        others = fields(self)[1:]
        return " ".join([self.logins, *(f"{f.name}={v}" for f in others if (v := getattr(self, f.name)) != f.default)])

    @property
    def nodes(self) -> list[str]:
        return sorted({*self.logins, self.sender})

    @property
    def settings(self) -> dict[str, Any]:
        return {"chat__takeover": self.takeover}

    @property
    def to(self) -> dict[str, int]:
        """Where the messages go."""
        return {"group": CHAT} if self.group else {"to": ANN}

    def sender_comes(self, lab: Lab) -> None:
        lab.client(self.sender, BOB).login(acks=True)

    def logins_come(self, lab: Lab, node: str) -> None:
        for name in self.logins:
            if name == node:
                lab.client(node, ANN, numbered=self.numbered).login(acks=True)

    def sends(self, client: Client) -> None:
        """Messages are their numbers."""
        client.tell(type="send", text=str(self.earlier + 1), **self.to)

    def people(self, lab: Lab, node: str) -> None:
        """The clients of one node, from first to last."""
        if node == self.sender:
            self.sender_comes(lab)
        self.logins_come(lab, node)
        if node == self.sender:
            self.sends(lab.clients[0])


def open_store(path: Path) -> InlineStore:
    """A store whose clock and marks are the same in every run."""
    store = InlineStore(path, now=stands_still).open()
    changes = store._writer.runner.changes  # type: ignore[attr-defined]
    changes._number = changes._start = 1
    return store


class Stage(Lab):
    """The whole scene with all its nodes in one place, at its beginning.

    :ivar scripts: per node the answers it has got until then.
    """

    def __init__(self, scene: Scene, store: InlineStore) -> None:
        super().__init__(store, (), **scene.settings)
        self.scripts: dict[str, Script] = {name: {} for name in scene.nodes}
        if scene.attentive:
            self.state = AttentiveState(self.clock.seconds)
        for name in ("ann", "bob"):
            now(store.create_account(name, name, "hash", "", ""))
        if scene.group:
            now(store.group_create(BOB, "group", "", False, False))
            now(store.group_join(ANN, CHAT))
        for seq in range(1, scene.earlier + 1):
            self.commit(BOB, text=str(seq), **scene.to)
        now(store.advance([CursorMove(ANN, 0, CHAT, scene.received, 0)]))
        for name in scene.nodes:
            self.add_node(name)
        now(self.state.assign([Choice(uid, "", digest(TOKEN)) for uid in (ANN, BOB)], 1.0, BIG))
        self.state._reservations.purge(BIG)
        scene.sender_comes(self)
        self.settle()
        for name in scene.nodes:
            scene.logins_come(self, name)
        while early := [step for step in self.steps.pending if any(f".{method}(" in step.label for method in PRELUDE)]:
            self.steps.take(early[0])
        scene.sends(self.clients[0])

    def new_node(self, name: str) -> Any:
        node = super().new_node(name)
        for stepped, backend in zip(self.backends[name], ("store", "state"), strict=True):
            stepped.target = Recorder(stepped.target, Call(name, backend, "", (), 0), self.scripts[name])
        return node

    def wipe(self) -> None:
        """The shared state forgets everything."""
        self.state.__init__(self.state._seconds)  # type: ignore[misc]


class Recorder:
    """Stands before a backend and notes what it answers."""

    past = SqliteStore.past

    def __init__(self, target: Any, call: Call, script: Script) -> None:
        self._target = target
        self._call = call
        self._script = script

    def __getattr__(self, method: str) -> Callable[..., Deferred[Any]]:
        def call(*arguments: Any) -> Deferred[Any]:
            answer = outcome(getattr(self._target, method)(*arguments))
            label = self._call._replace(method=method, arguments=arguments).label
            self._script.setdefault(label, []).append(answer)
            return fail(answer) if isinstance(answer, FluxError) else succeed(answer)

        return call
