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


#: Tells of each store how many connections it is to have.
TELLING = """
import sys
from flux.cli import bench_store
from flux.cli.main import main

def make_store(config, reactor, make=bench_store.make_store):
    print(config.store.kind, config.store.pool, file=sys.stderr)
    return make(config, reactor)

bench_store.make_store = make_store
sys.exit(main())
"""


def run_command(*arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", prelude + TELLING, "bench", "store", *arguments],
        env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_table_has_both_stores_and_every_number_of_connections(tmp_path: Path) -> None:
    done = run_command("--pool", "1", "3", "--seconds", "0.2", "--data", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^postgres (\d+)$", done.stderr, re.MULTILINE) == ["1", "3", "1"]
    rows = re.findall(r"^ +(sqlite|postgres) +(\S.*?) {2,}([\d,]+) +([\d.]+) +([\d.]+) *$", done.stdout, re.MULTILINE)
    assert [(store, way) for store, way, *_ in rows] == [
        ("sqlite", "a call each, 1 at once"),
        ("sqlite", "a call each, 3 at once"),
        ("sqlite", "group commit"),
        ("postgres", "a commit each, pool of 1"),
        ("postgres", "a commit each, pool of 3"),
        ("postgres", "group commit"),
    ]
    assert "sqlite: what is called at the same time is committed together." in done.stdout
    for _, _, rate, p50, p99 in rows:
        assert int(rate.replace(",", "")) > 0
        assert 0 < float(p50) <= float(p99)


def refused(*arguments: str, prelude: str = "") -> str:
    """What the command says that ends with 2 and has not measured anything."""
    done = run_command(*arguments, prelude=prelude)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    return line


def test_a_figure_that_cannot_be_drawn_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "figure.png"
    data = ("--data", str(tmp_path))
    assert refused("--plot", str(nowhere), *data) == f"--plot: cannot write {nowhere}: No such file or directory"
    assert refused("--plot", str(tmp_path), *data) == f"--plot: cannot write {tmp_path}: Is a directory"
    without = "import sys; sys.modules['matplotlib'] = None"
    assert "flux-messenger[bench]" in refused("--plot", str(tmp_path / "figure.png"), *data, prelude=without)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    small = ["--store", "sqlite", "--pool", "1", "--seconds", "0.3", "--data", str(tmp_path), "--json"]
    done = run_command(*small, "--plot", str(tmp_path / "figure"))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [outcome["case"]["way"] for outcome in figures["outcomes"]] == ["singly", "grouped"]
    assert all(outcome["rate"] > 0 for outcome in figures["outcomes"])
    assert (tmp_path / "figure").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["figure"]
