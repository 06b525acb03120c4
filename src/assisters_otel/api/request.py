"""A request to the API: what is reported of it, and what an adapter can read of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

Place = tuple[str, int | None, str | None]


class ApiRequest(NamedTuple):
    """What is sent, as far as telemetry may know it.

    Attributes:
        method: As sent, ``POST``.
        path: As sent, without the query.
        template: The documented path, ``/v1/models/{id}``, or None.
        address: The host's name.
        port: The port, or None where it is 443.
    """

    method: str
    path: str
    template: str | None
    address: str
    port: int | None

    @property
    def place(self) -> Place:
        """What metrics say of it: address, port and template."""
        return self.address, self.port, self.template


class RequestReader(Protocol):
    """What an adapter can say of a request. Asked only where it matters."""

    def url(self) -> str:
        """Give the whole URL."""

    def header(self, name: str) -> str | None:
        """Give a header by its name in lower case, or None."""

    def headers(self) -> Iterable[tuple[str, str]]:
        """Return all headers, in their order."""

    def body(self) -> bytes | None:
        """Give the body, or None if it cannot be read without consuming it."""

    def redirected(self, location: str) -> str:
        """Give the whole URL that a redirect leads to."""
