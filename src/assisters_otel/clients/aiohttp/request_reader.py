"""Reads a request of aiohttp's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any


class _Message:
    """What resends are known by. Not the request itself: that one knows its response."""

    __slots__ = ("_body", "_headers", "_url")

    def __init__(self, raw: Any) -> None:
        self._url = raw.url
        self._headers = raw.headers
        self._body = raw.body

    def url(self) -> str:
        return str(self._url)

    def header(self, name: str) -> str | None:
        value: str | None = self._headers.get(name)
        return value

    def body(self) -> bytes | None:
        # Of a payload; one that holds no bytes can be read once.
        held = getattr(self._body, "_value", self._body)
        return bytes(held) if isinstance(held, (bytes, bytearray)) else None

    def redirect_target(self, location: str) -> str:
        with suppress(ValueError):
            return str(self._url.join(type(self._url)(location))).partition("#")[0]
        return ""
