"""Reads a request of requests'."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import urljoin


class _Message:
    """What resends are known by."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def url(self) -> str:
        return str(self._raw.url).partition("#")[0]

    def header(self, name: str) -> str | None:
        value = self._raw.headers.get(name)
        return value.decode("latin-1") if isinstance(value, bytes) else value

    def body(self) -> bytes | None:
        body = self._raw.body
        if body is None:
            return b""
        if isinstance(body, str):
            return body.encode("utf-8", "surrogatepass")
        return body if isinstance(body, bytes) else None

    def redirect_target(self, location: str) -> str:
        with suppress(ValueError):
            return str(urljoin(self._raw.url, location)).partition("#")[0]
        return ""
