"""The documents say what the code does: every request, event and error has its row, and every row exists."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

import flux.gate.api
import flux.gate.classic  # noqa: F401 - they fill the table
from flux import errors
from flux.gate.channel import STATUS as HTTP_STATUS
from flux.gate.routes import TABLE
from flux.model import events, messages
from flux.model.base import Event
from flux.wire.requests import CHAT
from flux.wire.status import STATUS

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")


def section(number: int) -> str:
    """One numbered section of the protocol page."""
    match = re.search(rf"^## {number}\. .*?(?=^## |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match.group()


def rows(text: str, heading: str) -> dict[str, str]:
    """First column (without decoration) -> second column, of the table whose first heading is ``heading``."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[re.sub(r"`|\*.*\*", "", cells[0]).strip()] = cells[1]
    return found


def documented_fields(cell: str) -> set[str]:
    cell = re.sub(r"\([^)]*\)", lambda match: match.group() if " or `" in match.group() else "", cell)
    return {name.rstrip("?") for name in re.findall(r"`([a-z_]+\??)`", cell)}


def fields_of(request: type) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(request)} - {"ref"}


def test_every_chat_request_has_a_row_with_its_fields() -> None:
    table = rows(section(2), "request")
    assert set(table) == set(CHAT.requests)
    for name, request in CHAT.requests.items():
        assert documented_fields(table[name]) == fields_of(request), name


def test_every_status_request_has_a_row_with_its_fields() -> None:
    table = rows(section(4), "request")
    assert set(table) == set(STATUS.requests)
    for name, request in STATUS.requests.items():
        assert documented_fields(table[name]) == fields_of(request), name


def test_every_event_has_a_row() -> None:
    modules = (events.__name__, messages.__name__)
    tags = {str(event.__struct_config__.tag) for event in Event.__subclasses__() if event.__module__ in modules}
    assert set(rows(section(2), "type")) == tags


def test_every_error_has_a_row_with_its_code() -> None:
    tree = {
        error.name: error.code for error in errors.FluxError.__subclasses__() if error.__module__ == errors.__name__
    }
    documented = {cell.strip("`"): int(code) for code, cell in rows(section(5), "code").items()}
    assert documented == tree


def test_every_relative_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_room_has_a_row_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table = " ".join(rows(text, "room")).replace(",", " ").split()
    package = ROOT / "flux"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    missing = (rooms | modules) - set(table) - {"log"}
    assert not missing


def test_every_request_of_the_gate_has_a_row_with_its_fields() -> None:
    text = (ROOT / "docs" / "http.md").read_text("utf-8")
    ours, classics = re.split(r"^## Classic front ends$", text, flags=re.MULTILINE)
    table = {**rows(ours, "request"), **rows(classics, "request")}
    assert set(table) == {f"{each.method} {each.path}" for each in TABLE}
    for each in TABLE:
        cell = re.sub(r"\([^)]*\)", "", table[f"{each.method} {each.path}"])
        named = {name.rstrip("?") for name in re.findall(r"`([a-z_]+\??)`", cell)}
        fields = {field.encode_name for field in msgspec.structs.fields(each.body)} if each.body else set()
        assert named == fields, each.path


def test_every_error_of_the_gate_stands_at_its_status() -> None:
    text = (ROOT / "docs" / "http.md").read_text("utf-8")
    for status, cell in rows(text, "status").items():
        for name in re.findall(r"`([a-z_]+)`", cell):
            assert HTTP_STATUS.get(name) == int(status) or (name, status) in {
                ("bad_request", status) for status in ("405", "408", "415")
            }
    assert set(HTTP_STATUS) <= set(re.findall(r"`([a-z_]+)`", text))
