"""Why an export failed, as a value that a warning may quote."""

from __future__ import annotations

from socket import gaierror
from typing import Final

from assisters_otel.api import redaction
from assisters_otel.records import Record

MAX_CAUSES: Final = 10
"""How many causes of an exception are followed. A chain of causes may be a ring."""


class ExportFailure(Record):
    """Why an export failed.

    Attributes:
        reason: A noun phrase, ``HTTP 404`` or ``ConnectionError: Connection refused``. It holds no
            URL with a password or query, no header and no text of an exception: those may quote a
            key.
        was_answered: True if a server answered. If none did, no signal reaches that server.
    """

    reason: str
    was_answered: bool


NO_ANSWER: Final = ExportFailure("no answer in time", was_answered=False)
UNEXPLAINED: Final = ExportFailure("no reason is given", was_answered=True)
UNTRUSTED: Final = ExportFailure(
    "the receiver's certificate is not trusted. Write the path of its CA's PEM file into "
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    was_answered=False,
)
_UNANSWERED_CODES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""The gRPC codes for a server that does not listen, or does not answer in time."""


class NotTakenError(Exception):
    """The receiver did not take what was exported, and the exporter would count it as taken.

    Attributes:
        failure: Why.
    """

    def __init__(self, failure: ExportFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def failure_of(error: BaseException) -> ExportFailure:
    """Return an exception's class and the operating system's reason for it.

    The text of the exception is left out. requests quotes URLs and headers in it.
    """
    for one in (error, error.__cause__):
        if isinstance(one, NotTakenError):
            return one.failure
    cause = error
    for _ in range(MAX_CAUSES):
        cause = cause.__cause__ or cause.__context__ or cause
    reason = cause.strerror if isinstance(cause, OSError) else None
    return ExportFailure(
        f"{type(error).__name__}: {reason}" if reason else type(error).__name__,
        was_answered=not isinstance(cause, (ConnectionError, TimeoutError, gaierror)),
    )


def failure_of_grpc(code: str, details: str) -> ExportFailure:
    """Return the failure that a gRPC status stands for.

    Args:
        code: ``UNAVAILABLE``.
        details: Its text, which is searched and not shown.
    """
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return UNTRUSTED
    return ExportFailure(code, was_answered=code not in _UNANSWERED_CODES)


def rejection(response: object) -> ExportFailure | None:
    """Return what an OTLP receiver rejects of a request that it has answered with success.

    Args:
        response: An ``Export…ServiceResponse``. Anything else rejects nothing. A message without a
            number is advice, and rejects nothing either. Source: OTLP, "Partial Success".
    """
    partial = getattr(response, "partial_success", None)
    number = getattr(partial, "rejected_spans", 0) or getattr(partial, "rejected_data_points", 0)
    if number <= 0:
        return None
    message = redaction.clean(getattr(partial, "error_message", ""))
    reason = f"{number} rejected{f': {message}' if message else ''}"
    return ExportFailure(reason, was_answered=True)
