"""The package's logger. What the app plugs into logging may raise: that costs the line alone."""

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
    """Return the list that gets each warning meanwhile, and what is worse.

    It gets them here and not from a handler: so a level, a filter or ``logging.disable`` of the app
    keeps none away.

    Args:
        elsewhere: Whether the app's handlers get what they would get without it, or nothing.
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
    """Return True if a line of a level would be written."""
    return _is_captured(level) or _logger.isEnabledFor(level)


def _is_captured(level: int) -> bool:
    return level >= logging.WARNING and bool(_captures)


def debug(message: str, *args: object) -> None:
    """Write a line at DEBUG: *message* with a place, ``%s``, for each of *args*."""
    _write(logging.DEBUG, message, args, {})


def info(message: str, *args: object) -> None:
    """Write a line at INFO, as `debug` does."""
    _write(logging.INFO, message, args, {})


def warning(message: str, *args: object, fields: Mapping[str, object] | None = None) -> None:
    """Write a line at WARNING, as `debug` does.

    Args:
        message: With a place, ``%s``, for each of *args*.
        args: For those.
        fields: For machines, as `extra` of `logging`. What the app's own factory of records has
            set already stays as it is.
    """
    _write(logging.WARNING, message, args, fields or {})


def _write(
    level: int, message: str, args: tuple[object, ...], fields: Mapping[str, object]
) -> None:
    is_written = not _only_captured and _logger.isEnabledFor(level)
    if not is_written and not _is_captured(level):
        return
    caller = sys._getframe(2)  # noqa: SLF001 - as `logging` finds it
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
    except Exception as error:  # noqa: BLE001 - there is nobody left to tell
        theirs = foreign_exceptions.of(error)
        if theirs is not None:
            raise theirs from None
