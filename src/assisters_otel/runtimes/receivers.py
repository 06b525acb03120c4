"""Receivers of a runtime's signals, connected when the app imports the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assisters_otel.clients.import_hooks import imports
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


class Receiver(Record):
    """A receiver of one signal, for example ``("task_prerun", start)``.

    Attributes:
        signal: The signal's name in its module. If a version has no such signal, nothing happens.
        receive: The function to call with the signal's arguments, by name. It must not raise.
    """

    signal: str
    receive: Callable[..., None]


class Receivers:
    """A set of receivers. Each is connected when its module is imported, now or later."""

    def __init__(self, receivers: Mapping[str, Callable[[], tuple[Receiver, ...]]]) -> None:
        """Create the set without connecting it.

        Args:
            receivers: By module, a function that returns the receivers to connect. It is called
                when the module has been imported.
        """
        self._receivers = receivers
        self._connected: list[tuple[Any, Callable[..., None]]] = []

    def apply(self) -> None:
        """Connect the receivers of each module that is imported, now or later. Imports none."""
        for module in self._receivers:
            imports.watch(module, self)

    @fail_safe
    def undo(self) -> None:
        """Disconnect all receivers, and stop waiting for imports."""
        imports.forget(self)
        connected, self._connected = self._connected, []
        for signal, receive in connected:
            _disconnect(signal, receive)

    @fail_safe
    def imported(self, module: ModuleType, name: str) -> None:
        """Connect the receivers of *module*, which has just been imported as *name*."""
        for receiver in self._receivers[name]():
            if hasattr(module, receiver.signal):
                self._connect(getattr(module, receiver.signal), receiver.receive)

    @fail_safe
    def _connect(self, signal: Any, receive: Callable[..., None]) -> None:
        signal.connect(receive, weak=False)
        self._connected.append((signal, receive))


@fail_safe
def _disconnect(signal: Any, receive: Callable[..., None]) -> None:
    signal.disconnect(receive)
