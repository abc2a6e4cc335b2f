"""What ``flux bench`` says at the end: medians over the rounds, for people and for programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from flux.bench.judgement import Judgement, as_table
from flux.bench.load import Tally
from flux.bench.scenarios import Idle, Percentiles, Run, Scenario
from flux.bench.subjects import SUBJECTS, Subject

#: What is counted in scenarios without messages.
_COUNTED: dict[Scenario, str] = {"login": "logins by token", "assign": "get_chat_server, pipelined"}
#: Above this share of a processor the load was the bottleneck, not the server.
LOAD_TOO_BUSY = 0.95
#: Of the relay's rate, by messages in flight: what a cluster brings from one client of ``pairs`` to another at least.
PAIRS_OF_RELAY = {1: 0.45, 8: 0.18}
#: Requests a second that a cluster answers in ``assign`` at least.
ASSIGNMENTS = 15_000


@dataclass(frozen=True)
class Summary:
    """The runs of one load against one server: medians, and sums of what went wrong.

    :ivar ratio: rate divided by the relay's, the median over the rounds; None where there is no relay to compare.
    """

    scenario: Scenario
    subject: Subject
    in_flight: int
    rounds: int
    rate: float
    cpu: float
    load_share: float
    delivery: Percentiles | None
    commit: Percentiles | None
    lost: int
    duplicated: int
    reordered: int
    ratio: float | None


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """One summary per scenario, number in flight and server, in the order of their first runs.

    The nth run of a load against one server is compared with the nth against the other.
    """
    loads = dict.fromkeys((run.scenario, run.in_flight) for run in runs)
    summaries = []
    for scenario, in_flight in loads:
        by_subject = {
            subject: [
                run for run in runs if (run.scenario, run.in_flight, run.subject) == (scenario, in_flight, subject)
            ]
            for subject in SUBJECTS
        }
        for subject, same in by_subject.items():
            if same:
                compared = by_subject["relay"] if subject != "relay" else []
                ratios = [ours.rate / theirs.rate for ours, theirs in zip(same, compared, strict=False)]
                summaries.append(_summary(same, median(ratios) if ratios else None))
    return summaries


def _summary(runs: Sequence[Run], ratio: float | None) -> Summary:
    tallies: list[Tally] = [run.tally for run in runs]
    return Summary(
        runs[0].scenario,
        runs[0].subject,
        runs[0].in_flight,
        len(runs),
        median(run.rate for run in runs),
        median(run.cpu for run in runs),
        median(run.load_share for run in runs),
        _median([run.delivery for run in runs if run.delivery is not None]),
        _median([run.commit for run in runs if run.commit is not None]),
        sum(tally.lost for tally in tallies),
        sum(tally.duplicated for tally in tallies),
        sum(tally.reordered for tally in tallies),
        ratio,
    )


def _median(percentiles: Sequence[Percentiles]) -> Percentiles | None:
    if not percentiles:
        return None
    return Percentiles(
        median(each.p50 for each in percentiles),
        median(each.p99 for each in percentiles),
        median(each.p999 for each in percentiles),
    )


def sound(summaries: Sequence[Summary]) -> bool:
    """Whether nothing was lost, duplicated or reordered."""
    return not any(summary.lost or summary.duplicated or summary.reordered for summary in summaries)


def judge(summaries: Sequence[Summary]) -> list[Judgement]:
    """What came of the promises, of those that were measured."""
    judgements = []
    for summary in summaries:
        if summary.subject != "cluster":
            continue
        least = PAIRS_OF_RELAY.get(summary.in_flight)
        if summary.scenario == "pairs" and least is not None and summary.ratio is not None:
            what = f"pairs W={summary.in_flight}: cluster's rate, of relay's"
            judgements.append(
                Judgement(what, f"{summary.ratio:.3f}", f"{least:.2f}", summary.ratio >= least, "at least")
            )
        elif summary.scenario == "assign":
            found, limit = f"{summary.rate:,.0f}/s", f"{ASSIGNMENTS:,}/s"
            judgements.append(
                Judgement("assign: cluster's answers", found, limit, summary.rate >= ASSIGNMENTS, "at least")
            )
    return judgements


def as_json(summaries: Sequence[Summary], idle: Sequence[Idle], sync: float) -> dict[str, Any]:
    """For programs: rates per second, CPU in µs, latencies in ms, memory in bytes, ``fsync`` in ms; and promises."""
    return {
        "fsync_ms": sync * 1000,
        "processors": os.cpu_count(),
        "runs": [asdict(summary) for summary in summaries],
        "idle": [asdict(each) for each in idle],
        "judgements": [asdict(each) for each in judge(summaries)],
    }


def show(console: Console, summaries: Sequence[Summary], idle: Sequence[Idle], sync: float) -> None:
    """For people."""
    talks = [summary for summary in summaries if summary.delivery is not None]
    if talks:
        console.print(_speed(talks), _faults(talks))
    for summary in summaries:
        if summary.scenario in _COUNTED:
            what = f"{summary.subject}: {_COUNTED[summary.scenario]}"
            console.print(f"{what}: {summary.rate:,.0f}/s, {summary.cpu:.0f} µs of server CPU each")
    for each in idle:
        console.print(
            f"{each.subject}: idle sessions: {each.sessions:,} take {each.memory / 1024:.1f} KiB of server memory "
            f"each, and {each.cpu_share:.1%} of a processor together"
        )
    if judgements := judge(summaries):
        console.print(as_table(judgements))
    console.print(f"disk: a 4 KiB write is durable after {sync * 1000:.2f} ms (median)")
    for summary in summaries:
        if summary.load_share > LOAD_TOO_BUSY:
            console.print(
                f"[yellow]{summary.scenario} W={summary.in_flight} {summary.subject}: "
                f"the load used {summary.load_share:.0%} of its processor: the server could do more.[/]"
            )
    if len(os.sched_getaffinity(0)) < 2:
        console.print("[yellow]Only one processor: server and load shared it.[/]")
    if not sound(summaries):
        console.print("[bold red]Messages were lost, duplicated or reordered.[/]")


def _speed(summaries: Sequence[Summary]) -> Table:
    table = _table("deliveries: medians over the rounds, times in ms unless marked")
    for name in ("a second", "of relay", "CPU µs", "p50", "p99", "p99.9"):
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        delivery = summary.delivery
        assert delivery is not None
        table.add_row(
            f"{summary.scenario} W={summary.in_flight}",
            summary.subject,
            f"{summary.rate:,.0f}",
            "" if summary.ratio is None else f"{summary.ratio:.2f}",
            f"{summary.cpu:.1f}",
            *(f"{value:.1f}" for value in (delivery.p50, delivery.p99, delivery.p999)),
        )
    return table


def _faults(summaries: Sequence[Summary]) -> Table:
    table = _table("every message accounted for")
    for name in ("lost", "duplicated", "reordered", "ack p50", "load's CPU"):
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        commit = summary.commit
        assert commit is not None
        table.add_row(
            f"{summary.scenario} W={summary.in_flight}",
            summary.subject,
            *(str(number) for number in (summary.lost, summary.duplicated, summary.reordered)),
            f"{commit.p50:.1f}",
            f"{summary.load_share:.0%}",
        )
    return table


def _table(title: str) -> Table:
    table = Table(title=title, box=SIMPLE, title_justify="left")
    table.add_column("load", no_wrap=True)
    table.add_column("server", no_wrap=True)
    return table
