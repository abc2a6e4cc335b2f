"""The OpenAPI document: complete, what is served, and held against the running server by schemathesis."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import pytest_twisted
from gate_server import GateServer
from jsonschema_rs import validator_for
from twisted.internet.utils import getProcessOutputAndValue

from flux.gate.openapi import document
from flux.gate.routes import TABLE

#: What a schema cannot say: too long is a status of its own, and classic paths answer 200 to everything.
SCHEMATHESIS = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 413, 415]

[[operations]]
include-tag = "classic"
checks.negative_data_rejection.enabled = false
"""


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    limits = (
        "codes_per_hour", "codes_per_hour_address", "logins_per_minute", "logins_per_minute_address",
        "registrations_per_hour_address",
    )  # fmt: skip
    server = await GateServer(tmp_path, *(f"limits.{name}=0" for name in limits)).start()
    yield server
    await server.stop()


async def test_the_document_is_what_is_served(server: GateServer) -> None:
    reply = await server.ask("GET", "/openapi.json")
    assert reply.json == document()
    assert reply.json["openapi"].startswith("3.1")


def test_every_endpoint_is_described() -> None:
    described = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert described == {(each.method, each.path) for each in TABLE}
    for item in document()["paths"].values():
        for operation in item.values():
            assert operation["summary"].endswith((".", "missing"))
            assert "``" not in json.dumps(operation)
    names = [operation["operationId"] for item in document()["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


def test_the_schemas_are_schemas() -> None:
    components = {"components": document()["components"]}
    found = components["components"]["schemas"]
    for schema in found.values():
        validator_for({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, **components})
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document())):
        assert reference in found


@pytest.mark.slow
async def test_the_server_keeps_what_the_document_says(server: GateServer, tmp_path: Path) -> None:
    """Examples, what lies on and beside every limit, random bodies; with a token, with a wrong one and without."""
    # The first account is the one that guesses at ids find; with the password of the examples they log in there.
    await server.register("the first")
    await server.register("ann")
    token = await server.log_in("ann")
    config = tmp_path / "schemathesis.toml"
    config.write_text(SCHEMATHESIS)
    report = tmp_path / "report"
    arguments = [
        *("-m", "schemathesis.cli", "--config-file", str(config), "run", f"{server.url}/openapi.json"),
        *("--header", f"Authorization: {token['Authorization']}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--seed", "1", "--continue-on-failure"),
        # It would make the token void that the others are tried with.
        *("--exclude-path", "/v1/server"),
        *("--request-timeout", "20", "--suppress-health-check", "all", "--no-color"),
        *("--report", "ndjson", "--report-dir", str(report)),
    ]
    output, errors, status = await getProcessOutputAndValue(
        sys.executable, arguments, env=os.environ, path=str(tmp_path)
    )
    text = output.decode() + errors.decode()
    assert status == 0, text[-5000:]
    count = re.search(r"(\d+) generated, \1 passed", text)
    assert count, text[-2000:]
    assert int(count[1]) > 200
    assert "GET /v1/profile" not in text
