"""Reads a request of httpx, for the recognition of resends."""

from __future__ import annotations

from typing import Any

from assisters_otel.clients.classes import CLIENTS, is_a


class HttpxRequestReader:
    """Reads the properties by which a resend is recognised."""

    __slots__ = ("_headers", "_raw")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._headers: dict[bytes, bytes] | None = None

    def url(self) -> str:
        """Return the whole URL."""
        return str(self._raw.url).partition("#")[0]

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case, or None."""
        # httpx's own look-up would determine the encoding of all headers first.
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
        # No other stream can be read more than once.
        return b"".join(stream) if is_a(stream, CLIENTS, "ByteStream") else None

    def redirect_target(self, location: str) -> str:
        """Return the whole URL that a redirect leads to; empty if there is none."""
        # A location that is no URL leads nowhere. The client itself raises for it.
        try:
            return str(self._raw.url.join(location)).partition("#")[0]
        except Exception as error:
            if isinstance(error, ValueError) or is_a(error, CLIENTS, "InvalidURL"):
                return ""
            raise
