"""The web client's files, read once and served from memory.

Browsers ask each time whether a file has changed (its ETag says so), since without a
build step names do not tell one version from another.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources import files

from twisted.web.http import CACHED
from twisted.web.resource import Resource
from twisted.web.server import Request

from flux.net.http import Page

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {connect}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What the page may do: nothing that is not in these files, and no string becomes markup or a program."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


class StaticFile(Page):
    """One file."""

    def __init__(self, name: str, body: bytes, connect: str) -> None:
        super().__init__()
        kind = name[name.rindex(".") :]
        self._body = body
        self._packed = gzip.compress(body, 9, mtime=0)
        self._etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'.encode()
        self._headers = [
            (name.encode(), value.encode())
            for name, value in {
                **HEADERS,
                "Content-Type": TYPES[kind],
                "Content-Security-Policy": POLICY.format(connect=connect),
                "ETag": self._etag.decode(),
            }.items()
        ]

    def render_GET(self, request: Request) -> bytes:
        """The file, or that it has not changed."""
        for name, value in self._headers:
            request.setHeader(name, value)
        if request.setETag(self._etag) is CACHED:
            return b""
        accepted = request.getHeader("accept-encoding") or ""
        if "gzip" in accepted:
            request.setHeader("Content-Encoding", "gzip")
            return self._packed
        return self._body


def add_client(root: Resource, connect: str = "'self'") -> None:
    """Put the web client's files under ``root``, the page itself at its top.

    :param connect: where the page may connect to, as in a Content-Security-Policy: other hosts than the one that
        served it, if chat servers have WebSocket addresses of their own.
    """
    for file in files("flux.web").joinpath("static").iterdir():
        if file.name[file.name.rindex(".") :] in TYPES:
            page = StaticFile(file.name, file.read_bytes(), connect)
            root.putChild(file.name.encode(), page)
            if file.name == "index.html":
                root.putChild(b"", page)
