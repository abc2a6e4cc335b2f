"""Lines out of chunks: whatever the chunks, the same lines."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from flux.wire.framing import LineFramer

MAX = 12
"""A line limit that random data meets often."""

#: Bytes that mean something to the framer, and some that do not, often nearly too many.
PIECES = st.sampled_from([b"\n", b"\r", b"\0", b"x", b"x" * (MAX - 2)])
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


def reference(stream: bytes, max_line: int) -> tuple[list[bytes], bool]:
    """The lines of a whole stream and whether it overflows, in the plainest way there is."""
    ends = [end for end in (stream.find(b"\n"), stream.find(b"\0")) if end >= 0]
    terminator = stream[min(ends) : min(ends) + 1] if ends else b""
    *whole, rest = stream.split(terminator) if terminator else [stream]
    lines = []
    for line in whole:
        if terminator == b"\n":
            line = line.removesuffix(b"\r")
        if len(line) > max_line:
            return lines, True
        if line:
            lines.append(line)
    # What has no end yet is too long once a newline after its return would not save it.
    return lines, len(rest.removesuffix(b"\r")) > max_line


def in_chunks(stream: bytes, cuts: list[int], max_line: int) -> tuple[list[bytes], LineFramer]:
    framer = LineFramer(max_line)
    lines = []
    at = 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        lines += framer.feed(stream[at:cut])
        at = cut
    return lines, framer


@given(STREAMS, st.lists(st.integers(0, 100), max_size=20))
@example(b"a\r\nb\r\n", [2, 2])
@example(b"a\0b\r\0", [])
@example(b"x" * MAX + b"\r\n", [MAX, MAX + 1])
@example(b"x" * (MAX + 1) + b"\n", [MAX])
@example(b"x" * MAX + b"\r", [])
@example(b"\0" + b"x" * MAX + b"\r", [])
def test_any_chunks_give_the_same_lines(stream: bytes, cuts: list[int]) -> None:
    lines, framer = in_chunks(stream, cuts, MAX)
    assert (lines, framer.overflow) == reference(stream, MAX)


@given(STREAMS)
def test_byte_by_byte_gives_the_same_lines(stream: bytes) -> None:
    lines, framer = in_chunks(stream, list(range(len(stream))), MAX)
    assert (lines, framer.overflow) == reference(stream, MAX)


@given(STREAMS.filter(lambda stream: b"\n" in stream or b"\0" in stream))
def test_the_terminator_seen_first_holds(stream: bytes) -> None:
    framer = LineFramer(1000)
    framer.feed(stream)
    first = min(end for end in (stream.find(b"\n"), stream.find(b"\0")) if end >= 0)
    assert framer.terminator == stream[first : first + 1]
    assert framer.feed(framer.terminator + b"last" + framer.terminator)[-1] == b"last"


@given(
    st.lists(st.binary(max_size=300).map(lambda line: line.replace(b"\n", b"").replace(b"\0", b"").rstrip(b"\r"))),
    st.sampled_from([b"\n", b"\r\n", b"\0"]),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_what_was_joined_comes_apart_again(lines: list[bytes], end: bytes, cuts: list[int]) -> None:
    stream = b"".join(line + end for line in lines)
    assert in_chunks(stream, cuts, 300)[0] == [line for line in lines if line]


@given(st.integers(0, 3), st.integers(0, 60), st.sampled_from([b"\n", b"\r\n", b"\0"]))
def test_the_limit_counts_the_line_without_its_end(over: int, cut: int, end: bytes) -> None:
    stream = b"ok" + end + b"x" * (MAX + over) + end + b"after" + end
    lines, framer = in_chunks(stream, [cut], MAX)
    if over:
        assert (lines, framer.overflow) == ([b"ok"], True)
    else:
        assert (lines, framer.overflow) == ([b"ok", b"x" * MAX, b"after"], False)


def test_after_an_overflow_nothing_comes_and_nothing_is_kept() -> None:
    framer = LineFramer(MAX)
    assert framer.feed(b"a\n" + b"x" * 100) == [b"a"]
    assert framer.overflow
    assert framer.feed(b"\nb\n") == []
    assert framer._partial is None


def test_what_is_kept_of_an_unfinished_line_is_bounded() -> None:
    framer = LineFramer(1000)
    for _ in range(1001):
        framer.feed(b"x")
        assert framer._partial is None or len(framer._partial) <= 1001
    assert framer.overflow
