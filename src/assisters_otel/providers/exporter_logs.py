"""What exporters log of a failed export, heard in place of the log."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from enum import Enum
from functools import partial
from socket import gaierror
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from assisters_otel.api import redaction
from assisters_otel.own_export import here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import CodeType

LOGGERS: Final = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.grpc.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
    "urllib3.connectionpool",
)
"""Who speaks of a failed export. A logger's filter sees that logger's own records only,
so each is named. What the encoder says of an attribute that cannot be encoded is not
here: that is the application's mistake, and the rest of the batch arrives.

Source: the SDK and its exporters, 1.44 and 1.45."""

_NO_ANSWER: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""The gRPC codes for a collector that is not there, or that hangs."""


class ExportFailure(NamedTuple):
    """Why an export failed.

    Attributes:
        reason: ``ConnectionError: Connection refused``. It holds no URL, no header and
            no text of an exception: those may quote a key.
        answered: Whether somebody answered. If not, the place is lost to all signals.
    """

    reason: str
    answered: bool


_UNTRUSTED: Final = ExportFailure(
    "the receiver's certificate is not trusted. Write the path of its CA's PEM file into "
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    answered=False,
)


class NotTaken(Exception):  # noqa: N818 - the fact, which is no error of ours
    """The receiver has not taken what was exported, or will never be asked.

    Its text is for people, and is shown as it is: no key may be in it.

    Attributes:
        answered: As a `ExportFailure` has it.
    """

    def __init__(self, text: str, *, answered: bool = True) -> None:
        super().__init__(text)
        self.answered = answered


def raise_rejected(answer: object) -> None:
    """Raise if an OTLP receiver's answer says that it has rejected something.

    Args:
        answer: An ``Export…ServiceResponse``. Anything else rejects nothing. A message without a
            number rejects nothing either: it is advice. Source: OTLP, "Partial Success".

    Raises:
        NotTaken: So it says.
    """
    told = getattr(answer, "partial_success", None)
    rejected = getattr(told, "rejected_spans", 0) or getattr(told, "rejected_data_points", 0)
    if rejected > 0:
        message = redaction.clean(getattr(told, "error_message", ""))
        raise NotTaken(f"{rejected} rejected{f': {message}' if message else ''}")


def failure_in_log_record(record: logging.LogRecord) -> ExportFailure | None:
    """Read why an export fails from what an exporter logs.

    Args:
        record: A record of one of `LOGGERS`. Its text is not used where it may quote a
            URL or a header.

    Returns:
        The hint, or None if the record does not say.
    """
    arguments = record.args if isinstance(record.args, tuple) else ()
    for value in arguments:
        if isinstance(value, Exception):
            hint = failure_of(value)
            # Below ERROR the exporter tries again, which it does for connections only.
            return hint if record.levelno >= logging.ERROR else hint._replace(answered=False)
        if isinstance(value, Enum):
            is_untrusted = any("CERTIFICATE_VERIFY_FAILED" in str(one) for one in arguments)
            hint = ExportFailure(value.name, answered=value.name not in _NO_ANSWER)
            return _UNTRUSTED if is_untrusted else hint
        if isinstance(value, int) and 100 <= value < 600:  # noqa: PLR2004 - what an HTTP status is
            return ExportFailure(f"HTTP {value}", answered=True)
    if arguments and all(isinstance(value, int) for value in arguments):
        return ExportFailure(record.getMessage(), answered=True)  # a batch that is too large
    if arguments and str(record.msg).startswith("Transient error"):
        reason = "".join(c for c in str(arguments[0]) if c.isprintable())
        return ExportFailure(reason[:80], answered=True)
    return None


def failure_of(error: BaseException) -> ExportFailure:
    """Name an exception and the system's reason for it, ``ConnectionError: Connection refused``.

    The exception's own text is left out: requests quotes URLs and headers in it.
    """
    for told in (error, error.__cause__):
        if isinstance(told, NotTaken):
            return ExportFailure(str(told), told.answered)
    cause = error
    for _ in range(10):  # a chain may be a ring
        cause = cause.__cause__ or cause.__context__ or cause
    reason = cause.strerror if isinstance(cause, OSError) else None
    return ExportFailure(
        f"{type(error).__name__}: {reason}" if reason else type(error).__name__,
        answered=not isinstance(cause, (ConnectionError, TimeoutError, gaierror)),
    )


@contextmanager
def capture_exporter_logs(hear: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Let *hear* have what is logged here, in place of the log."""
    token = here.set(hear)
    try:
        yield
    finally:
        here.reset(token)


class ExporterLogFilter(logging.Filter):
    """Keeps what our exporters say from the log; what others say passes.

    Args:
        code: Of the function that calls them. The SDK logs an exporter's exception when
            nobody listens any more, and this function's frame is in it.
    """

    def __init__(self, code: CodeType) -> None:
        super().__init__()
        self._code = code

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass unless it comes from an export of ours."""
        hear = here.get()
        if hear is not None:
            hear(record)
            return False
        trace = record.exc_info[2] if record.exc_info else None
        return all(frame.f_code is not self._code for frame, _ in walk_tb(trace))

    def install(self) -> None:
        """Stand in front of the filters that are there.

        The SDK's own one drops what looks like its last record: it must not see ours. Nor does
        the app's factory of records make what is only heard: it may raise, and an exporter that
        it raises into neither sends again nor goes on.
        """
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.filters.insert(0, self)
            vars(logger).setdefault("makeRecord", partial(_make_record, logger))

    def remove(self) -> None:
        """Take it out again. A second time does nothing."""
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.removeFilter(self)
            is_ours = getattr(vars(logger).get("makeRecord"), "func", None) is _make_record
            if is_ours and not any(isinstance(one, ExporterLogFilter) for one in logger.filters):
                vars(logger).pop("makeRecord", None)


def _make_record(  # noqa: PLR0913, PLR0917 - the signature of logging
    logger: logging.Logger,
    name: str,
    level: int,
    fn: str,
    lno: int,
    msg: object,
    args: tuple[object, ...],
    exc_info: Any,
    func: str | None = None,
    extra: Mapping[str, object] | None = None,
    sinfo: str | None = None,
) -> logging.LogRecord:
    """Make a record by the app's factory, but for one that is only heard."""
    if here.get() is None:
        made = type(logger).makeRecord
        return made(logger, name, level, fn, lno, msg, args, exc_info, func, extra, sinfo)
    return logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
