"""The OpenAPI 3.1 document, made from the table of endpoints and the structs they name."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

import flux
from flux.errors import BadRequest, FluxError
from flux.gate.channel import STATUS, GateRequest
from flux.gate.routes import ALWAYS, TABLE, WITH_TOKEN, Endpoint
from flux.wire.http import Problem

_REF = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The description of all endpoints in the table."""
    types = [kind for each in TABLE for kind in (each.body, each.reply) if kind is not None]
    _, schemas = msgspec.json.schema_components([*types, Problem], ref_template=_REF)
    for kind in types:
        schemas[kind.__name__].update(getattr(kind, "schema", {}))
    paths: dict[str, dict[str, Any]] = {}
    for each in TABLE:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flux gate",
            "version": flux.__version__,
            "description": "Registering, logging in, and the way to a chat server. Chatting is another protocol.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "ID:TOKEN",
                    "description": "`id` and `token` of a login, with a colon between them.",
                }
            },
        },
    }


def _operation(each: Endpoint) -> dict[str, Any]:
    summary, _, rest = each.about.partition("\n\n")
    operation: dict[str, Any] = {
        "operationId": each.action.__name__,
        "summary": _words(summary),
        "tags": ["classic" if each.classic else "accounts"],
        "responses": {str(each.status): _response(each.reply), **({} if each.classic else _errors(each))},
    }
    if rest:
        operation["description"] = _words(rest)
    if each.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(each.body)}
    if each.token:
        operation["security"] = [{"token": []}]
    operation["responses"]["default"] = {
        "description": "What the request broke: another method, a limit of size or time, the gate itself.",
        "content": _content(Problem),
    }
    return operation


def _errors(each: Endpoint) -> dict[str, Any]:
    by_status: dict[int, list[type[FluxError]]] = {}
    for error in (*each.errors, *ALWAYS, *(WITH_TOKEN if each.token else ())):
        by_status.setdefault(STATUS[error.name], []).append(error)
    return {
        str(status): {
            "description": " ".join(f"`{error.name}`: {_words(error.__doc__)}" for error in errors),
            "content": _content(Problem),
        }
        for status, errors in sorted(by_status.items())
    }


def _words(text: str | None) -> str:
    """A docstring as one paragraph of Markdown."""
    return " ".join((text or "").split()).replace("``", "`")


def _response(kind: type[Any]) -> dict[str, Any]:
    return {"description": _words(kind.__doc__), "content": _content(kind)}


def _content(kind: type[Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}}


class Document(Resource):
    """``GET /openapi.json``."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._body = msgspec.json.format(msgspec.json.encode(document()), indent=2)

    def render(self, request: GateRequest) -> int:
        """The document."""
        if request.method in (b"GET", b"HEAD"):
            request.answer(200, self._body)
        else:
            request.setHeader(b"Allow", b"GET, HEAD")
            request.fail(BadRequest("this path takes GET"), 405)
        return NOT_DONE_YET
