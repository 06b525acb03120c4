"""A request to the API: the record that is reported, and the reader that an adapter provides.

`ApiRequest` holds what may leave the process. A `RequestReader` also reads the URL's query, the
headers and the body, which stay in memory: they identify a resend, and only as a digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

AUTHORIZATION: Final = "authorization"
CREDENTIALS: Final = (AUTHORIZATION, "x-api-key", "api-key")
"""The headers that may hold a key of the API's or of a gateway's, in lower case."""


class ApiRequest(Record):
    """A request, without its query, headers and body, which telemetry must not contain.

    Attributes:
        method: The method as sent, ``POST``.
        path: The path as sent, without the query.
        template: The documented path, ``/v1/models/{id}``, or None.
        address: The host's name.
        port: The port.
        clean_url: The whole URL if it has nothing that telemetry must not show. None if it has, or
            if that is not known.
    """

    method: str
    path: str
    template: str | None
    address: str
    port: int
    clean_url: str | None = None


class RequestReader(Protocol):
    """Reads parts of a client's own request. Implemented for each client.

    Its methods are called only if their result is needed, because some are expensive. None of them
    consumes the request's body.
    """

    def url(self) -> str:
        """Return the whole URL."""

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None. *name* is in lower case."""

    def credentials(self) -> dict[str, str]:
        """Return the headers of `CREDENTIALS` that the request has, by their names."""

    def headers(self) -> Iterable[tuple[str, str]]:
        """Return all headers, in their order."""

    def body(self) -> bytes | None:
        """Return the body, or None if it cannot be read without consuming it."""

    def redirect_target(self, location: str) -> str:
        """Return the whole URL of a redirect's target. *location* is the header as sent."""
