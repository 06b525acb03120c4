"""Receivers of the signals that a runtime offers, connected when it is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from assisters_otel.clients.import_hooks import imports
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


class Receiver(NamedTuple):
    """What receives one signal, for example ``("celery.signals", "task_prerun", start)``.

    Attributes:
        module: Where the signal is, whose import is waited for.
        signal: Its name there. A version of the runtime that has none is left alone.
        receive: Called with what the signal tells, by name. It must not raise.
    """

    module: str
    signal: str
    receive: Callable[..., None]


class Receivers:
    """A set of receivers, connected when their modules are imported, now or later."""

    def __init__(self, receivers: tuple[Receiver, ...]) -> None:
        """Remember them.

        Args:
            receivers: What to connect.
        """
        self._receivers = receivers
        self._connected: list[tuple[Any, Callable[..., None]]] = []

    def put_in(self) -> None:
        """Connect to what is imported, and to the rest when it is. Imports nothing."""
        for module in dict.fromkeys(receiver.module for receiver in self._receivers):
            imports.watch(module, self)

    def take_out(self) -> None:
        """Disconnect all of them, and wait for no import any more."""
        imports.forget(self)
        connected, self._connected = self._connected, []
        for signal, receive in connected:
            _disconnect(signal, receive)

    def imported(self, module: ModuleType, name: str) -> None:
        """Connect to the signals of *module*, which has just been imported as *name*."""
        for receiver in self._receivers:
            if receiver.module == name and hasattr(module, receiver.signal):
                self._connect(getattr(module, receiver.signal), receiver.receive)

    @fail_safe
    def _connect(self, signal: Any, receive: Callable[..., None]) -> None:
        signal.connect(receive, weak=False)
        self._connected.append((signal, receive))


@fail_safe
def _disconnect(signal: Any, receive: Callable[..., None]) -> None:
    signal.disconnect(receive)
