"""The two records that flow from a client to the sinks. Pure.

An *attempt* is one HTTP request, as the semantic conventions say: a call that is
retried twice has three.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from assisters_otel import catalog, names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assisters_otel.envelope import Envelope

FAILED: Final = 400
"""The first status that is a failure."""


class Request(NamedTuple):
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


class Outcome(NamedTuple):
    """How an attempt ended: with an answer, without one, or cancelled by its caller.

    Attributes:
        request: What was sent.
        duration_s: From sending to the response headers, or to the failure.
        status: The HTTP status, or None without an answer.
        headers: What `envelope.pick` took from the response.
        envelope: The error in the body, or None.
        exception: The name of the exception in place of an answer, or None.
        cancelled: The caller gave up; that is no failure.
        transient: Without an answer: whether it was the connection, the peer or the
            clock that failed, so a retry can help, and not a mistake on our side.
    """

    request: Request
    duration_s: float
    status: int | None = None
    headers: Mapping[bytes, bytes] = MappingProxyType({})
    envelope: Envelope | None = None
    exception: str | None = None
    cancelled: bool = False
    transient: bool = False

    @property
    def failed(self) -> bool:
        """Whether it got a status of 400 or above, or no answer; not if it was cancelled."""
        if self.status is None:
            return not self.cancelled
        return self.status >= FAILED

    @property
    def code(self) -> str | None:
        """The envelope's code, as sent, or None."""
        return self.envelope.code if self.envelope else None

    @property
    def error_type(self) -> str | None:
        """The envelope's type; else the status; else the exception's name. None on success."""
        if self.cancelled:
            return names.CANCELLED
        if not self.failed:
            return None
        if self.envelope and self.envelope.type:
            return self.envelope.type
        return self.exception if self.status is None else str(self.status)

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed if it is sent again soon."""
        if self.status is None:
            return self.transient
        type_ = self.envelope.type if self.envelope else None
        return catalog.retryable(self.code, type_, self.status)
