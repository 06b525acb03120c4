"""Reads headers of httpx, and a request for the recognition of resends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.headers import with_lower_names
from assisters_otel.api.request import CREDENTIALS
from assisters_otel.clients.classes import CLIENTS, is_a

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

_OWN_LENGTH: Final = 3
_CREDENTIALS: Final = tuple((name.encode(), name) for name in CREDENTIALS)


def lower_headers(headers: Any) -> Sequence[tuple[bytes, bytes, bytes]]:
    """Return the names of headers as sent and in lower case, and the values.

    Args:
        headers: The client's own headers.
    """
    return _own_list(headers) or with_lower_names(headers.raw)


def _own_list(headers: Any) -> list[tuple[bytes, bytes, bytes]]:
    """Return the list that the client's headers hold, which saves making another (``200, alone``).

    It is private: read with httpx 0.28 and httpx2 2.16. An empty list stands for one that is not as
    it was there. Then the public one is read (test_headers_are_the_same_without_httpx_s_own_list).
    """
    try:
        own: list[tuple[bytes, bytes, bytes]] = headers._list  # noqa: SLF001 - see above
    except AttributeError:
        return []
    return own if own and len(own[0]) == _OWN_LENGTH else []


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

    __slots__ = ("_by_name", "_raw")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._by_name: dict[bytes, bytes] | None = None

    def __eq__(self, other: object) -> bool:
        """Return True if both read the same object."""
        return isinstance(other, HttpxRequestReader) and other._raw is self._raw

    def __hash__(self) -> int:
        """Return a hash of the object that is read."""
        return id(self._raw)

    def url(self) -> str:
        """Return the whole URL."""
        return str(self._raw.url).partition("#")[0]

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case, or None."""
        found = (self._by_name or self._first_values()).get(name.encode())
        return None if found is None else found.decode("latin-1")

    def credentials(self) -> dict[str, str]:
        """Return the headers of `CREDENTIALS` that the request has, by their names."""
        values, found = self._by_name or self._first_values(), {}
        for lower, name in _CREDENTIALS:
            value = values.get(lower)
            if value is not None:
                found[name] = value.decode("latin-1")
        return found

    def _first_values(self) -> dict[bytes, bytes]:
        """Return the first value of each header, by its name in lower case."""
        # httpx's own look-up would determine the encoding of all headers first. They are read once.
        sent = reversed(lower_headers(self._raw.headers))  # the first of a name stays
        self._by_name = values = {lower: value for _, lower, value in sent}
        return values

    def copy_with(self, headers: Mapping[str, str]) -> Any:
        """Return a copy of the request with more headers. It shares everything else.

        The app's request does not get them: a redirect would carry them to another host.

        Args:
            headers: The headers, which replace those of the same names. They are ASCII.
        """
        raw = self._raw
        try:
            copy = object.__new__(type(raw))
            copy.__dict__.update(raw.__dict__)
            # `Headers.copy` is not used: it settles the encoding of the app's headers for good.
            copy.headers = type(raw.headers)(raw.headers)
        except (TypeError, AttributeError):  # a proxy around a request, or a class with slots
            return raw
        own, values = _own_list(copy.headers), self._by_name or self._first_values()
        for name, value in headers.items():
            sent_as = name.encode()
            lower = sent_as.lower()
            if own and lower not in values:
                # Setting it would search all headers for the name first (``200, alone``).
                own.append((sent_as, lower, value.encode()))
            else:
                copy.headers[name] = value  # `update` reads all headers first
        return copy

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
