"""The web client's files, as a site serves them."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from flux.net.http import Page
from flux.net.web import StaticFile, static_files


class _ClientFile(Page):
    """One file."""

    isLeaf = True

    def __init__(self, file: StaticFile) -> None:
        super().__init__()
        self._file = file

    def render_GET(self, request: Request) -> int:
        self._file.send(request)
        return NOT_DONE_YET


def client_files(connect: str = "'self'") -> dict[bytes, Resource]:
    """The web client's files by their path; the page itself is at ``/``.

    :param connect: where the page may connect to, as in a Content-Security-Policy: other hosts than the one that
        served it, if chat servers have WebSocket addresses of their own.
    """
    return {path: _ClientFile(file) for path, file in static_files("flux.web", connect).items()}
