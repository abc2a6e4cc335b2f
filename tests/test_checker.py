"""The delivery checker finds every anomaly it has a name for, and none in a sound recording."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flux.bench.checker import KINDS, Acknowledged, Attempt, Line, Recording, Shown, check, count

ANN, BOB, CAT = 1, 2, 3
PAIR, GROUP = 7, 9


def sound() -> Recording:
    """Ann and Bob talk, all three talk in a group; one send was committed but never acknowledged, one neither."""
    recording = Recording(groups={GROUP: frozenset((ANN, BOB, CAT))})

    def say(sender: int, to: int, group: int, seq: int, acknowledged: bool = True) -> None:
        chat = group or PAIR
        text = f"{sender} says {chat}/{seq}"
        attempt = Attempt(sender, to, group, text)
        line = Line(chat, seq, 1000 + seq, sender, text)
        recording.attempts.append(attempt)
        if acknowledged:
            recording.acknowledged.append(Acknowledged(attempt, chat, seq, line.at))
        recording.history.setdefault(chat, []).append(line)
        others = {ANN, BOB, CAT} if group else {ANN, BOB}
        recording.shown.extend(Shown(viewer, line) for viewer in sorted(others - {sender}))

    say(ANN, BOB, 0, 1)
    say(BOB, ANN, 0, 2)
    say(ANN, BOB, 0, 3, acknowledged=False)
    say(BOB, ANN, 0, 4)
    say(BOB, 0, GROUP, 1)
    say(CAT, 0, GROUP, 2)
    say(BOB, 0, GROUP, 3)
    recording.attempts.append(Attempt(CAT, 0, GROUP, "never committed"))
    return recording


def test_a_sound_recording_has_no_anomalies() -> None:
    assert check(sound()) == []
    assert count([]) == dict.fromkeys(KINDS, 0)


def line(recording: Recording, chat: int, seq: int) -> Line:
    return recording.history[chat][seq - 1]


def never_shown(r: Recording) -> None:
    r.shown.remove(Shown(CAT, line(r, GROUP, 1)))


def acknowledged_but_not_stored(r: Recording) -> None:
    gone = r.history[PAIR].pop()
    r.shown = [shown for shown in r.shown if shown.line != gone]


def acknowledged_under_the_number_of_another(r: Recording) -> None:
    attempt = Attempt(BOB, ANN, 0, "overwritten")
    r.attempts.append(attempt)
    r.acknowledged.append(Acknowledged(attempt, PAIR, 4, 1004))


def unacknowledged_and_not_shown(r: Recording) -> None:
    r.shown.remove(Shown(BOB, line(r, PAIR, 3)))


def gap_in_the_history(r: Recording) -> None:
    gone = r.history[PAIR].pop(2)
    r.shown = [shown for shown in r.shown if shown.line != gone]


def shown_twice(r: Recording) -> None:
    r.shown.append(Shown(CAT, line(r, GROUP, 3)))


def shown_too_late(r: Recording) -> None:
    early = Shown(CAT, line(r, GROUP, 1))
    r.shown.remove(early)
    r.shown.append(early)


def history_out_of_order(r: Recording) -> None:
    r.history[PAIR].reverse()


def numbered_against_the_order_of_sending(r: Recording) -> None:
    r.attempts[0], r.attempts[2] = r.attempts[2], r.attempts[0]


def shown_from_nowhere(r: Recording) -> None:
    r.shown.append(Shown(ANN, Line(PAIR, 5, 1005, BOB, "who said that?")))


def shown_but_not_stored(r: Recording) -> None:
    r.shown.append(Shown(ANN, Line(GROUP, 4, 1004, CAT, "never committed")))


def stored_from_nowhere(r: Recording) -> None:
    r.history[PAIR].append(Line(PAIR, 5, 1005, BOB, "who said that?"))


def shown_to_an_outsider(r: Recording) -> None:
    r.shown.append(Shown(CAT, line(r, PAIR, 1)))


def shown_under_a_false_name(r: Recording) -> None:
    shown = Shown(CAT, line(r, GROUP, 3))
    r.shown[r.shown.index(shown)] = Shown(CAT, shown.line._replace(sender=ANN))


def shown_in_another_group(r: Recording) -> None:
    shown = Shown(CAT, line(r, GROUP, 3))
    r.shown[r.shown.index(shown)] = Shown(CAT, shown.line._replace(chat=GROUP + 1))


def another_time_for_one_member(r: Recording) -> None:
    shown = Shown(BOB, line(r, GROUP, 2))
    r.shown[r.shown.index(shown)] = Shown(BOB, shown.line._replace(at=5))


def another_order_for_one_member(r: Recording) -> None:
    first, last = (Shown(CAT, line(r, GROUP, seq)) for seq in (1, 3))
    r.shown[r.shown.index(first)] = Shown(CAT, last.line._replace(seq=1, at=first.line.at))
    r.shown[r.shown.index(last)] = Shown(CAT, first.line._replace(seq=3, at=last.line.at))


def acknowledged_with_another_number(r: Recording) -> None:
    r.acknowledged[0] = r.acknowledged[0]._replace(seq=2)


def acknowledged_with_a_number_beyond_the_head(r: Recording) -> None:
    r.acknowledged[0] = r.acknowledged[0]._replace(seq=20)


def committed_twice(r: Recording) -> None:
    r.history[PAIR].append(Line(PAIR, 5, 1005, BOB, line(r, PAIR, 4).text))


@pytest.mark.parametrize(
    ("break_it", "kind", "chat", "seq", "viewer"),
    [
        (never_shown, "lost", GROUP, 1, CAT),
        (acknowledged_but_not_stored, "lost", PAIR, 4, 0),
        (acknowledged_under_the_number_of_another, "lost", PAIR, 4, 0),
        (unacknowledged_and_not_shown, "skipped", PAIR, 3, BOB),
        (gap_in_the_history, "skipped", PAIR, 3, 0),
        (shown_twice, "duplicated", GROUP, 3, CAT),
        (shown_too_late, "reordered", GROUP, 1, CAT),
        (history_out_of_order, "reordered", PAIR, 1, 0),
        (numbered_against_the_order_of_sending, "reordered", PAIR, 1, 0),
        (shown_from_nowhere, "phantom", PAIR, 5, ANN),
        (shown_but_not_stored, "phantom", GROUP, 4, ANN),
        (stored_from_nowhere, "phantom", PAIR, 5, 0),
        (shown_to_an_outsider, "phantom", PAIR, 1, CAT),
        (shown_under_a_false_name, "phantom", GROUP, 3, CAT),
        (shown_in_another_group, "phantom", GROUP + 1, 3, CAT),
        (another_time_for_one_member, "diverged", GROUP, 2, BOB),
        (another_order_for_one_member, "diverged", GROUP, 1, CAT),
        (acknowledged_with_another_number, "diverged", PAIR, 2, 0),
        (acknowledged_with_a_number_beyond_the_head, "diverged", PAIR, 20, 0),
        (committed_twice, "committed twice", PAIR, 5, 0),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_finds(break_it: Callable[[Recording], None], kind: str, chat: int, seq: int, viewer: int) -> None:
    recording = sound()
    break_it(recording)
    found = check(recording)
    assert (kind, chat, seq, viewer) in [anomaly[:4] for anomaly in found]
    assert {anomaly.kind for anomaly in found} == {kind}


def in_periods(recording: Recording) -> Recording:
    """The same, sent in period 1, acknowledged in 2 and shown in 3."""
    recording.attempts = [attempt._replace(period=1) for attempt in recording.attempts]
    recording.acknowledged = [
        ack._replace(attempt=ack.attempt._replace(period=1), period=2) for ack in recording.acknowledged
    ]
    recording.shown = [shown._replace(period=3) for shown in recording.shown]
    return recording


@pytest.mark.parametrize(
    ("break_it", "period"),
    [
        (never_shown, 2),
        (acknowledged_but_not_stored, 2),
        (acknowledged_with_another_number, 2),
        (unacknowledged_and_not_shown, 1),
        (gap_in_the_history, 1),
        (history_out_of_order, 1),
        (numbered_against_the_order_of_sending, 1),
        (committed_twice, 1),
        (stored_from_nowhere, 0),
        (shown_twice, 3),
        (shown_too_late, 3),
        (shown_from_nowhere, 3),
        (another_time_for_one_member, 3),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_an_anomaly_counts_where_its_promise_was_broken(break_it: Callable[[Recording], None], period: int) -> None:
    recording = sound()
    break_it(recording)
    assert {anomaly.period for anomaly in check(in_periods(recording))} == {period}


def test_every_kind_is_counted() -> None:
    recording = sound()
    for break_it in (never_shown, shown_twice, stored_from_nowhere):
        break_it(recording)
    counted = count(check(recording))
    assert counted == {**dict.fromkeys(KINDS, 0), "lost": 1, "duplicated": 1, "phantom": 1}


def test_sendings_need_texts_of_their_own() -> None:
    recording = sound()
    recording.attempts.append(recording.attempts[0])
    with pytest.raises(ValueError, match="same text"):
        check(recording)
