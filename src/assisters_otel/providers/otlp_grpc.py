"""OTLP over gRPC: how each request of the exporter ends, and whether the exporter uses TLS.

The exporter drops the response, in which the receiver tells what it has rejected. It has no public
way to see the response: its private ``_stub`` and ``_client`` are wrapped here. Tried with 1.44 and
1.45; `test_what_a_receiver_rejects_is_not_taken` fails first. Where a version has neither, the
reason of a failure is read from the exporter's log records.
"""

from __future__ import annotations

from os import environ
from typing import TYPE_CHECKING, Any

from assisters_otel.providers import tls_files
from assisters_otel.providers.failures import NotTakenError, failure_of_grpc, rejection

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.providers.failures import ExportFailure


class _WatchedStub:
    """A client's stub which reports each answer."""

    def __init__(self, stub: Any, report: Callable[[ExportFailure | None], object]) -> None:
        self._stub = stub
        self._report = report

    def Export(self, **arguments: Any) -> Any:  # noqa: N802 - gRPC's name
        """Send one request.

        Raises:
            NotTakenError: The receiver has rejected a part of it.
            grpc.RpcError: The receiver has answered with an error, or not at all.
        """
        try:
            response = self._stub.Export(**arguments)
        except Exception as error:
            code: Any = getattr(error, "code", None)
            if callable(code):  # it is an RpcError
                details = getattr(error, "details", str)
                self._report(failure_of_grpc(code().name, str(details())))
            raise
        failure = rejection(response)
        self._report(failure)
        if failure is not None:
            raise NotTakenError(failure)
        return response


def watch(exporter: Any, report: Callable[[ExportFailure | None], object]) -> None:
    """Report each answer that *exporter* gets, and let it fail if a part is rejected.

    Args:
        exporter: One of OTLP over gRPC.
        report: Gets why a request was not taken, or None if it was.
    """
    stub_class: Callable[[Any], Any] | None = getattr(exporter, "_stub", None)
    if stub_class is not None and getattr(exporter, "_client", None) is not None:
        # The exporter makes a new client after a lost connection.
        exporter._stub = lambda channel: _WatchedStub(stub_class(channel), report)  # noqa: SLF001 - see above
        exporter._client = _WatchedStub(exporter._client, report)  # noqa: SLF001 - see above


def settings(signal: str, endpoint: str) -> dict[str, object]:
    """Return the exporter's argument ``insecure``.

    Without it the exporter reads the variables for TLS files also where it uses no TLS, and fails
    for a file that is not there.

    Args:
        signal: ``traces``.
        endpoint: Where the exporter sends to.

    Raises:
        ValueError: TLS is used, and one of its files cannot be. The exporter reads them once. The
            message names the variable and the file.
    """
    own, common = tls_files.variables(signal, "INSECURE")
    value = environ.get(own, environ.get(common))
    is_insecure = endpoint.startswith("http://") if value is None else value.lower() == "true"
    is_insecure = is_insecure and not endpoint.startswith("https://")
    fault = None if is_insecure else next(tls_files.faults(signal, by_grpc=True), None)
    if fault is not None:
        raise ValueError(fault.text)
    return {"insecure": is_insecure}
