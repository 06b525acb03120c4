"""Decides which requests go to the API, and may be recorded.

It is the first step of each request of the app's, also of those for other hosts. So it is cheap: a
look-up by the host's name decides for these, and nothing else of the request is read.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from assisters_otel import own_export
from assisters_otel.api import endpoints
from assisters_otel.api.request import ApiRequest
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from assisters_otel.config import Config
    from assisters_otel.hosts import Host
    from assisters_otel.recording.deferred import Deferred

HTTPS_PORT = 443
HTTP_PORT = 80


class WatchedHosts:
    """The hosts that are watched.

    Attributes:
        by_name: The hosts of a name, in lower case. They differ in port and path.
    """

    def __init__(self, config: Config, deferred: Deferred) -> None:
        """Watch the hosts of the settings.

        Args:
            config: The settings.
            deferred: The steps that came up inside the garbage collector. They are run before each
                request.
        """
        self.by_name: Mapping[str, tuple[Host, ...]] = config.hosts_by_name()
        self._deferred = deferred
        self.forked(None)

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Start anew in a forked child, where other threads' locks stay held for ever.

        Args:
            before_next: A function that is called once before the child's first request, or None.
        """
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self._has_started = False
        self._before_first: list[Callable[[], object]] = [self._deferred.watch_collector]
        if before_next is not None:
            self._before_first.append(before_next)

    def watch(self, config: Config) -> None:
        """Watch the hosts of the settings from now on: other ones, or the same after `stop`."""
        self.by_name = config.hosts_by_name()
        if self._has_started:
            self._deferred.watch_collector()

    def stop(self) -> None:
        """Watch no host any more."""
        self.by_name = {}

    def may_record(self) -> bool:
        """Return False inside the library's own export to a watched host.

        Otherwise it runs what precedes each request to a watched host.
        """
        if own_export.log_listener.get() is not None:
            return False
        if not self._has_started:
            self._start_once()
        if self._deferred.steps:
            self._deferred.run_all(0)
        return True

    def _start_once(self) -> None:
        with self._lock:  # another thread waits until the steps have run
            # Removed first: a signal handler may send a request meanwhile.
            steps, self._before_first = self._before_first, []
            for step in steps:
                _run(step)
            if steps:
                self._has_started = True

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


@fail_safe
def _run(step: Callable[[], object]) -> None:
    step()
