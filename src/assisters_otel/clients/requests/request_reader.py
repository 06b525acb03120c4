"""Reads a request of requests, for the recognition of resends."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import urljoin

from assisters_otel.api.request import CREDENTIALS


class RequestsRequestReader:
    """Reads the properties by which a resend is recognised."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def url(self) -> str:
        """Return the whole URL."""
        return str(self._raw.url).partition("#")[0]

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case, or None."""
        value = self._raw.headers.get(name)
        return None if value is None else _text(value)

    def credentials(self) -> dict[str, str]:
        """Return the headers of `CREDENTIALS` that the request has, by their names."""
        found = ((name, self.header(name)) for name in CREDENTIALS)
        return {name: value for name, value in found if value is not None}

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers, in their order."""
        return [(_text(name), _text(value)) for name, value in self._raw.headers.items()]

    def body(self) -> bytes | None:
        """Return the body, or None if it cannot be read without consuming it."""
        body = self._raw.body
        if body is None:
            return b""
        if isinstance(body, str):
            return body.encode("utf-8", "surrogatepass")
        return body if isinstance(body, bytes) else None

    def redirect_target(self, location: str) -> str:
        """Return the whole URL that a redirect leads to; empty if there is none."""
        with suppress(ValueError):
            return str(urljoin(self._raw.url, location)).partition("#")[0]
        return ""


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
