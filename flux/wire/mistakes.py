"""What is wrong with a line or a body, in words for who sent it: the field first, then what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from flux.errors import BadJson, BadRequest, FluxError, TooLarge

#: A line's fields without looking into them: what is wrong with one must not hide the others.
_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: In JSON a backslash is only ever in a string, and escapes when an even number of others is before it.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_PROBLEM = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?$", re.DOTALL)
_NAMED_FIELD = re.compile(r"(?:missing required|contains unknown) field `(.*)`")
_TOO_LARGE = re.compile(r"of length <= (\d+)")
_CHOICES = re.compile(r"Literal\[(.*?)\]")
_PYTHON = re.compile(r"\b(?:str|int|float|bool)\b")
_JSON = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def holds_nul(line: bytes) -> bool:
    """Whether a string on a line of JSON has U+0000 in it, which no store could keep."""
    return _NUL.search(line) is not None


def is_blank(line: bytes) -> bool:
    """Whether there is nothing on a line but what cannot be seen: it counts as an empty one."""
    return not line.strip(b" \t\r")


def look_into(line: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a line or a body as they were written.

    :raises flux.errors.BadJson: there are none to be told apart.
    """
    try:
        return _envelope.decode(line)
    except msgspec.ValidationError:
        raise BadJson("not an object") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        raise BadJson(json_error(problem)) from None


def json_error(problem: Exception) -> str:
    """Why something is no JSON."""
    if isinstance(problem, UnicodeDecodeError):
        return "not UTF-8"
    return "nested too deeply" if isinstance(problem, RecursionError) else str(problem)


def nul_error(fields: dict[str, msgspec.Raw]) -> FluxError:
    """Of these fields one holds U+0000."""
    where = next((f"{name}: " for name, value in fields.items() if holds_nul(bytes(value))), "")
    return BadRequest(f"{where}U+0000 is not allowed in a string")


def field_error(problem: str, kind: Any, whole: str = "line") -> FluxError:
    """Turn msgspec's sentence into ours, the field first.

    :param kind: the struct that was to be read.
    :param whole: what is wrong where no field is.
    """
    named = _NAMED_FIELD.search(problem)
    if named:
        return BadRequest(f"{named.group(1)}: missing")
    match = _PROBLEM.match(problem)
    where = (match.group("where") if match else None) or whole
    what = (match.group("what") if match else problem).replace("`", "")
    longest = _TOO_LARGE.search(what)
    if longest:
        return TooLarge(f"{where}: at most {longest.group(1)} {'entries' if 'array' in what else 'characters'}")
    return BadRequest(f"{where}: {_expected(where, kind) or _in_json(what)}")


def choices(kind: Any) -> str:
    """The words that a field of this type takes; empty where it takes others, too."""
    found = _CHOICES.search(str(kind))
    return found.group(1).replace("'", "") if found else ""


def _expected(where: str, kind: Any) -> str:
    """What the field that begins ``where`` expects; empty where its type says it all."""
    name = re.split(r"[.\[]", where, maxsplit=1)[0]
    for field in msgspec.structs.fields(kind):
        if field.encode_name == name:
            words = choices(field.type)
            return f"expected one of {words}" if words else next(_told(field.type), "")
    return ""


def _told(kind: Any) -> Iterator[str]:
    """What the parts of an annotation tell of wrong values (``wrong`` in the ``extra`` of their ``Meta``)."""
    for part in getattr(kind, "__metadata__", ()):
        if part.extra:
            yield part.extra["wrong"]
    for inner in get_args(kind):
        yield from _told(inner)


def _in_json(what: str) -> str:
    """msgspec's sentence in the words of JSON, and of ``help``."""
    if what.endswith("of length >= 1"):
        return "must not be empty"
    what = _PYTHON.sub(lambda word: _JSON[word.group()], what).replace(" | ", " or ")
    return what[:1].lower() + what[1:]
