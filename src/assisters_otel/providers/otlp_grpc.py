"""OTLP over gRPC: whether the receiver has taken what was exported.

The exporter throws the answer away, in which the receiver says what it has rejected. It has no
public way to see it: its private ``_stub`` and ``_client`` are used here. Tried with 1.44 and
1.45; `test_what_a_receiver_rejects_is_not_taken` fails first.
"""

from __future__ import annotations

from os import environ
from typing import TYPE_CHECKING, Any

from assisters_otel.providers import tls_files
from assisters_otel.providers.exporter_logs import raise_rejected

if TYPE_CHECKING:
    from collections.abc import Callable


class _Watching:
    """A client's stub, which raises if what was sent has been rejected."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def Export(self, **arguments: Any) -> Any:  # noqa: N802 - gRPC's name
        """Send.

        Raises:
            NotTaken: The receiver has rejected something.
        """
        answer = self._stub.Export(**arguments)
        raise_rejected(answer)
        return answer


def watch(exporter: Any) -> None:
    """Let *exporter* fail if the receiver rejects something."""
    make: Callable[[Any], Any] | None = getattr(exporter, "_stub", None)
    if make is not None and getattr(exporter, "_client", None) is not None:
        # The exporter makes a new client after a lost connection.
        exporter._stub = lambda channel: _Watching(make(channel))  # noqa: SLF001 - see above
        exporter._client = _Watching(exporter._client)  # noqa: SLF001 - see above


def settings(signal: str, endpoint: str) -> dict[str, object]:
    """Return what else the exporter is made with: whether it is to use TLS.

    It is told, since it would read a file for TLS that it does not use, and fail for it.

    Args:
        signal: ``traces``.
        endpoint: Where the exporter sends to.

    Raises:
        ValueError: A file that it reads, once and for all, cannot be used. The message names the
            variable and the file.
    """
    own, common = tls_files.variables(signal, "INSECURE")
    said = environ.get(own, environ.get(common))
    is_insecure = endpoint.startswith("http://") if said is None else said.lower() == "true"
    is_insecure = is_insecure and not endpoint.startswith("https://")
    fault = None if is_insecure else next(tls_files.faults(signal, by_grpc=True), None)
    if fault is not None:
        raise ValueError(fault.text)
    return {"insecure": is_insecure}
