"""Reads a request of httpx's."""

from __future__ import annotations

from typing import Any

from assisters_otel.clients.classes import CLIENTS, is_a


class HttpxRequestReader:
    """Reads what a resend is known by."""

    __slots__ = ("_headers", "_raw")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._headers: dict[bytes, bytes] | None = None

    def url(self) -> str:
        """Return the whole URL."""
        return str(self._raw.url).partition("#")[0]

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case, or None."""
        # Their own look-up finds out the encoding of all of them first.
        headers = self._headers
        if headers is None:
            headers = {name.lower(): value for name, value in reversed(self._raw.headers.raw)}
            self._headers = headers
        value = headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers, in their order."""
        return [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self._raw.headers.raw
        ]

    def body(self) -> bytes | None:
        """Return the body, or None if it cannot be read without consuming it."""
        stream = self._raw.stream
        # The only one that can be read again, and any number of times.
        return b"".join(stream) if is_a(stream, CLIENTS, "ByteStream") else None

    def redirect_target(self, location: str) -> str:
        """Return the whole URL that a redirect leads to; empty if there is none."""
        # What is no URL is no redirect; the client says so in its own way.
        try:
            return str(self._raw.url.join(location)).partition("#")[0]
        except Exception as error:
            if isinstance(error, ValueError) or is_a(error, CLIENTS, "InvalidURL"):
                return ""
            raise
