"""A port's requests as a table: from a line to a typed request, or to a precise error.

The quick path is one decode of a tagged union.  Only when that fails is the line
looked at again, loosely, to say what is wrong with which field, and to find the
``ref`` that the error must carry back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, Union

import msgspec
from msgspec import UNSET, UnsetType

from flux.errors import BadJson, BadRequest, FluxError, UnknownType
from flux.wire.fields import Ref
from flux.wire.mistakes import choices, field_error, holds_nul, json_error, look_into, nul_error

BACKSLASH = 0x5C
#: From here on two names are alike enough to be taken for one another: "sned" and "send", but not "join" and "login".
LIKE = 0.7
#: For somebody who types.
_LISTS = '{"type":"help"} lists all'


class Request(msgspec.Struct, tag_field="type", gc=False, kw_only=True, omit_defaults=True):
    """Base of all requests; the docstring and ``answer`` of each are its help text."""

    ref: Ref | UnsetType = UNSET

    #: The reply's fields, for people; empty where there is no reply.
    answer: ClassVar[str] = ""
    #: True where only an ``error`` is ever answered.
    no_reply: ClassVar[bool] = False

    @classmethod
    def type(cls) -> str:
        """The ``type`` that names this request on the wire."""
        return str(cls.__struct_config__.tag)


class Reply(msgspec.Struct, tag_field="type", gc=False, kw_only=True):
    """Base of all replies; ``ref`` is the request's."""

    ref: Ref | UnsetType = UNSET


class ErrorReply(Reply, tag="error", kw_only=True):
    """What a failed request is answered with."""

    request: str | UnsetType = UNSET
    code: int
    name: str
    detail: str
    retry_after: int | UnsetType = UNSET


class RequestHelp(msgspec.Struct, omit_defaults=True):
    """One request, explained for somebody at a terminal."""

    type: str
    about: str
    fields: dict[str, str]
    answer: str = ""


class Rejected(Exception):
    """A line that is no valid request.

    :ivar error: what to answer.
    :ivar request: the request's ``type`` where one could be read.
    :ivar ref: its ``ref`` where a valid one could be read.
    """

    def __init__(self, error: FluxError, request: str | UnsetType = UNSET, ref: Ref | UnsetType = UNSET) -> None:
        super().__init__(str(error))
        self.error = error
        self.request = request
        self.ref = ref


class Catalogue:
    """The requests one port understands.

    :param requests: their struct classes, in the order ``help`` lists them.
    """

    def __init__(self, requests: Sequence[type[Request]]) -> None:
        self.requests = {request.type(): request for request in requests}
        self._help: dict[str, msgspec.Raw] = {}
        self._decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Union[tuple(requests)])  # noqa: UP007

    def decode(self, line: bytes) -> Request:
        """Turn a line into a request.

        :raises Rejected: with the error that the protocol names for what is wrong.
        """
        # A backslash is rare. Looked for by its number: for bytes, Python makes and drops an exception first.
        if BACKSLASH in line and holds_nul(line):
            raise self._explain(line)
        try:
            if not line.isascii():
                # In a field that is skipped nobody else would notice.
                line.decode()
            return self._decoder.decode(line)
        except msgspec.ValidationError as problem:
            raise self._explain(line, str(problem)) from None
        except (msgspec.DecodeError, ValueError, RecursionError) as problem:
            raise _no_json(json_error(problem)) from None

    def help(self, wanted: str = "") -> msgspec.Raw:
        """Describe all requests, or the one named ``wanted``: a list of :class:`RequestHelp` in JSON.

        :raises flux.errors.UnknownType: there is no such request.
        """
        if not self._help:
            # Looking into the classes takes milliseconds, and everybody may ask.
            described = {name: describe(request) for name, request in self.requests.items()}
            self._help = {name: _encoded([each]) for name, each in described.items()}
            self._help[""] = _encoded(list(described.values()))
        if wanted not in self._help:
            raise UnknownType(self._unknown(wanted))
        return self._help[wanted]

    def _explain(self, line: bytes, problem: str = "") -> Rejected:
        """Say precisely why a line is no request.

        :param problem: msgspec's sentence about a field; empty where a string holds U+0000.
        """
        try:
            fields = look_into(line)
        except BadJson as error:
            return _no_json(error.detail)
        # Decoded to the end, so it is JSON.
        kind = _optional(fields.get("type"), str)
        ref: Ref | UnsetType = _optional(fields.get("ref"), Ref)
        if kind is UNSET:
            missing = fields.get("type", b"null") == b"null"
            what = "missing" if missing else "expected string"
            return Rejected(BadRequest(f"type: {what}; {_LISTS}"), UNSET, ref)
        if kind not in self.requests:
            return Rejected(UnknownType(self._unknown(kind)), UNSET, ref)
        return Rejected(field_error(problem, self.requests[kind]) if problem else nul_error(fields), kind, ref)

    def _unknown(self, kind: str) -> str:
        # At most a third of a millisecond, and too many bad lines end the connection.
        near = get_close_matches(kind[:50], self.requests, 1, LIKE)
        hint = f'did you mean "{near[0]}"? {_LISTS}' if near else 'try {"type":"help"}'
        return f"{kind[:50]!r} is not a request of this port; {hint}"


def _no_json(problem: str) -> Rejected:
    return Rejected(BadJson(f"{problem}; a request is one JSON object a line: {_LISTS}"))


def encode_error(error: FluxError, request: str | UnsetType, ref: Ref | UnsetType) -> ErrorReply:
    """The reply that tells a client about ``error``."""
    return ErrorReply(
        ref=ref,
        request=request,
        code=error.code,
        name=error.name,
        detail=error.detail,
        retry_after=getattr(error, "retry_after", UNSET),
    )


def describe(request: type[Request]) -> RequestHelp:
    """The help entry of one request."""
    fields = {}
    for field in msgspec.structs.fields(request):
        if field.encode_name == "ref":
            continue
        fields[field.encode_name] = _type_words(field.type) + ("" if field.required else ", optional")
    about = " ".join((request.__doc__ or "").split())
    answer = "" if request.no_reply else f"{request.type()}.ok {request.answer}".rstrip()
    return RequestHelp(type=request.type(), about=about, fields=fields, answer=answer)


def _encoded(described: list[RequestHelp]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(described))


def _type_words(kind: Any) -> str:
    words = []
    for name in ("str", "int", "bool", "list"):
        if name in str(kind):
            words.append({"str": "string", "int": "integer", "bool": "true or false", "list": "list"}[name])
            break
    limits = re.search(r"max_length=(\d+)", str(kind))
    if choices(kind):
        return f"one of {choices(kind)}"
    return (words[0] if words else "value") + (f" of at most {limits.group(1)}" if limits else "")


def _optional(value: msgspec.Raw | None, kind: Any) -> Any:
    """A field's value, UNSET where there is none or it is of another type."""
    try:
        return UNSET if value is None else msgspec.json.decode(value, type=kind)
    except msgspec.ValidationError:
        return UNSET
