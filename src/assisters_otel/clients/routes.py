"""Remembers what all requests of one method and one URL have in common.

An app sends to a few URLs again and again. So a route keeps the record of the request, the name and
the attributes of its span, and whether its URL holds a secret. Without that a request costs a fifth
more (``200, alone`` in tests/bench).

A URL with a query, a user or a key is not remembered: it is different each time, or secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Hashable

    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.hosts import Host

_MAX_ROUTES: Final = 256
"""The routes of one client. At this number all are forgotten: the app has no few URLs."""

_MAX_URL: Final = 512
"""The characters of a URL that is remembered. No documented one is longer."""


class SpanStart(Record):
    """The name and the attributes with which the spans of one method and one URL start."""

    name: str
    attributes: dict[str, AttributeValue]


class Route(Record):
    """The parts that all requests of one method and one URL have in common.

    Attributes:
        hosts: The watched hosts of its host's name. A route holds as long as these are watched.
        request: The record of the request.
        url: The whole URL, as the client writes it.
        span_start: The name and the attributes of its span, or None if it has none.
    """

    hosts: tuple[Host, ...]
    request: ApiRequest
    url: str
    span_start: SpanStart | None

    @property
    def is_repeatable(self) -> bool:
        """True if the URL may be remembered: it is short, and nothing of it is one user's."""
        url = self.request.clean_url
        return url is not None and len(url) <= _MAX_URL and not any(mark in url for mark in "?@")


class Routes:
    """The routes of one client, by a key that has the method and the URL."""

    def __init__(self) -> None:
        """Start without a route."""
        self._by_key: dict[Hashable, Route] = {}

    def find(self, key: Hashable, hosts: tuple[Host, ...]) -> Route | None:
        """Return the route of a key, or None if there is none for these hosts."""
        found = self._by_key.get(key)
        return found if found is not None and found.hosts is hosts else None

    def keep(self, key: Hashable, route: Route) -> None:
        """Remember a route, if it may be."""
        if route.is_repeatable:
            if len(self._by_key) >= _MAX_ROUTES:
                self._by_key.clear()
            self._by_key[key] = route
