"""The log records of exporters: kept from the app's log, and read where no transport is watched.

The OTLP exporters log each failed request, about seven lines for one outage. In place of them the
library logs one warning (`delivery`). So the records are filtered out of the exporters' loggers,
but only those of the library's own exports: the app's exporters log as ever.

* `capture_exporter_logs` marks the code inside it as an export of the library.
* `ExporterLogFilter` hands each record of such an export to the listener, and drops it.
* `failure_in_log_record` reads a reason out of a record. The transports of OTLP report failures
  themselves (`otlp_http`, `otlp_grpc`), so this is for what fails before anything is sent, and for
  exporters of other packages.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from enum import Enum
from functools import partial
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.own_export import log_listener
from assisters_otel.providers.failures import ExportFailure, failure_of, failure_of_grpc

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
"""The loggers that report a failed export. Each is named, since a logger's filter sees the records
of that logger alone. The loggers of the encoders are left out: they report an attribute that cannot
be encoded, which is the app's mistake, and the rest of the batch arrives.

Source: the SDK and its exporters, 1.44 and 1.45."""


def failure_in_log_record(record: logging.LogRecord) -> ExportFailure | None:
    """Read why an export fails from what an exporter logs.

    Args:
        record: A record of one of `LOGGERS`, at WARNING or above. Its text is used only if all its
            arguments are numbers: any other argument may quote a URL or a header.

    Returns:
        The failure, or None if the record names none.
    """
    arguments = record.args if isinstance(record.args, tuple) else ()
    if arguments and all(isinstance(value, int) for value in arguments):
        return ExportFailure(record.getMessage(), was_answered=True)  # a batch that is too large
    for value in arguments:
        if isinstance(value, Exception):
            return failure_of(value)
        if isinstance(value, Enum):
            return failure_of_grpc(value.name, " ".join(map(str, arguments)))
        if isinstance(value, int) and 100 <= value < 600:  # noqa: PLR2004 - what an HTTP status is
            return ExportFailure(f"HTTP {value}", was_answered=True)
    return None


@contextmanager
def capture_exporter_logs(listener: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Pass what the exporters' loggers get inside to *listener*, in place of the log.

    It gets the records at WARNING and above, whatever levels the app has set.
    """
    token = log_listener.set(listener)
    try:
        yield
    finally:
        log_listener.reset(token)


class ExporterLogFilter(logging.Filter):
    """Drops the records of the library's exports. The records of the app's exporters pass.

    Args:
        code: Of the function that calls the library's exporters. The SDK logs an exporter's
            exception outside `capture_exporter_logs`; such a record is known by this function's
            frame in its traceback.
    """

    def __init__(self, code: CodeType) -> None:
        super().__init__()
        self._code = code

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if a record is not of an export of the library."""
        listener = log_listener.get()
        if listener is not None:
            if record.levelno >= logging.WARNING:
                listener(record)
            return False
        trace = record.exc_info[2] if record.exc_info else None
        return all(frame.f_code is not self._code for frame, _ in walk_tb(trace))

    def install(self) -> None:
        """Add this filter before the others of each logger, and replace two of its methods.

        The SDK has a filter that drops a record which is like the one before. It must not compare
        the app's records with the library's, so it comes later.

        The methods do their own only inside an export of the library. An app that sets a high level
        has no filter called, and the library would not learn that the queue is full
        (test_a_full_queue_is_told_once). The app's log record factory may raise, which would end
        the export that logs. So it makes no record that is dropped anyway.
        """
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.filters.insert(0, self)
            for method, function in _replaced(name).items():
                vars(logger).setdefault(method, partial(function, logger))

    def remove(self) -> None:
        """Undo `install`. A second call does nothing."""
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.removeFilter(self)
            if any(isinstance(one, ExporterLogFilter) for one in logger.filters):
                continue
            for method, function in _replaced(name).items():
                if getattr(vars(logger).get(method), "func", None) is function:
                    del vars(logger)[method]


def _is_enabled_for(logger: logging.Logger, level: int) -> bool:
    """Return True if a level is logged: by the app's settings, or WARNING inside an export."""
    is_export = level >= logging.WARNING and log_listener.get() is not None
    return is_export or type(logger).isEnabledFor(logger, level)


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
    """Return a record: by the app's factory, or a plain one inside an export of the library."""
    if log_listener.get() is None:
        make_record = type(logger).makeRecord
        return make_record(logger, name, level, fn, lno, msg, args, exc_info, func, extra, sinfo)
    return logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)


def _replaced(name: str) -> dict[str, Callable[..., object]]:
    """Return the methods that are replaced in the logger called *name*.

    urllib3 asks its logger with each request of the app's, and warns of nothing that the exporters
    do not report. So the app's requests do not pay for it.
    """
    replaced: dict[str, Callable[..., object]] = {"makeRecord": _make_record}
    if name.startswith("opentelemetry."):
        replaced["isEnabledFor"] = _is_enabled_for
    return replaced
