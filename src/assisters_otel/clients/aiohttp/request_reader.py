"""Reads a request of aiohttp, for the recognition of resends."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from assisters_otel.api.request import CREDENTIALS


class AiohttpRequestReader:
    """Reads the properties by which a resend is recognised.

    It holds no reference to the request, which refers to its response.
    """

    __slots__ = ("_body", "_headers", "_url")

    def __init__(self, raw: Any) -> None:
        self._url = raw.url
        self._headers = raw.headers
        self._body = raw.body

    def url(self) -> str:
        """Return the whole URL."""
        return str(self._url)

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case, or None."""
        value: str | None = self._headers.get(name)
        return value

    def credentials(self) -> dict[str, str]:
        """Return the headers of `CREDENTIALS` that the request has, by their names."""
        found = ((name, self.header(name)) for name in CREDENTIALS)
        return {name: value for name, value in found if value is not None}

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers, in their order."""
        return list(self._headers.items())

    def body(self) -> bytes | None:
        """Return the body, or None if it cannot be read without consuming it."""
        # A payload of bytes can be read again. Any other payload can be read once only.
        held = getattr(self._body, "_value", self._body)
        return bytes(held) if isinstance(held, (bytes, bytearray)) else None

    def redirect_target(self, location: str) -> str:
        """Return the whole URL that a redirect leads to; empty if there is none."""
        with suppress(ValueError):
            return str(self._url.join(type(self._url)(location))).partition("#")[0]
        return ""
