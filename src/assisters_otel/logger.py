"""The library's logger.

The app can plug filters, handlers and a record factory into `logging`, and these may raise. Such an
exception costs the line alone, so it does not reach the app's call. But an exception that only
passed through, such as a job's time limit, is raised again (`foreign_exceptions`).
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from assisters_otel import foreign_exceptions
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_logger: Final = logging.getLogger(names.SCOPE)
_captures: Final[list[list[logging.LogRecord]]] = []
_only_captured: Final[list[list[logging.LogRecord]]] = []


@contextmanager
def captured(*, elsewhere: bool = True) -> Iterator[list[logging.LogRecord]]:
    """Return a list to which each line from WARNING on is added meanwhile.

    The lines are added here and not by a handler. So no level, no filter and no ``logging.disable``
    of the app keeps a line away (test_log_lines_are_seen_however_the_app_has_silenced_them).

    Args:
        elsewhere: False to keep the lines from the app's handlers meanwhile.
    """
    lines: list[logging.LogRecord] = []
    chosen = [_captures] if elsewhere else [_captures, _only_captured]
    for captures in chosen:
        captures.append(lines)
    try:
        yield lines
    finally:
        for captures in chosen:
            # By identity: two lists that hold the same lines are equal.
            captures[:] = [one for one in captures if one is not lines]


def is_enabled_for(level: int) -> bool:
    """Return True if a line of *level* would be written."""
    return _is_captured(level) or _logger.isEnabledFor(level)


def _is_captured(level: int) -> bool:
    return level >= logging.WARNING and bool(_captures)


def debug(message: str, *args: object) -> None:
    """Write a line at DEBUG: *message*, with a ``%s`` for each of *args*."""
    _write(logging.DEBUG, message, args, {})


def info(message: str, *args: object) -> None:
    """Write a line at INFO, as `debug` does."""
    _write(logging.INFO, message, args, {})


def warning(message: str, *args: object, fields: Mapping[str, object] | None = None) -> None:
    """Write a line at WARNING, as `debug` does.

    Args:
        message: The text, with a ``%s`` for each of *args*.
        args: The values for *message*.
        fields: Attributes of the record, as `extra` of `logging`. An attribute that the app's own
            record factory has set already keeps its value.
    """
    _write(logging.WARNING, message, args, fields or {})


def _write(
    level: int, message: str, args: tuple[object, ...], fields: Mapping[str, object]
) -> None:
    is_written = not _only_captured and _logger.isEnabledFor(level)
    if not is_written and not _is_captured(level):
        return
    caller = sys._getframe(2)  # noqa: SLF001 - as `logging` finds the caller
    where = caller.f_code.co_filename, caller.f_lineno
    try:
        record = _logger.makeRecord(
            _logger.name, level, *where, message, args, None, caller.f_code.co_name
        )
        for name, value in fields.items():
            vars(record).setdefault(name, value)
        if _is_captured(level):
            for lines in _captures:
                lines.append(record)
        if is_written:
            _logger.handle(record)
    except Exception as error:  # noqa: BLE001 - a log line that fails cannot be logged
        foreign = foreign_exceptions.of(error)
        if foreign is not None:
            raise foreign from None
