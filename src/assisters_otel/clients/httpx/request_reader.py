"""Reads headers of httpx, and a request for the recognition of resends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.headers import with_lower_names
from assisters_otel.api.request import CREDENTIALS
from assisters_otel.clients.classes import CLIENTS, is_a

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_OWN_LENGTH: Final = 3
_CREDENTIALS: Final = {name.encode(): name for name in CREDENTIALS}


def lower_headers(headers: Any) -> Sequence[tuple[bytes, bytes, bytes]]:
    """Return the names of headers as sent and in lower case, and the values.

    Args:
        headers: The client's own headers. They hold that list, which saves making another (``200,
            alone``). It is private: read with httpx 0.28 and httpx2 2.16. Without it the public
            list is read (test_headers_are_the_same_without_httpx_s_own_list).
    """
    try:
        own: Sequence[tuple[bytes, bytes, bytes]] = headers._list  # noqa: SLF001 - see above
    except AttributeError:
        own = ()
    return own if own and len(own[0]) == _OWN_LENGTH else with_lower_names(headers.raw)


def route_key(method: str, url: Any) -> Hashable:
    """Return a key that requests of one method and URL have in common.

    It has the URL's parts as httpx keeps them. The URL itself is hashed as a text, which it would
    write anew (``200, alone``). They are private: read with httpx 0.28 and httpx2 2.16.
    """
    try:
        return method, url._uri_reference  # noqa: SLF001 - see above
    except AttributeError:
        return method, url


class HttpxRequestReader:
    """Reads the properties by which a resend is recognised."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def url(self) -> str:
        """Return the whole URL."""
        return str(self._raw.url).partition("#")[0]

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case, or None."""
        # httpx's own look-up would determine the encoding of all headers first.
        wanted = name.encode()
        for _, lower, value in lower_headers(self._raw.headers):
            if lower == wanted:
                return value.decode("latin-1")
        return None

    def credentials(self) -> dict[str, str]:
        """Return the headers of `CREDENTIALS` that the request has, by their names."""
        return {
            _CREDENTIALS[lower]: value.decode("latin-1")
            for _, lower, value in lower_headers(self._raw.headers)
            if lower in _CREDENTIALS
        }

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
