"""Decides which requests go to the API.

It is the first step of each request of the app's, also of those for other hosts. So it is cheap: a
look-up by the host's name decides for these, and nothing else of the request is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assisters_otel import own_export
from assisters_otel.api import endpoints
from assisters_otel.api.request import ApiRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from assisters_otel.config import Config
    from assisters_otel.hosts import Host

HTTPS_PORT = 443
HTTP_PORT = 80


class WatchedHosts:
    """The hosts that are watched.

    Attributes:
        by_name: The hosts of a name, in lower case. They differ in port and path.
    """

    def __init__(self, config: Config, before_request: Callable[[], object]) -> None:
        """Watch the hosts of the settings.

        Args:
            config: The settings.
            before_request: A function that is called before each request that is watched.
        """
        self.by_name: Mapping[str, tuple[Host, ...]] = config.hosts_by_name()
        self._before_request = before_request

    def watch(self, config: Config) -> None:
        """Watch the hosts of the settings from now on."""
        self.by_name = config.hosts_by_name()

    def stop(self) -> None:
        """Watch no host any more."""
        self.by_name = {}

    def may_record(self) -> bool:
        """Return False inside the library's own export to a watched host.

        Otherwise it runs what precedes each request to a watched host.
        """
        if own_export.log_listener.get() is not None:
            return False
        self._before_request()
        return True

    def request(
        self, hosts: tuple[Host, ...], method: str, port: int, target: bytes
    ) -> ApiRequest | None:
        """Return the record of a request, if its port and path are watched.

        Args:
            hosts: The watched hosts of its host's name.
            method: The method, as sent.
            port: The port that it goes to.
            target: The path and query, as sent.

        Returns:
            The record, or None if the request is not watched.
        """
        path = target.partition(b"?")[0].decode("latin-1")
        for host in hosts:
            if host.covers(port, path):
                break
        else:
            return None
        if not self.may_record():
            return None
        return ApiRequest(method, path, endpoints.template(path), host.name, port)
