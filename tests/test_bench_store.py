"""``flux bench store``: appends are measured as they are, and a store that does not do its part ends it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from server_process import environment
from store_model import ModelStore
from twisted.internet import defer

from flux.bench import stores
from flux.bench.stores import AppendFailed, Case, Outcome, cases, measure
from flux.errors import FluxError, Unavailable
from flux.model.messages import Draft, Receipt


class Store:
    """The model of the store, which notes how many calls it had at the same time, and of how many drafts."""

    def __init__(self) -> None:
        self._record = ModelStore()
        self._running = 0
        self.most_running = 0
        self.sizes: list[int] = []

    async def create_account(self, *arguments: str) -> int:
        return self._record.create_account(*arguments)

    async def append(self, drafts: Sequence[Draft]) -> list[Receipt | FluxError]:
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        self._running += 1
        self.most_running = max(self.most_running, self._running)
        self.sizes.append(len(drafts))
        outcomes = self._record.append(drafts)
        await deferLater(reactor, 0.001)
        self._running -= 1
        return outcomes


async def run(store: Store, case: Case, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    from twisted.internet import reactor

    monkeypatch.setattr(stores, "SENDERS", 20)
    return await measure(store, case, 0.2, reactor, lambda share: None)  # type: ignore[arg-type]


async def test_one_by_one_keeps_to_its_number(monkeypatch) -> None:
    store = Store()
    outcome = await run(store, Case("model", "singly", 3), monkeypatch)
    assert store.most_running == 3
    assert set(store.sizes) == {1}
    assert outcome.rate > 0
    assert 0 < outcome.p50 <= outcome.p99


async def test_grouped_gathers(monkeypatch) -> None:
    store = Store()
    await run(store, Case("model", "grouped", 1), monkeypatch)
    # The journal begins a batch while the one before is being told.
    assert store.most_running <= 2
    assert max(store.sizes) > 5


async def test_a_refused_message_ends_it(monkeypatch) -> None:
    class Full(Store):
        async def append(self, drafts: Sequence[Draft]) -> list[Receipt | FluxError]:
            await defer.succeed(None)
            return [Unavailable("the disk is full") for _ in drafts]

    with pytest.raises(AppendFailed, match="the disk is full"):
        await run(Full(), Case("model", "singly", 1), monkeypatch)


def test_all_cases() -> None:
    assert cases(["sqlite"], [1, 8]) == [
        Case("sqlite", "singly", 1),
        Case("sqlite", "singly", 8),
        Case("sqlite", "grouped", 1),
    ]


def bench_store(*arguments: str) -> str:
    command = "import sys; from flux.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, "bench", "store", *arguments],
        env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_table_has_both_stores_and_every_number_of_connections(tmp_path: Path) -> None:
    printed = bench_store("--pool", "1", "3", "--seconds", "0.2", "--data", str(tmp_path))
    rows = re.findall(r"^ +(sqlite|postgres) +(\S.*?) {2,}([\d,]+) +([\d.]+) +([\d.]+) *$", printed, re.MULTILINE)
    ways = ["one by one, 1 at once", "one by one, 3 at once", "group commit"]
    assert [(store, way) for store, way, *_ in rows] == [
        (store, way) for store in ("sqlite", "postgres") for way in ways
    ]
    for _, _, rate, p50, p99 in rows:
        assert int(rate.replace(",", "")) > 0
        assert 0 < float(p50) <= float(p99)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    small = ["--store", "sqlite", "--pool", "1", "--seconds", "0.3", "--data", str(tmp_path), "--json"]
    figures = json.loads(bench_store(*small, "--plot", str(tmp_path / "figure.png")))
    assert [outcome["case"]["way"] for outcome in figures["outcomes"]] == ["singly", "grouped"]
    assert all(outcome["rate"] > 0 for outcome in figures["outcomes"])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
